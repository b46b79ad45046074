"""RAPL's counters: which are summed, and what wraps, resets and junk do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters.rapl import MAX_POWER_W, RaplMeter

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "x86-rapl"
RANGE_UJ = 262_143_328_850


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREE, tmp_path / "root"))


def zone(root: Path, name: str = "intel-rapl:0") -> Path:
    return root / "sys/class/powercap" / name


def set_energy(root: Path, energy_uj: int | str, name: str = "intel-rapl:0") -> None:
    (zone(root, name) / "energy_uj").write_text(f"{energy_uj}\n")


@given(
    start_uj=st.integers(0, RANGE_UJ),
    steps_uj=st.lists(st.integers(0, round(MAX_POWER_W * 1e6)), min_size=1, max_size=20),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_energy_is_lost_when_the_counter_wraps(root: Path, start_uj: int, steps_uj: list[int]) -> None:
    clock = ManualClock()
    set_energy(root, start_uj)
    meter = RaplMeter(root, clock)
    assert meter.read() is None
    counter_uj = start_uj
    for step_uj in steps_uj:
        counter_uj += step_uj
        counter_uj -= RANGE_UJ if counter_uj > RANGE_UJ else 0
        set_energy(root, counter_uj)
        clock.advance(1.0)
        sample = meter.read()
        assert sample is not None
        assert sample.energy_j == pytest.approx(step_uj / 1e6)
        assert sample.power_w == pytest.approx(step_uj / 1e6)


def test_packages_are_summed_and_nothing_is_counted_twice(root: Path) -> None:
    shutil.copytree(zone(root), zone(root, "intel-rapl:2"))
    (zone(root, "intel-rapl:2") / "name").write_text("package-1\n")
    clock = ManualClock()
    meter = RaplMeter(root, clock)
    meter.read()
    for name in ("intel-rapl:0", "intel-rapl:2", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl-mmio:0"):
        set_energy(root, int((zone(root, name) / "energy_uj").read_text()) + 7_000_000, name)
    clock.advance(1.0)
    sample = meter.read()
    assert sample is not None
    assert sample.power_w == pytest.approx(14.0)


def test_the_platform_alone_is_no_processor(root: Path) -> None:
    shutil.rmtree(zone(root))
    with pytest.raises(MeterError) as caught:
        RaplMeter(root, ManualClock())
    assert caught.value.reason == "missing"


def test_a_counter_that_was_reset_gives_no_power(root: Path) -> None:
    clock = ManualClock()
    meter = RaplMeter(root, clock)
    meter.read()
    set_energy(root, 12)
    clock.advance(1.0)
    with pytest.raises(MeterError, match="jumped"):
        meter.read()
    set_energy(root, 9_000_012)
    clock.advance(1.0)
    sample = meter.read()
    assert sample is not None
    assert sample.power_w == pytest.approx(9.0)


def test_a_pause_that_may_hide_a_whole_turn_gives_no_power(root: Path) -> None:
    clock = ManualClock()
    meter = RaplMeter(root, clock)
    meter.read()
    clock.advance(263.0)
    with pytest.raises(MeterError, match="not read for 263 s"):
        meter.read()
    set_energy(root, 4_009_000_000)
    clock.advance(1.0)
    sample = meter.read()
    assert sample is not None
    assert sample.power_w == pytest.approx(9.0)


@pytest.mark.unprivileged
def test_a_counter_that_may_not_be_read_says_what_to_do(root: Path) -> None:
    (zone(root) / "energy_uj").chmod(0)
    with pytest.raises(MeterError, match="chmod") as caught:
        RaplMeter(root, ManualClock())
    assert caught.value.reason == "permission"


def test_a_refused_read_is_a_permission_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(MeterError) as caught:
        RaplMeter(root, ManualClock())
    assert caught.value.reason == "permission"


@given(junk=st.binary(max_size=40).filter(lambda data: not data.strip().replace(b"_", b"").lstrip(b"+-").isdigit()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_is_an_error_and_never_a_crash(root: Path, junk: bytes) -> None:
    (zone(root) / "energy_uj").write_bytes(b"5\n")
    meter = RaplMeter(root, ManualClock())
    (zone(root) / "energy_uj").write_bytes(junk)
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("value", ["0", "-1", "", "many"])
def test_a_range_that_is_none_is_refused(root: Path, value: str) -> None:
    (zone(root) / "max_energy_range_uj").write_text(value)
    with pytest.raises(MeterError) as caught:
        RaplMeter(root, ManualClock())
    assert caught.value.reason == "malformed"
