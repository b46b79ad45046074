from __future__ import annotations

import errno
import os
import re
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device.bundle import LABELS_NAME, MANIFEST_NAME, Bundle, encode_manifest, open_bundle
from device.bundle.archive import pack
from device.bundle.store import KEEP, MAX_STARTS, BundleStore
from device.contract import Manifest
from device.core.errors import BundleError, SelfTestError, UsageError
from tests.unit.bundles import make_profile, write_bundle


def make_bundle(folder: Path, number: int, profile: str = "host") -> Path:
    """A bundle unlike those of other numbers."""
    root = folder / f"{profile}-{number}"
    manifest = write_bundle(root, make_profile(profile))
    changed = msgspec.structs.replace(manifest, versions={"number": str(number)})
    (root / MANIFEST_NAME).write_bytes(encode_manifest(changed))
    return root


def accept(_bundle: Bundle) -> None:
    """Proves nothing."""


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "state")


def install(store: BundleStore, source: Path) -> str:
    return store.install(source, trust=None, prove=accept).manifest_sha256


def run_well(store: BundleStore, profile: str = "host") -> None:
    """A daemon that starts, and whose bundle proves itself."""
    store.start(profile)
    store.confirm(profile)


def test_a_bundle_is_taken_in_under_its_own_hash_and_switched_to_when_told(store: BundleStore, tmp_path: Path) -> None:
    sha256 = install(store, make_bundle(tmp_path, 1))
    assert (store.root / "bundles" / sha256 / LABELS_NAME).is_file()
    with pytest.raises(BundleError, match="no current bundle for profile host"):
        store.start("host")
    store.switch(sha256)
    start = store.start("host")
    assert open_bundle(start.root).manifest_sha256 == sha256
    assert start.on_trial
    assert not start.rolled_back


def test_an_archive_is_as_good_as_a_folder(store: BundleStore, tmp_path: Path) -> None:
    root = make_bundle(tmp_path, 1)
    pack(root, tmp_path / "bundle.tar.xz")
    assert install(store, tmp_path / "bundle.tar.xz") == install(store, root)
    assert len(store.entries()) == 1


def test_what_lies_beside_a_folders_bundle_is_left_there(store: BundleStore, tmp_path: Path) -> None:
    root = make_bundle(tmp_path, 1)
    (root / "notes.txt").write_text("mine")
    sha256 = install(store, root)
    assert not (store.root / "bundles" / sha256 / "notes.txt").exists()


def test_a_stranger_in_an_archive_is_refused(store: BundleStore, tmp_path: Path) -> None:
    root = make_bundle(tmp_path, 1)
    pack(root, tmp_path / "bundle.tar")
    with tarfile.open(tmp_path / "bundle.tar", "a") as members:
        members.addfile(tarfile.TarInfo("extra.py"))
    with pytest.raises(BundleError, match=r"extra.py: is in the archive, but not in its manifest"):
        install(store, tmp_path / "bundle.tar")


def test_a_link_among_a_folders_files_is_refused(store: BundleStore, tmp_path: Path) -> None:
    root = make_bundle(tmp_path, 1)
    (root / LABELS_NAME).rename(tmp_path / "labels")
    (root / LABELS_NAME).symlink_to(tmp_path / "labels")
    with pytest.raises(BundleError, match="is a link"):
        install(store, root)


@pytest.mark.parametrize("fault", ["tampered", "truncated", "missing", "schema", "unproven"])
def test_a_bad_bundle_leaves_the_store_as_it_was(store: BundleStore, tmp_path: Path, fault: str) -> None:
    store.switch(install(store, make_bundle(tmp_path, 1)))
    run_well(store)
    bad = make_bundle(tmp_path, 2)
    model = bad / "model.tflite"
    if fault == "tampered":
        model.write_bytes(b"x" * model.stat().st_size)
    elif fault == "truncated":
        model.write_bytes(model.read_bytes()[:-1])
    elif fault == "missing":
        model.unlink()
    elif fault == "schema":
        text = (bad / MANIFEST_NAME).read_text()
        (bad / MANIFEST_NAME).write_text(re.sub('"schema": [0-9]+', '"schema": 99', text, count=1))

    def prove(bundle: Bundle) -> None:
        if fault == "unproven":
            raise SelfTestError("x", "scores differ", reason="drift")

    before = sorted(path for path in store.root.rglob("*"))
    with pytest.raises((BundleError, SelfTestError)):
        store.install(bad, trust=None, prove=prove)
    assert sorted(path for path in store.root.rglob("*")) == before
    assert not store.start("host").on_trial


def test_a_bundle_that_proves_itself_stays(store: BundleStore, tmp_path: Path) -> None:
    first = install(store, make_bundle(tmp_path, 1))
    second = install(store, make_bundle(tmp_path, 2))
    for sha256 in (first, second):
        store.switch(sha256)
        run_well(store)
    for _ in range(2 * MAX_STARTS):
        start = store.start("host")
        assert start.root.name == second
        assert not start.on_trial
    assert {entry.sha256: entry.is_previous for entry in store.entries()} == {first: True, second: False}


