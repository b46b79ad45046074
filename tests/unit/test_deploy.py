from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.deploy import __main__ as command
from converter.deploy import payload as payloads
from converter.deploy.payload import BundleFacts, Kind, Payload, kind_of, platforms, read_bundle, requirements
from converter.deploy.probe import BoardProbe, probe, require_fit
from converter.deploy.rollout import Rollout, RolloutSettings, Target
from converter.deploy.transport import LocalTransport, SshTransport
from converter.deploy.wheel import DEVICE, write_wheel
from device.core.errors import BundleError, DeployError
from device.core.programs import Done
from device.service.wheels import unpack

BOARD = BoardProbe(
    model="Raspberry Pi 4 Model B Rev 1.4",
    machine="aarch64",
    python=(3, 13),
    glibc="2.41",
    systemd=257,
    is_root=False,
    can_sudo=True,
    free_bytes=10**10,
    modules=(),
    release="",
)


class FakeBoard:
    """A board that answers as a real one does to each kind of script."""

    def __init__(self, name: str, board: BoardProbe = BOARD, *, install: Done | None = None) -> None:
        self.name = name
        self._board = board
        self._install_result = install or Done(0, "software x: 80 MB\nghostwatt@rpi4.service is up\n", "")
        self.status: dict[str, Any] = {"profiles": []}
        self.scripts: list[str] = []
        self.closed = False

    def run(self, script: str, *, stdin: Path | None = None) -> Done:
        self.scripts.append(script)
        if "END" in script:
            facts = {**self._board._asdict(), "python": list(self._board.python), "modules": list(self._board.modules)}
            return Done(0, json.dumps(facts) + "\n", "")
        if "tar -x" in script:
            assert stdin is not None
            return Done(0, "/var/tmp/ghostwatt.abc123\n", "")
        if "service status" in script:
            return Done(0, json.dumps(self.status), "")
        return self._install_result

    def close(self) -> None:
        self.closed = True

    @property
    def was_changed(self) -> bool:
        return any("install" in script for script in self.scripts)


def write_bundle(root: Path, **profile: Any) -> Path:
    root.mkdir(parents=True)
    (root / "model.tflite").write_bytes(b"model")
    (root / "report.html").write_text("for people")
    facts = {
        "name": "rpi4",
        "board": {"arch": "aarch64"},
        "camera": {"uri": "synthetic:48x48"},
        "runtime": {"name": "litert"},
        "power": {"meters": [{"kind": "ina2xx"}]},
    }
    manifest = {"profile": facts | profile, "files": [{"name": "model.tflite"}]}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> BundleFacts:
    return read_bundle(write_bundle(tmp_path / "rpi4"))


def make(kind: Kind, bundle: BundleFacts, *, signers: Path | None, folder: Path) -> Payload:
    archive = folder / "payload.tar"
    archive.touch()
    return Payload(archive, 40_000_000, "ghostwatt-1-py3-none-linux_aarch64.whl", "abc-py3.13")


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    return Rollout(RolloutSettings(("litert",), None, tmp_path), lambda _: None, make)


# --- one board ---


def test_a_board_is_asked_sent_to_and_installed(rollout: Rollout, bundle: BundleFacts) -> None:
    board = FakeBoard("pi@board")
    result = rollout.to_one(Target(board, bundle))
    assert (result.state, result.profile) == ("installed", "rpi4")
    assert result.detail == "software x: 80 MB; ghostwatt@rpi4.service is up"
    install = board.scripts[-1]
    assert "sudo -n env PYTHONPATH=/var/tmp/ghostwatt.abc123/wheels/ghostwatt-1-py3-none-linux_aarch64.whl" in install
    assert install.startswith("trap 'rm -rf /var/tmp/ghostwatt.abc123' EXIT")
    assert board.closed


def test_a_checkout_of_root_is_told_in_one_line(bundle: BundleFacts, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> Payload:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "build/deploy/x.whl")

    result = Rollout(RolloutSettings((), None, tmp_path), lambda _: None, refuse).to_one(
        Target(FakeBoard("this machine"), bundle)
    )
    assert (result.state, result.detail) == ("failed", "build/deploy/x.whl: Permission denied")


