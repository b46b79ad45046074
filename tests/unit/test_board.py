"""What a machine says of itself, on captured trees and on junk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.core.errors import BoardError
from device.machine.board import detect_board
from device.machine.memory import Memory, read_memory

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"


@pytest.mark.parametrize(
    ("tree", "model", "compatible", "governor"),
    [
        (
            "rpi3-plus",
            "Raspberry Pi 3 Model B Plus Rev 1.3",
            ("raspberrypi,3-model-b-plus", "brcm,bcm2837"),
            "ondemand",
        ),
        ("rpi4-ina219", "Raspberry Pi 4 Model B Rev 1.4", ("raspberrypi,4-model-b", "brcm,bcm2711"), "ondemand"),
        ("rpi5", "Raspberry Pi 5 Model B Rev 1.0", ("raspberrypi,5-model-b", "brcm,bcm2712"), "ondemand"),
        ("rpi-zero2w", "Raspberry Pi Zero 2 W Rev 1.0", ("raspberrypi,model-zero-2-w", "brcm,bcm2837"), "ondemand"),
        (
            "unknown-board",
            "Radxa ROCK Pi 4B",
            ("radxa,rockpi4b", "radxa,rockpi4", "rockchip,rk3399"),
            "performance,schedutil",
        ),
        ("x86-rapl", None, (), "powersave"),
    ],
)
def test_captured_boards(tree: str, model: str | None, compatible: tuple[str, ...], governor: str) -> None:
    facts = detect_board(TREES / tree)
    assert (facts.board, facts.compatible, facts.governor) == (model, compatible, governor)


def test_this_machine_can_be_asked() -> None:
    facts = detect_board()
    assert facts.machine
    assert facts.kernel
    assert facts.python.startswith("3.")
    assert facts.cores >= 1


def test_an_empty_tree_has_no_facts(tmp_path: Path) -> None:
    facts = detect_board(tmp_path)
    assert (facts.board, facts.compatible, facts.governor) == (None, (), None)


@given(junk=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_never_raises_and_never_reaches_a_terminal(tmp_path: Path, junk: bytes) -> None:
    root = tmp_path
    (root / "proc/device-tree").mkdir(parents=True, exist_ok=True)
    (root / "proc/device-tree/model").write_bytes(junk)
    (root / "proc/device-tree/compatible").write_bytes(junk)
    facts = detect_board(root)
    assert facts.board is None or facts.board.isprintable()
    assert all(name and name.isprintable() for name in facts.compatible)


def test_memory_is_read_in_bytes() -> None:
    assert read_memory(TREES / "rpi5") == Memory(rss_bytes=52_480 * 1024, peak_rss_bytes=57_344 * 1024)


def test_this_process_has_memory() -> None:
    memory = read_memory()
    assert 1_000_000 < memory.rss_bytes <= memory.peak_rss_bytes


@pytest.mark.parametrize("status", [b"", b"VmRSS: many kB\nVmHWM: 5 kB", b"VmRSS: 5 kB", b"\xff\xfe"])
def test_a_process_status_that_is_none_is_an_error(tmp_path: Path, status: bytes) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_bytes(status)
    with pytest.raises(BoardError, match="proc/self/status"):
        read_memory(tmp_path)