@pytest.mark.parametrize("proven", [True, False])
def test_a_switch_can_be_undone(store: BundleStore, tmp_path: Path, proven: bool) -> None:
    first, second = (install(store, make_bundle(tmp_path, number)) for number in (1, 2))
    store.switch(first)
    run_well(store)
    store.switch(second)
    store.start("host")
    if proven:
        store.confirm("host")
    before = {entry.sha256: entry for entry in store.entries()}
    for number in range(3, 5 + KEEP):
        made = install(store, make_bundle(tmp_path, number))
        os.utime(store.root / "bundles" / made, (4e9, 4e9))
    store.switch(made)
    store.restore(second, starts=before[second].starts if before[second].on_trial else None, previous=first)
    after = {entry.sha256: entry for entry in store.entries()}
    assert after[second] == before[second]
    assert after[first] == before[first] if first in after else proven
    assert store.start("host").on_trial is not proven


def test_what_is_restored_must_be_there(store: BundleStore, tmp_path: Path) -> None:
    first = install(store, make_bundle(tmp_path, 1))
    store.switch(first)
    with pytest.raises(BundleError, match="0 bundles are called"):
        store.restore("0" * 64, starts=None, previous=None)
    assert store.start("host").root.name == first


def test_a_bundle_that_dies_at_each_start_is_taken_back(store: BundleStore, tmp_path: Path) -> None:
    first = install(store, make_bundle(tmp_path, 1))
    store.switch(first)
    run_well(store)
    second = install(store, make_bundle(tmp_path, 2))
    store.switch(second)
    for _ in range(MAX_STARTS):
        assert store.start("host").root.name == second
    start = store.start("host")
    assert start.root.name == first
    assert f"bundle {second[:12]} was started {MAX_STARTS} times" in start.rolled_back
    again = store.start("host")
    assert (again.root.name, again.on_trial, again.rolled_back) == (first, False, "")


def test_a_start_that_ended_otherwise_is_not_counted(store: BundleStore, tmp_path: Path) -> None:
    for number in (1, 2):
        store.switch(install(store, make_bundle(tmp_path, number)))
        if number == 1:
            run_well(store)
    for _ in range(3 * MAX_STARTS):
        assert store.start("host").on_trial
        store.excuse("host")


def test_the_first_bundle_of_all_is_never_taken_back(store: BundleStore, tmp_path: Path) -> None:
    sha256 = install(store, make_bundle(tmp_path, 1))
    store.switch(sha256)
    for _ in range(3 * MAX_STARTS):
        assert store.start("host").root.name == sha256
    with pytest.raises(BundleError, match="no previous bundle"):
        store.rollback("host")
    assert store.start("host").root.name == sha256


def test_one_that_never_proved_itself_is_nothing_to_go_back_to(store: BundleStore, tmp_path: Path) -> None:
    good, bad, worse = (install(store, make_bundle(tmp_path, number)) for number in range(3))
    store.switch(good)
    run_well(store)
    store.switch(bad)
    store.start("host")
    store.switch(worse)
    assert store.rollback("host").manifest_sha256 == good


def test_switching_to_what_runs_already_is_no_trial(store: BundleStore, tmp_path: Path) -> None:
    sha256 = install(store, make_bundle(tmp_path, 1))
    store.switch(sha256)
    run_well(store)
    store.switch(sha256)
    assert not store.start("host").on_trial


def test_profiles_are_switched_apart(store: BundleStore, tmp_path: Path) -> None:
    for profile in ("host", "host-eco"):
        store.switch(install(store, make_bundle(tmp_path, 1, profile)))
    store.switch(install(store, make_bundle(tmp_path, 2, "host-eco")))
    assert store.profiles() == ("host", "host-eco")
    assert store.start("host").root != store.start("host-eco").root
    with pytest.raises(UsageError, match="2 profiles"):
        store.only_profile()


@pytest.mark.parametrize("name", ["", "0000", "../../etc", "zz"])
def test_a_name_that_no_bundle_has_is_refused(store: BundleStore, tmp_path: Path, name: str) -> None:
    install(store, make_bundle(tmp_path, 1))
    install(store, make_bundle(tmp_path, 2))
    with pytest.raises(BundleError, match="bundles are called"):
        store.switch(name)


def test_old_bundles_go_but_never_those_that_are_needed(store: BundleStore, tmp_path: Path) -> None:
    names = [install(store, make_bundle(tmp_path, number)) for number in range(KEEP + 6)]
    for index, name in enumerate(names):
        os.utime(store.root / "bundles" / name, (index, index))
    store.switch(names[0])
    run_well(store)
    store.switch(names[-1])
    store.switch(install(store, make_bundle(tmp_path, 99)))
    kept = {entry.sha256 for entry in store.entries()}
    assert names[0] in kept
    assert len(kept) == KEEP + 2
    assert names[1] not in kept


def test_a_damaged_trial_file_is_no_trial(store: BundleStore, tmp_path: Path) -> None:
    store.switch(install(store, make_bundle(tmp_path, 1)))
    (store.root / "profiles" / "host" / "trial.json").write_bytes(b"\x00\xff")
    assert not store.start("host").on_trial