def test_what_runs_already_is_left_alone(rollout: Rollout, bundle: BundleFacts) -> None:
    board = FakeBoard("pi@board", BOARD._replace(release="abc-py3.13"))
    board.status = {"profiles": [{"profile": "rpi4", "bundle": bundle.sha256, "ActiveState": "active"}]}
    assert rollout.to_one(Target(board, bundle)).state == "unchanged"
    assert not board.was_changed


@pytest.mark.parametrize(
    "status",
    [
        [],
        [{"profile": "rpi4", "bundle": "0" * 64, "ActiveState": "active"}],
        [{"profile": "rpi4", "bundle": None, "ActiveState": "failed"}],
        [{"profile": "rpi4-eco", "bundle": None, "ActiveState": "active"}],
    ],
)
def test_what_runs_otherwise_or_not_is_installed_again(
    rollout: Rollout, bundle: BundleFacts, status: list[dict[str, Any]]
) -> None:
    board = FakeBoard("pi@board", BOARD._replace(release="abc-py3.13"))
    board.status = {"profiles": status}
    assert rollout.to_one(Target(board, bundle)).state == "installed"


def test_a_dry_run_changes_nothing(tmp_path: Path, bundle: BundleFacts) -> None:
    board = FakeBoard("pi@board")
    result = Rollout(RolloutSettings(("litert",), None, tmp_path, is_dry=True), lambda _: None, make).to_one(
        Target(board, bundle)
    )
    assert result.state == "planned"
    assert "40 MB to send; has nothing" in result.detail
    assert not board.was_changed


def test_the_boards_own_words_are_the_result(rollout: Rollout, bundle: BundleFacts) -> None:
    said = "software x: 80 MB\n"
    board = FakeBoard(
        "pi@board", install=Done(80, said, "error: ghostwatt@rpi4.service: no camera: what ran before runs again\n")
    )
    result = rollout.to_one(Target(board, bundle))
    assert (result.state, result.is_well) == ("failed", False)
    assert result.detail == "ghostwatt@rpi4.service: no camera: what ran before runs again"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"machine": "armv7l"}, "is armv7l; expected aarch64"),
        ({"python": (3, 9)}, "has Python 3.9; expected 3.11 or newer"),
        ({"systemd": 0}, "has systemd not"),
        ({"systemd": 247}, "has systemd 247; expected 252"),
        ({"can_sudo": False}, "asks for a password before sudo"),
        ({"free_bytes": 10**8}, "has 100 MB free"),
        ({"glibc": ""}, "another C library"),
    ],
)
def test_a_board_that_is_not_fit_says_why(rollout: Rollout, bundle: BundleFacts, changes: dict[str, Any], words: str) -> None:
    board = FakeBoard("pi@board", BOARD._replace(**changes))
    result = rollout.to_one(Target(board, bundle))
    assert result.state == "failed"
    assert words in result.detail
    assert not board.was_changed


def test_root_needs_no_sudo(bundle: BundleFacts, rollout: Rollout) -> None:
    board = FakeBoard("root@board", BOARD._replace(is_root=True, can_sudo=False))
    require_fit(BOARD._replace(is_root=True, can_sudo=False), "root@board", "aarch64")
    assert rollout.to_one(Target(board, bundle)).state == "installed"
    assert "sudo" not in board.scripts[-1]


# --- many boards ---


def test_boards_that_are_alike_share_a_payload_and_each_has_its_result(tmp_path: Path, bundle: BundleFacts) -> None:
    made: list[Kind] = []

    def count(kind: Kind, *arguments: Any, **named: Any) -> Payload:
        made.append(kind)
        return make(kind, *arguments, **named)

    boards = [FakeBoard(f"pi@{number}", BOARD._replace(python=(3, 11) if number == 3 else (3, 13))) for number in range(6)]
    boards[1]._install_result = Done(80, "", "error: no\n")
    rollout = Rollout(RolloutSettings(("litert",), None, tmp_path), lambda _: None, count)
    results = rollout.to_all([Target(board, bundle) for board in boards], canary=False)
    assert [result.host for result in results] == [board.name for board in boards]
    assert [result.state for result in results] == ["installed", "failed", *["installed"] * 4]
    assert len(made) == 2


