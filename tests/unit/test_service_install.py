from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from device.bundle import MANIFEST_NAME, encode_manifest, open_bundle
from device.bundle import __main__ as bundle_command
from device.bundle.store import BundleStore
from device.core.errors import MissingDependencyError, ServiceError
from device.core.programs import NOT_THERE, Done
from device.service.commands import Commands
from device.service.install import Installation, Service
from device.service.layout import Layout
from device.service.release import linked
from device.service.wheels import find_wheels, unpack

from .bundles import make_profile, write_bundle
from .wheels import write_wheel

PROJECT = Path(__file__).parents[2]

OK = Done(0, "", "")


class FakeBoard:
    """A board's programs, which work on a folder as systemctl and useradd would; `device.bundle` is itself, in this process."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.calls: list[str] = []
        self.running: set[str] = set()
        self.users: set[str] = set()
        self.refused_bundle = False
        self.refused_actions: set[str] = set()
        self.is_older = False
        self.forgets = ""
        self.never_ready: Callable[[str], bool] = lambda _: False
        self.missing: set[str] = set()

    def __call__(self, argv: Sequence[str], _timeout_s: float) -> Done:
        program = Path(argv[0]).name
        self.calls.append(" ".join([program, *argv[1:]]))
        if program in self.missing:
            return Done(NOT_THERE, "", "No such file or directory")
        answer: Done = getattr(self, f"_{program}", lambda *_: OK)(*argv[1:])
        return answer

    def _getent(self, _database: str, name: str) -> Done:
        return Done(0 if name in self.users else 2, "", "")

    def _useradd(self, *arguments: str) -> Done:
        self.users.add(arguments[-1])
        return OK

    def _userdel(self, name: str) -> Done:
        self.users.discard(name)
        return OK

    def _journalctl(self, *_: str) -> Done:
        return Done(0, "starting\nerror: v4l2:/dev/video0: is not there\nFailed with result 'exit-code'\n", "")

    def _systemctl(self, action: str, *arguments: str) -> Done:
        units = [name for name in arguments if name.startswith("ghostwatt@")]
        for unit in units:
            link = self._layout.units / "multi-user.target.wants" / unit
            if action == "enable":
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to("../ghostwatt@.service")
            elif action == "disable":
                link.unlink(missing_ok=True)
                self.running.discard(unit)
            elif action == "restart":
                self.running.discard(unit)
                if self.never_ready(unit):
                    return Done(1, "", f"Job for {unit} failed because the control process exited with error code.\n")
                self.running.add(unit)
        return OK

    def _python(self, *arguments: str) -> Done:
        if "device.bundle" not in arguments:
            return OK
        if self.refused_bundle or arguments[7] in self.refused_actions:
            return Done(33, "", "error: it: scores differ\n")
        if self.is_older and "install" in arguments and "--json" in arguments:
            return Done(
                2, "", "usage: python -m device.bundle\npython -m device.bundle: error: unrecognized arguments: --json\n"
            )
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            bundle_command.main(list(arguments[3:]))
        return Done(0, out.getvalue().replace(f'"{self.forgets}":', '"of another release":'), "")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    root = tmp_path / "board"
    (root / "etc").mkdir(parents=True)
    (root / "etc/group").write_text("root:x:0:\nvideo:x:44:\ni2c:x:45:\n")
    return Layout(root)


@pytest.fixture
def board(layout: Layout) -> FakeBoard:
    return FakeBoard(layout)


@pytest.fixture
def service(layout: Layout, board: FakeBoard) -> Service:
    return Service(layout, Commands(board), lambda _: None)


def wheels(folder: Path, content: bytes = b"") -> Path:
    write_wheel(folder, "ghostwatt", {"device/__init__.py": content})
    return folder


def bundle(folder: Path, number: int, profile: str = "eco", uri: str = "v4l2:0") -> Path:
    """A bundle unlike those of other numbers."""
    root = folder / f"{profile}-{number}"
    made = make_profile(profile)
    manifest = write_bundle(root, msgspec.structs.replace(made, camera=msgspec.structs.replace(made.camera, uri=uri)))
    changed = msgspec.structs.replace(manifest, versions={"number": str(number)})
    (root / MANIFEST_NAME).write_bytes(encode_manifest(changed))
    return root


def name_of(bundle: Path | None) -> str:
    assert bundle is not None
    return open_bundle(bundle).manifest_sha256


def current(layout: Layout, profile: str = "eco") -> str:
    return (layout.state / f"profiles/{profile}/current").resolve().name


def prove_itself(layout: Layout, profile: str = "eco") -> None:
    """What a daemon does that runs well."""
    store = BundleStore(layout.state)
    store.start(profile)
    store.confirm(profile)


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    # These bundles' networks are none that a runtime takes.
    monkeypatch.setattr(bundle_command, "prove_by_self_test", lambda _: None)
    return Installation(wheels(tmp_path / "wheels"), bundle(tmp_path, 1))


def contents(folder: Path) -> dict[str, str]:
    """Every path with what is there."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes().hex()
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


