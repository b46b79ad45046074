"""The estimate: for known boards only, and never outside its model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters.estimate import EstimateMeter

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"
TICK_LIMIT = 10**6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / "rpi5", tmp_path / "root"))


@pytest.mark.parametrize(
    ("tree", "idle_w", "full_w"),
    [("rpi3-plus", 2.00, 5.30), ("rpi4-ina219", 2.29, 6.82), ("rpi5", 4.40, 7.86)],
)
def test_idle_and_full_load_of_known_boards(tmp_path: Path, tree: str, idle_w: float, full_w: float) -> None:
    root = Path(shutil.copytree(TREES / tree, tmp_path / "root"))
    clock = ManualClock()
    (root / "proc/stat").write_text("cpu 0 0 0 0 0 0 0 0 0 0\n")
    meter = EstimateMeter(root, clock)
    assert meter.read() is None
    for line, expected_w in (("cpu 0 0 0 400 0 0 0 0 0 0", idle_w), ("cpu 300 0 60 400 0 20 20 0 0 0", full_w)):
        (root / "proc/stat").write_text(line + "\n")
        clock.advance(1.0)
        sample = meter.read()
        assert sample is not None
        assert sample.power_w == pytest.approx(expected_w, abs=0.01)


@pytest.mark.parametrize("tree", ["rpi-zero2w", "unknown-board", "x86-rapl"])
def test_other_boards_get_no_figure(tree: str) -> None:
    with pytest.raises(MeterError, match="no model of the power of") as caught:
        EstimateMeter(TREES / tree, ManualClock())
    assert caught.value.reason == "missing"


@given(st.lists(st.lists(st.integers(0, TICK_LIMIT), min_size=8, max_size=10), min_size=2, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_the_ticks_do_the_estimate_stays_inside_the_model(root: Path, readings: list[list[int]]) -> None:
    clock = ManualClock()
    meter = EstimateMeter(root, clock)
    for ticks in readings:
        (root / "proc/stat").write_text("cpu  " + " ".join(map(str, ticks)) + "\n")
        clock.advance(1.0)
        sample = meter.read()
        assert sample is None or 4.40 <= sample.power_w <= 7.87


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_is_an_error_and_never_a_crash(root: Path, junk: bytes) -> None:
    shutil.copyfile(TREES / "rpi5/proc/stat", root / "proc/stat")
    meter = EstimateMeter(root, ManualClock())
    (root / "proc/stat").write_bytes(junk)
    with pytest.raises(MeterError):
        meter.read()