def test_what_nobody_foresaw_of_one_board_leaves_the_others_their_results(tmp_path: Path, bundle: BundleFacts) -> None:
    class Odd(FakeBoard):
        def run(self, script: str, *, stdin: Path | None = None) -> Done:
            raise TypeError("odd")

    boards = [FakeBoard("a"), Odd("b"), FakeBoard("c")]
    rollout = Rollout(RolloutSettings(("litert",), None, tmp_path), lambda _: None, make)
    results = rollout.to_all([Target(board, bundle) for board in boards], canary=False)
    assert [result.state for result in results] == ["installed", "failed", "installed"]
    assert results[1].detail == "TypeError('odd')"


def test_boards_are_served_together(tmp_path: Path, bundle: BundleFacts) -> None:
    together = threading.Barrier(3, timeout=20)

    class Waiting(FakeBoard):
        def run(self, script: str, *, stdin: Path | None = None) -> Done:
            if "tar -x" in script:
                together.wait()
            return super().run(script, stdin=stdin)

    rollout = Rollout(RolloutSettings(("litert",), None, tmp_path), lambda _: None, make)
    results = rollout.to_all([Target(Waiting(str(number)), bundle) for number in range(3)], canary=False)
    assert all(result.is_well for result in results)


@pytest.mark.parametrize("fails", [True, False])
def test_a_canary_goes_first_and_alone(rollout: Rollout, bundle: BundleFacts, fails: bool) -> None:
    canary = FakeBoard("canary", install=Done(80, "", "error: no\n") if fails else None)
    rest = [FakeBoard("a"), FakeBoard("b")]
    results = rollout.to_all([Target(board, bundle) for board in (canary, *rest)], canary=True)
    expected = ["failed", "not tried", "not tried"] if fails else ["installed"] * 3
    assert [result.state for result in results] == expected
    assert [board.was_changed for board in rest] == [not fails] * 2
    assert all(board.closed for board in (canary, *rest))


def test_hosts_are_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# the kitchen\npi@kitchen\n\nssh://pi@10.0.0.2:2222  rpi4-eco # slow\n")
    assert command.read_hosts(path) == [("pi@kitchen", None), ("ssh://pi@10.0.0.2:2222", "rpi4-eco")]


@pytest.mark.parametrize(("text", "words"), [("", "names no board"), ("a b c\n", ":1"), ("a\n\na\n", ":3: a is listed twice")])
def test_bad_hosts_are_refused_with_their_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(DeployError, match=words):
        command.read_hosts(path)


# --- what must be converted first ---


def flags_of(*arguments: str) -> argparse.Namespace:
    return command.build_parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("lines", "arguments", "profiles"),
    [
        ("a rpi4\nb zero2w\nc rpi4\n", [], ["rpi4", "zero2w"]),
        ("a zero2w\nb\n", ["--profile", "rpi4-eco"], ["zero2w", "rpi4-eco"]),
        ("a zero2w\nb\n", ["--bundle", "build/mine"], ["zero2w"]),
        ("a zero2w\n", ["--profile", "rpi4"], ["zero2w"]),
    ],
)
def test_profiles_of_the_hosts_file_are_converted(
    tmp_path: Path, lines: str, arguments: list[str], profiles: list[str]
) -> None:
    (tmp_path / "boards.txt").write_text(lines)
    assert command.list_profiles(flags_of("--hosts", str(tmp_path / "boards.txt"), *arguments)) == profiles


def test_a_board_without_a_profile_gets_none_by_default(tmp_path: Path) -> None:
    (tmp_path / "boards.txt").write_text("a rpi4\nb\n")
    with pytest.raises(DeployError, match=r"boards\.txt b: no profile is named; expected PROFILE=rpi4 .* after the board"):
        command.find_targets(flags_of("--hosts", str(tmp_path / "boards.txt")))
    with pytest.raises(DeployError, match="pi@board: no profile is named; expected PROFILE=rpi4"):
        command.list_profiles(flags_of("--host", "pi@board"))