# --- install ---


def test_installs_and_starts(service: Service, layout: Layout, board: FakeBoard, wanted: Installation) -> None:
    assert service.install(wanted) == ("eco",)
    assert board.running == {"ghostwatt@eco.service"}
    assert board.users == {"ghostwatt"}
    unit = layout.unit.read_text()
    assert "SupplementaryGroups=i2c video\n" in unit
    assert "/var/lib/ghostwatt --profile %i" in unit
    assert str(layout.root) not in unit
    launcher = layout.launcher
    assert launcher.stat().st_mode & 0o777 == 0o755
    assert "device.$command" in launcher.read_text()
    assert linked(layout.current) is not None


def test_what_is_laid_out_is_an_environment_that_runs(service: Service, layout: Layout, wanted: Installation) -> None:
    service.install(wanted)
    script = "import sys, device; print(device.__file__, sys.prefix)"
    release = layout.current.resolve()
    done = subprocess.run([release / "bin/python", "-I", "-c", script], capture_output=True, text=True, check=True)
    file, prefix = done.stdout.split()
    assert Path(file).is_relative_to(release), "it imports ours, and not what is around"
    assert Path(prefix) == release


def test_again_is_once(service: Service, layout: Layout, board: FakeBoard, wanted: Installation) -> None:
    service.install(wanted)
    before = contents(layout.root)
    assert service.install(wanted) == ("eco",)
    assert contents(layout.root) == before
    assert board.running == {"ghostwatt@eco.service"}
    assert sum(call.startswith("useradd") for call in board.calls) == 1


def test_an_upgrade_keeps_the_release_before_and_no_other(
    service: Service, layout: Layout, wanted: Installation, tmp_path: Path
) -> None:
    releases = []
    for number in range(3):
        service.install(Installation(wheels(tmp_path / str(number), b"n = %d" % number), wanted.bundle))
        releases.append(linked(layout.current))
    assert len(set(releases)) == 3
    assert linked(layout.previous) == releases[1]
    assert sorted(layout.releases.iterdir()) == sorted(release for release in releases[1:] if release)


def test_software_that_a_link_leads_to_stays_too(service: Service, layout: Layout, wanted: Installation) -> None:
    # Boards whose card is small have /opt on another disk.
    (layout.root / "disk").mkdir()
    (layout.root / "opt").symlink_to("disk")
    for _ in range(2):
        service.install(wanted)
        assert linked(layout.current) is not None
        assert not layout.previous.is_symlink()