def test_on_a_read_only_disk_the_current_bundle_runs(
    store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = install(store, make_bundle(tmp_path, 1))
    store.switch(sha256)
    real_open = Path.open

    def refuse_to_write(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real_open(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse_to_write)
    start = BundleStore(store.root).start("host")
    assert (start.root.name, start.on_trial) == (sha256, False)
    with pytest.raises(BundleError, match="Read-only file system"):
        store.confirm("host")
    with pytest.raises(BundleError, match="Read-only file system"):
        store.fall_back("host")


def test_on_a_read_only_disk_the_previous_bundle_runs_where_the_current_one_has_rotted(
    store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (install(store, make_bundle(tmp_path, number)) for number in range(2))
    for sha256 in (first, second):
        store.switch(sha256)
        run_well(store)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("device.bundle.store.point_link", refuse)
    assert store.fall_back("host").manifest_sha256 == first


class PowerCut(BaseException):
    """The moment at which everything stops."""


def test_a_power_cut_at_any_moment_leaves_a_whole_current_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [make_bundle(tmp_path, number) for number in (1, 2)]
    hashes = [open_bundle(source).manifest_sha256 for source in sources]
    real_fsync, real_unlink = os.fsync, os.unlink
    left = [0]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise PowerCut
        real_fsync(descriptor)

    def unlink(*arguments: Any, **options: Any) -> None:
        if left[0] < 0:
            raise PowerCut
        real_unlink(*arguments, **options)

    # Nobody tidies up after a power cut.
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    for moment in range(100):
        store = BundleStore(tmp_path / f"state-{moment}")
        left[0] = 10**6
        store.switch(install(store, sources[0]))
        run_well(store)
        left[0] = moment
        try:
            store.switch(install(store, sources[1]))
        except PowerCut:
            pass
        else:
            break
        finally:
            left[0] = 10**6
        after = BundleStore(store.root)
        bundle = open_bundle(after.start("host").root)
        assert bundle.manifest_sha256 in hashes
        after.switch(install(after, sources[1]))
        assert open_bundle(after.start("host").root).manifest_sha256 == hashes[1]
        assert after.rollback("host").manifest_sha256 == hashes[0]
    assert 5 < moment < 100


def test_two_installers_at_once_take_turns(store: BundleStore, tmp_path: Path) -> None:
    sources = [make_bundle(tmp_path, number) for number in range(4)]
    threads = [threading.Thread(target=install, args=(BundleStore(store.root), source)) for source in sources for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.entries()) == 4
    assert not list(store.root.glob(".incoming-*"))


def test_a_daemon_starts_while_another_bundle_is_being_proven(store: BundleStore, tmp_path: Path) -> None:
    first = install(store, make_bundle(tmp_path, 1))
    store.switch(first)
    started: list[str] = []

    def prove(_bundle: Bundle) -> None:
        daemon = threading.Thread(target=lambda: started.append(store.start("host").root.name), daemon=True)
        daemon.start()
        daemon.join(10.0)

    store.install(make_bundle(tmp_path, 2), trust=None, prove=prove)
    assert started == [first]


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_bundle_that_rotted_in_the_store_is_mended_by_taking_it_in_again(
    store: BundleStore, tmp_path: Path, harm: str
) -> None:
    source = make_bundle(tmp_path, 1)
    sha256 = install(store, source)
    store.switch(sha256)
    labels = store.root / "bundles" / sha256 / LABELS_NAME
    if harm == "changed":
        labels.write_text("rotten\n")
    else:
        labels.unlink()
    proven: list[Bundle] = []
    store.install(source, trust=None, prove=proven.append)
    assert open_bundle(store.start("host").root).manifest_sha256 == sha256
    assert len(proven) == 1


def test_a_new_bundle_goes_on_where_the_one_to_go_back_to_has_rotted(store: BundleStore, tmp_path: Path) -> None:
    good, new = (install(store, make_bundle(tmp_path, number)) for number in range(2))
    store.switch(good)
    run_well(store)
    store.switch(new)
    (store.root / "bundles" / good / LABELS_NAME).write_text("rotten\n")
    for _ in range(MAX_STARTS):
        store.start("host")
    start = store.start("host")
    assert (start.root.name, start.on_trial) == (new, True)
    assert LABELS_NAME in start.trouble


@pytest.mark.unprivileged
def test_a_store_that_cannot_be_written_says_so(store: BundleStore, tmp_path: Path) -> None:
    source = make_bundle(tmp_path, 1)
    store.root.chmod(0o500)
    with pytest.raises(BundleError, match="can't be written"):
        install(store, source)


def test_the_manifest_names_the_bundle(store: BundleStore, tmp_path: Path) -> None:
    root = make_bundle(tmp_path, 1)
    manifest = msgspec.json.decode((root / MANIFEST_NAME).read_bytes(), type=Manifest)
    assert manifest.versions == {"number": "1"}
    (entry,) = [store.install(root, trust=None, prove=accept)]
    assert entry.root.name == entry.manifest_sha256