@pytest.fixture
def run_make(tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs make with a Python that notes what it should run; gives the exit code, what was said, and that."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    log, python = tmp_path / "log", tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    case = f'case "$*" in *--list-profiles*) exec {sys.executable} "$@";; esac'
    python.write_text(f'#!/bin/sh\n{case}\necho "$*" >>{log}\n')
    python.chmod(0o755)
    (tmp_path / "venv/.installed").touch()

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        log.write_text("")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PROFILE"))}
        done = subprocess.run(
            ["make", f"VENV={tmp_path / 'venv'}", "deploy", *arguments],
            cwd=DEVICE.parent,
            env=inherited,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line.removeprefix("-m converter") for line in log.read_text().splitlines() if "converter" in line]
        return done.returncode, done.stderr, lines

    return run


def test_make_converts_what_the_boards_need(tmp_path: Path, run_make: Callable[..., tuple[int, str, list[str]]]) -> None:
    boards = tmp_path / "boards.txt"
    boards.write_text("a rpi4\nb zero2w\n")
    code, _, ran = run_make(f"HOSTS={boards}", "CANARY=1", "ARGS=--dry-run")
    assert code == 0
    assert [" ".join(line.split()) for line in ran] == [
        "--profile rpi4",
        "--profile zero2w",
        f".deploy --hosts {boards} --canary --dry-run",
    ]


def test_make_deploys_no_profile_of_its_own_accord(run_make: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, said, ran = run_make("HOST=pi@board")
    assert code != 0
    assert "pi@board: no profile is named; expected PROFILE=rpi4" in said
    assert ran == []
    code, _, ran = run_make("HOST=pi@board", "PROFILE=rpi4")
    assert (code, [" ".join(line.split()) for line in ran]) == (
        0,
        ["--profile rpi4", ".deploy --host pi@board --profile rpi4"],
    )


# --- ssh ---


@pytest.mark.parametrize("target", ["", " ", "-oProxyCommand=reboot"])
def test_what_ssh_would_take_for_a_flag_is_no_board(target: str) -> None:
    with pytest.raises(DeployError, match="names no board"):
        SshTransport(target)


def test_a_board_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\necho "pi@board: Permission denied (publickey)." >&2\nexit 255\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DeployError, match=r"Permission denied \(publickey\)\.; ssh-copy-id pi@board") as caught:
        SshTransport("pi@board").run("true")
    assert caught.value.reason == "ssh"


def test_scripts_arrive_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As sshd does: the last argument goes to the user's shell.
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nfor last; do :; done\nexec /bin/sh -c "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "input").write_text("from a file")
    transport = SshTransport("pi@board")
    done = transport.run("echo 'it'\\''s' \"$((1 + 1))\"; cat; exit 7", stdin=tmp_path / "input")
    transport.close()
    assert (done.code, done.out) == (7, "it's 2\nfrom a file")


def test_this_machine_says_what_it_is() -> None:
    found = probe(LocalTransport())
    assert found.machine
    assert found.free_bytes > 0
    assert found.python >= (3, 9)


# --- what travels ---


def test_a_bundle_needs_what_its_profile_names(tmp_path: Path) -> None:
    facts = read_bundle(
        write_bundle(
            tmp_path / "x",
            camera={"uri": ["picamera2:0", "rtsp://camera/"]},
            power={"meters": [{"kind": "ina219"}, {"kind": "estimate"}]},
        )
    )
    assert facts.extras == {"litert", "video", "i2c"}
    assert facts.system_packages == {"python3-picamera2"}
    assert facts.files == ("manifest.json", "model.tflite")
    with pytest.raises(DeployError, match="sudo apt install python3-picamera2"):
        kind_of(BOARD, facts, "pi@board", ("litert", "mqtt"))
    kind = kind_of(BOARD._replace(modules=("picamera2", "cv2")), facts, "pi@board", ("litert", "mqtt"))
    assert kind.with_system_packages
    assert kind.extras == {"litert", "i2c", "mqtt"}, "OpenCV is the distribution's"


def test_debian_12s_camera_wants_numpy_1() -> None:
    camera = Kind("aarch64", (3, 11), "2.36", frozenset(), with_system_packages=True)
    assert "numpy<2" in requirements(camera)
    assert "numpy<2" not in requirements(camera._replace(with_system_packages=False))
    assert "numpy<2" not in requirements(camera._replace(python=(3, 13)))


def test_wheels_are_those_that_run_there() -> None:
    tags = platforms("2.31", "aarch64")
    assert tags[0] == "manylinux_2_31_aarch64"
    assert "manylinux_2_34_aarch64" not in tags
    assert tags[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


BASE = Kind("aarch64", (3, 13), "2.41", frozenset(), with_system_packages=False)


def test_a_python_without_pip_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    with pytest.raises(DeployError, match=r"has no pip.*apt install python3-pip") as caught:
        payloads.fetch_wheels(BASE, tmp_path)
    assert caught.value.reason == "wheels"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("WARNING: x\nERROR: No matching distribution found for numpy\nnotice\n", "No matching distribution found for numpy"),
        ("Traceback (most recent call last):\n  File ...\nFileNotFoundError: no certificates\n", "no certificates"),
        ("", "pip ended with 1"),
    ],
)
def test_what_pip_complains_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str) -> None:
    done = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(DeployError, match=told):
        payloads.fetch_wheels(BASE, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "missing"), ("{", "malformed"), ("{}", "malformed"), ("[]", "malformed")]
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BundleError) as caught:
        read_bundle(tmp_path)
    assert caught.value.reason == reason