def test_without_a_bundle_nothing_starts_and_later_those_that_run_are_tried(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    assert service.install(Installation(wanted.wheels)) == ()
    assert board.running == set()
    service.install(wanted)
    board.calls.clear()
    assert service.install(Installation(wheels(tmp_path / "new", b"new = 1"))) == ("eco",)
    assert any("device.bundle" in call and "verify" in call for call in board.calls)


def test_a_bundle_that_is_refused_changes_nothing(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    service.install(wanted)
    before = linked(layout.current)
    board.refused_bundle = True
    board.calls.clear()
    with pytest.raises(ServiceError, match="scores differ") as caught:
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    assert caught.value.reason == "refused"
    assert linked(layout.current) == before
    assert not [call for call in board.calls if call.startswith("systemctl") and "version" not in call]


def test_what_the_software_says_to_people_is_not_read(
    service: Service, layout: Layout, wanted: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_command, "_say", lambda flags, line: None if flags.json else print("and now for people"))
    assert service.install(wanted) == ("eco",)
    assert current(layout) == name_of(wanted.bundle)


@pytest.mark.parametrize("is_first", [True, False])
def test_software_that_is_older_than_its_installer_is_refused(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path, is_first: bool
) -> None:
    if not is_first:
        service.install(wanted)
    before = linked(layout.current)
    board.is_older = True
    with pytest.raises(ServiceError, match=r"doesn't understand its installer .*--json") as caught:
        service.install(Installation(wheels(tmp_path / "old", b"old = 1"), bundle(tmp_path, 2)))
    assert caught.value.reason == "older"
    assert linked(layout.current) == before
    assert board.running == (set() if is_first else {"ghostwatt@eco.service"})


@pytest.mark.parametrize("key", ["starts", "is_current"])
def test_software_that_says_less_than_its_installer_needs_is_refused(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path, key: str
) -> None:
    service.install(wanted)
    before = linked(layout.current)
    board.forgets = key
    with pytest.raises(ServiceError, match=f"gives no {key}") as caught:
        service.install(Installation(wheels(tmp_path / "old", b"old = 1")))
    assert caught.value.reason == "older"
    assert linked(layout.current) == before


def fail_other_software(board: FakeBoard, layout: Layout) -> Path | None:
    """From now on no software comes up but that which runs; gives its folder."""
    software = linked(layout.current)
    board.never_ready = lambda _: linked(layout.current) != software
    return software


def test_software_that_does_not_come_up_is_taken_back_with_its_bundle(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    service.install(wanted)
    before = fail_other_software(board, layout)
    with pytest.raises(ServiceError, match=r"v4l2:/dev/video0: is not there: what ran before runs again") as caught:
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    assert caught.value.reason == "not_ready"
    assert linked(layout.current) == before
    assert current(layout) == name_of(wanted.bundle)
    assert board.running == {"ghostwatt@eco.service"}
    assert service.enabled() == ("eco",)


def test_a_bundle_on_trial_comes_back_with_its_trial(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    oldest = bundle(tmp_path, 0)
    service.install(wanted._replace(bundle=oldest))
    prove_itself(layout)
    service.install(wanted)
    BundleStore(layout.state).start("eco")
    before, software = BundleStore(layout.state).entries(), linked(layout.current)
    assert [(entry.sha256, entry.on_trial, entry.starts) for entry in before if entry.is_current] == [
        (name_of(wanted.bundle), True, 1)
    ]
    board.never_ready = lambda _: linked(layout.current) != software
    with pytest.raises(ServiceError, match=r"v4l2:/dev/video0: is not there: what ran before runs again"):
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    after = [entry for entry in BundleStore(layout.state).entries() if entry.sha256 != name_of(tmp_path / "eco-2")]
    assert after == list(before)
    assert BundleStore(layout.state).rollback("eco").manifest_sha256 == name_of(oldest)
    assert linked(layout.current) == software
    assert board.running == {"ghostwatt@eco.service"}


def test_the_first_bundle_on_trial_has_nothing_behind_it_and_comes_back_too(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    service.install(wanted)
    software = fail_other_software(board, layout)
    with pytest.raises(ServiceError, match="what ran before runs again"):
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    assert (current(layout), BundleStore(layout.state).is_on_trial("eco")) == (name_of(wanted.bundle), True)
    assert linked(layout.current) == software


def test_what_cannot_be_put_back_is_told_and_the_rest_is_done(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    service.install(wanted)
    software = fail_other_software(board, layout)
    board.refused_actions = {"restore"}
    words = r"v4l2:/dev/video0: is not there: not all could be put back \(.*scores differ\)"
    with pytest.raises(ServiceError, match=words) as caught:
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    assert caught.value.reason == "not_ready"
    assert linked(layout.current) == software
    assert board.running == {"ghostwatt@eco.service"}


def test_nobody_says_that_it_runs_again_where_it_does_not(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    service.install(wanted)
    board.never_ready = lambda _: True
    with pytest.raises(ServiceError, match=r"not all could be put back \(systemctl restart ghostwatt@eco"):
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))


def test_a_disk_that_fills_half_way_is_put_back_too(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.install(wanted)
    before = linked(layout.current)

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("device.service.install.write_durably", full)
    with pytest.raises(ServiceError, match="No space left on device: what ran before runs again") as caught:
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    assert caught.value.reason == "disk"
    assert linked(layout.current) == before
    assert current(layout) == name_of(wanted.bundle)


def test_an_install_that_is_broken_off_is_put_back_too(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    service.install(wanted)
    before = linked(layout.current)
    asked = []

    def interrupt_once(unit: str) -> bool:
        asked.append(unit)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return False

    board.never_ready = interrupt_once
    with pytest.raises(KeyboardInterrupt):
        service.install(Installation(wheels(tmp_path / "new", b"new = 1"), bundle(tmp_path, 2)))
    assert linked(layout.current) == before
    assert current(layout) == name_of(wanted.bundle)
    assert board.running == {"ghostwatt@eco.service"}


def test_a_disk_that_is_too_full_for_the_software_is_no_damaged_wheel(
    service: Service, layout: Layout, wanted: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ServiceError, match=r"No space left on device.*free some space") as caught:
        service.install(wanted)
    assert caught.value.reason == "disk"
    assert list(layout.releases.iterdir()) == [], "what is half there fills the disk"


def test_a_first_install_that_does_not_come_up_says_so_and_leaves_nothing_running(
    service: Service, board: FakeBoard, wanted: Installation
) -> None:
    board.never_ready = lambda _: True
    with pytest.raises(ServiceError, match="nothing ran before"):
        service.install(wanted)
    assert service.enabled() == ()
    board.never_ready = lambda _: False
    assert service.install(wanted) == ("eco",)


def test_signers_are_named_before_the_bundle_is_judged(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation, tmp_path: Path
) -> None:
    (tmp_path / "signers").write_text("me ssh-ed25519 AAAA")
    board.refused_bundle = True
    with pytest.raises(ServiceError):
        service.install(wanted._replace(signers=tmp_path / "signers"))
    assert (layout.configuration / "allowed_signers").read_text() == "me ssh-ed25519 AAAA"


def test_a_board_without_systemd_is_told(service: Service, board: FakeBoard, wanted: Installation) -> None:
    board.missing = {"systemctl"}
    with pytest.raises(ServiceError, match="systemctl") as caught:
        service.install(wanted)
    assert caught.value.reason == "systemd"


def test_only_root_installs(board: FakeBoard, wanted: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ServiceError, match="sudo"):
        Service(Layout(), Commands(board), lambda _: None).install(wanted)
    assert board.calls == []


# --- networks ---


def test_a_profile_reaches_what_it_names_and_nothing_else(
    service: Service, layout: Layout, wanted: Installation, tmp_path: Path
) -> None:
    drop_in = layout.drop_ins("eco") / "50-network.conf"
    service.install(wanted)
    assert not drop_in.exists()
    service.install(wanted._replace(bundle=bundle(tmp_path, 2, uri="rtsp://user:secret@192.0.2.7/stream")))
    assert "IPAddressAllow=192.0.2.7\n" in drop_in.read_text()
    assert "secret" not in drop_in.read_text()
    assert "10.0.0.0" not in drop_in.read_text()
    service.install(wanted._replace(bundle=bundle(tmp_path, 3, uri="http://phone:8080/video")))
    assert "IPAddressAllow=10.0.0.0/8\n" in drop_in.read_text()
    service.install(wanted._replace(bundle=bundle(tmp_path, 4)))
    assert not drop_in.parent.exists()


def test_flags_of_the_environment_file_count_too(service: Service, layout: Layout, wanted: Installation) -> None:
    layout.configuration.mkdir(parents=True)
    (layout.configuration / "eco.env").write_text('GHOSTWATT_ARGS="--source rtsp://[2001:db8::1]:554/x"\n')
    service.install(wanted)
    assert "IPAddressAllow=2001:db8::1\n" in (layout.drop_ins("eco") / "50-network.conf").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "GHOSTWATT_ARGS='--camera --mqtt mqtt://203.0.113.5'\n",
        'GHOSTWATT_ARGS="--camera --mqtt=mqtt://203.0.113.5"\n',
        "GHOSTWATT_ARGS=--camera \\\n  --mqtt mqtt://me:pa=ss@203.0.113.5\n",
        "# caf\xe9\nGHOSTWATT_ARGS=--mqtt mqtt://203.0.113.5\n",
    ],
)
def test_the_environment_file_is_read_as_systemd_reads_it(
    service: Service, layout: Layout, wanted: Installation, text: str
) -> None:
    layout.configuration.mkdir(parents=True)
    (layout.configuration / "eco.env").write_bytes(text.encode("latin-1"))
    service.install(wanted)
    assert "IPAddressAllow=203.0.113.5\n" in (layout.drop_ins("eco") / "50-network.conf").read_text()


# --- use ---


@pytest.fixture
def two_profiles(service: Service, wanted: Installation, tmp_path: Path) -> Service:
    service.install(wanted._replace(bundle=bundle(tmp_path, 5, profile="full")))
    service.install(wanted)
    return service


def test_another_profile_is_one_command(two_profiles: Service, board: FakeBoard) -> None:
    assert two_profiles.enabled() == ("eco",)
    two_profiles.use("full")
    assert two_profiles.enabled() == ("full",)
    assert board.running == {"ghostwatt@full.service"}


def test_a_profile_that_does_not_come_up_gives_way_to_the_one_before(two_profiles: Service, board: FakeBoard) -> None:
    board.never_ready = lambda unit: "full" in unit
    with pytest.raises(ServiceError, match="what ran before runs again"):
        two_profiles.use("full")
    assert two_profiles.enabled() == ("eco",)
    assert board.running == {"ghostwatt@eco.service"}


def test_a_profile_without_a_bundle_stops_nothing(two_profiles: Service, board: FakeBoard) -> None:
    with pytest.raises(ServiceError, match="eco, full") as caught:
        two_profiles.use("max")
    assert caught.value.reason == "not_installed"
    assert board.running == {"ghostwatt@eco.service"}


# --- uninstall ---


def test_uninstall_leaves_only_data_that_it_names(
    service: Service, layout: Layout, board: FakeBoard, wanted: Installation
) -> None:
    before = contents(layout.root)
    service.install(wanted)
    (layout.state / "telemetry-eco.sqlite").touch()
    left = service.uninstall(purge=False)
    assert left == (layout.state,)
    assert all(name.startswith("var/lib/ghostwatt/") for name in contents(layout.root).keys() - before.keys())
    assert (layout.state / "telemetry-eco.sqlite").exists()
    assert (board.running, board.users) == (set(), set())
    assert f"chown -R root:root {layout.state}" in board.calls


def test_purge_leaves_nothing(service: Service, layout: Layout, wanted: Installation) -> None:
    before = contents(layout.root)
    service.install(wanted)
    assert service.uninstall(purge=True) == ()
    assert contents(layout.root) == before
    assert service.uninstall(purge=True) == ()


def test_after_uninstall_an_install_finds_its_data(service: Service, layout: Layout, wanted: Installation) -> None:
    service.install(wanted)
    service.uninstall(purge=False)
    assert service.install(Installation(wanted.wheels)) == ()
    service.use("eco")
    assert service.enabled() == ("eco",)


# --- wheels ---


def test_what_a_board_never_loads_stays_out(tmp_path: Path) -> None:
    files = {"numpy/a.py": b"1", "numpy/tests/test_a.py": b"2", "numpy/a.pyi": b"3", "numpy-1.data/scripts/f2py": b"4"}
    unpack(write_wheel(tmp_path, "numpy", files), tmp_path / "site")
    names = {path.name for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert names == {"a.py", "METADATA", "RECORD"}


@pytest.mark.parametrize(
    ("files", "record", "words"),
    [
        ({"a.py": b"1"}, {"a.py": "sha256=AAAA"}, "a.py is not what its list of hashes says"),
        ({"a.py": b"1"}, {"a.py": ""}, "lists no hash for a.py"),
        ({"a.py": b"1"}, {"a.py": "md5=AAAA"}, "lists no hash for a.py"),
        ({"../a.py": b"1"}, {}, "leads elsewhere"),
        ({"/etc/a.py": b"1"}, {}, "leads elsewhere"),
    ],
)
def test_a_wheel_that_is_damaged_or_means_harm_is_refused(
    tmp_path: Path, files: dict[str, bytes], record: dict[str, str], words: str
) -> None:
    with pytest.raises(MissingDependencyError, match=words):
        unpack(write_wheel(tmp_path, "x", files, record=record), tmp_path / "site")
    assert not list(tmp_path.glob("**/a.py"))


def test_half_a_wheel_leaves_no_release(service: Service, layout: Layout, wanted: Installation) -> None:
    (wheel,) = wanted.wheels.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(MissingDependencyError, match="copy it again"):
        service.install(wanted)
    assert linked(layout.current) is None


def test_a_wheel_with_a_changed_byte_is_refused_in_one_line(tmp_path: Path) -> None:
    content = b"spam and eggs " * 50
    wheel = write_wheel(tmp_path, "x", {"a.py": content})
    with zipfile.ZipFile(wheel) as stored:
        files = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    whole = wheel.read_bytes()
    for place in range(len(whole)):
        wheel.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(MissingDependencyError):
            unpack(wheel, tmp_path / "site")
            assert (tmp_path / "site/a.py").read_bytes() == content


def test_wheels_of_another_python_are_refused(service: Service, wanted: Installation) -> None:
    write_wheel(wanted.wheels, "numpy", {}, tags="cp399-cp399-manylinux_2_27_aarch64")
    with pytest.raises(MissingDependencyError, match=r"Python 3\.99.*board's " + ".".join(map(str, sys.version_info[:2]))):
        service.install(wanted)


def test_a_folder_without_wheels_names_targets_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="holds no wheels") as caught:
        find_wheels(tmp_path)
    named = re.findall(r"make ([a-z-]+)(?=[,;]|$)", str(caught.value))
    rules = (PROJECT / "converter/deploy/deploy.mk").read_text()
    assert named
    assert {name for name in named if not re.search(rf"^{name}:", rules, re.MULTILINE)} == set()


def test_two_versions_of_one_package_are_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, "numpy", {})
    write_wheel(tmp_path, "numpy", {}, version="2.0")
    with pytest.raises(MissingDependencyError, match="two versions of numpy"):
        find_wheels(tmp_path)
