"""The harness itself, without an emulator."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from .checks import Held, Row, check_power_follows
from .harness import packages
from .harness.cache import Cache, fingerprint
from .harness.camera import VirtualCamera, describe
from .harness.cost import read_regions
from .harness.kernel import read_dependencies
from .harness.process import run_limited

SECOND_NS = 1_000_000_000


def test_cache_builds_once_and_again_for_other_inputs(tmp_path: Path) -> None:
    built: list[int] = []

    def build(folder: Path) -> None:
        built.append(1)
        (folder / "file").write_text("whole")

    cache = Cache(tmp_path)
    first = cache.entry("thing", ["a"], build)
    assert cache.entry("thing", ["a"], build) == first
    assert cache.entry("thing", ["b"], build) != first
    assert len(built) == 2
    assert (first / "file").read_text() == "whole"


def test_fingerprint_is_of_what_code_does(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    fingerprints = []
    for text in ('"""Does."""\ndef f():\n    """It."""\n', "def f():  # it\n    pass\n", "def f():\n    return 1\n"):
        code.write_text(text)
        fingerprints.append(fingerprint(code))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    (tmp_path / "script.sh").write_text("# one")
    before = fingerprint(tmp_path / "script.sh")
    (tmp_path / "script.sh").write_text("# two")
    assert fingerprint(tmp_path / "script.sh") != before


def test_cache_forgets_what_was_not_used_for_long(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, used = (cache.entry("thing", [which], lambda _: None) for which in ("old", "used"))
    for entry in (old, used):
        os.utime(entry, (0, 0))
    cache.entry("thing", ["used"], lambda _: None)
    new = cache.entry("thing", ["new"], lambda _: None)
    assert (old.exists(), used.exists(), new.exists()) == (False, True, True)


def test_cache_keeps_nothing_of_a_build_that_failed(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no network")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError, match="no network"):
        cache.entry("thing", [], fail)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def _build_slowly(root: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.5)

    Cache(root).entry("thing", [], build)


def test_two_runs_at_once_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_build_slowly, args=(tmp_path / "cache", log)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert [run.exitcode for run in runs] == [0, 0]
    assert log.read_text() == "built\n"


def test_limit_ends_a_program_and_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    result = run_limited(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], timeout_s=0.5)
    assert result.timed_out
    assert result.exit_code != 0
    child = Path("/proc") / pid_file.read_text().strip()
    deadline_s = time.monotonic() + 10
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline_s, "the child lives on"
        time.sleep(0.05)


def test_program_brings_back_what_it_said() -> None:
    result = run_limited(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=30)
    assert (result.exit_code, result.stdout, result.stderr, result.timed_out) == (3, "out\n", "err\n", False)
    assert result.peak_rss_bytes > 0


def test_missing_tool_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(packages.MissingHostToolError, match=r"qemu-system-arm.*make setup-board"):
        packages.require("qemu-system-aarch64")
    assert packages.missing(("cpio",)) == ["cpio"]


def test_module_dependencies_load_in_order() -> None:
    table = read_dependencies("kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz\nkernel/a-b.ko:\n")
    assert table["ext4"] == ("kernel/fs/mbcache.ko.xz", "kernel/lib/crc16.ko.xz", "kernel/fs/ext4/ext4.ko.xz")
    assert table["a_b"] == ("kernel/a-b.ko",)


def test_regions_are_read_in_order() -> None:
    regions = read_regions('{"region": 1, "classes": {"branch": 2}, "total": 2}\n{"region": 2, "classes": {}, "total": 0}\n')
    assert [(region.number, region.total) for region in regions] == [(1, 2), (2, 0)]


def test_virtual_cameras_are_written_as_libcamera_reads_them() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: make setup")
    cameras = [VirtualCamera("A", [(64, 48), (32, 32)]), VirtualCamera("B", [(64, 48)], picture="/share/b.jpg")]
    table = yaml.safe_load(describe(cameras).removeprefix("%YAML 1.1\n"))
    assert [(size["width"], size["height"]) for size in table["A"]["supported_formats"]] == [(64, 48), (32, 32)]
    assert table["A"]["test_pattern"] == "bars"
    assert "test_pattern" not in table["B"]
    assert table["B"]["frames"]["path"] == "/share/b.jpg"


GOOD = Row(10 * SECOND_NS, 1.0, 3, 3.0, "ina219 (hwmon)", is_estimate=False)
HELD = Held(3.0, 5 * SECOND_NS, 20 * SECOND_NS)


def test_power_that_follows_is_accepted() -> None:
    check_power_follows([GOOD], [HELD], "ina219")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD._replace(power_w=3.1), "register held"),
        (GOOD._replace(power_w=None), "no power"),
        (GOOD._replace(power_source="estimate"), "comes from"),
        (GOOD._replace(is_estimate=True), "estimate"),
        (GOOD._replace(end_ns=30 * SECOND_NS), "no row"),
    ],
)
def test_power_that_does_not_follow_is_refused(row: Row, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_power_follows([row], [HELD], "ina219")


def test_cache_lies_outside_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GHOSTWATT_BOARD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().root == tmp_path / "ghostwatt" / "board"
    monkeypatch.setenv("GHOSTWATT_BOARD_CACHE", os.fspath(tmp_path / "named"))
    assert Cache().root == tmp_path / "named"