def test_what_is_sent_is_wheels_and_the_bundle_alone(
    tmp_path: Path, bundle: BundleFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "fetch_wheels", lambda _kind, wheels: (wheels / "x-1-py3-none-any.whl").touch())
    monkeypatch.setattr(payloads, "build", lambda *_, **__: False)
    signers = tmp_path / "signers"
    signers.touch()
    kind = Kind("aarch64", (3, 13), "2.41", frozenset(), with_system_packages=False)
    payload = payloads.make_payload(kind, bundle, signers=signers, folder=tmp_path / "deploy")
    with tarfile.open(payload.archive) as tar:
        names = tar.getnames()
    expected = [
        f"wheels/{payload.wheel}",
        "wheels/x-1-py3-none-any.whl",
        "bundle/manifest.json",
        "bundle/model.tflite",
        "signers",
    ]
    assert names == expected
    assert payloads.make_payload(kind, bundle, signers=signers, folder=tmp_path / "deploy").release == payload.release


# --- our wheel ---


def test_our_wheel_unpacks_and_has_one_architecture(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "x86_64")
    unpack(wheel, tmp_path / "site")
    sources = {path.relative_to(DEVICE) for path in DEVICE.rglob("*.py")}
    assert {path.relative_to(tmp_path / "site/device") for path in (tmp_path / "site/device").rglob("*.py")} == sources
    assert not list((tmp_path / "site").glob("device/runtimes/native/lib/aarch64"))
    assert wheel.read_bytes() == write_wheel(tmp_path, "x86_64").read_bytes()


def test_a_bare_board_installs_out_of_our_wheel(tmp_path: Path) -> None:
    """Nothing but the standard library may be needed for it."""
    wheel = write_wheel(tmp_path, "x86_64")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from device.service.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "known = set(sys.stdlib_module_names) | {'device', '__main__'}\n"
        "print({name.partition('.')[0] for name in sys.modules} - known)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, wheel], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_bare_board_can_make_its_own_payload() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(DEVICE.parent)!r}); from converter.deploy.__main__ import main\n"
        "known = set(sys.stdlib_module_names) | {'device', 'converter', '__main__'}\n"
        "print({name.partition('.')[0] for name in sys.modules} - known)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_installer_runs_from_inside_the_wheel(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "x86_64")
    command = [sys.executable, "-sP", "-m", "device.service", "unit"]
    done = subprocess.run(command, env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "DeviceAllow=char-video4linux rw\n" in done.stdout


def test_unpacked_files_are_those_of_the_wheel(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "x86_64")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert not [name for name in archive.namelist() if "__pycache__" in name]
