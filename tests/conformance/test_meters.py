"""What every power meter must do, on captured trees of ``/sys`` and ``/proc``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from device.clock import ManualClock
from device.contract import Board, Meter, Power
from device.errors import MeterError
from device.meters import PowerSampler, open_meters
from device.protocols import PowerMeter
from device.registry import METERS

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"
BOARD = Board(name="any", title="Any board", arch="aarch64", cpu="cortex-a72", cores=4, memory_mb=1024)


def write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n")


def spend_rapl(root: Path, power_w: float, duration_s: float) -> None:
    path = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    write(path, str(int(path.read_text()) + round(power_w * duration_s * 1e6)))


def spend_ina2xx(root: Path, power_w: float, duration_s: float) -> None:
    write(root / "sys/class/hwmon/hwmon2/power1_input", str(round(power_w * 1e6)))


def spend_estimate(root: Path, power_w: float, duration_s: float) -> None:
    busy = round(duration_s * 400 * (power_w - 2.2857) / 4.5344)
    path = root / "proc/stat"
    fields = path.read_text().splitlines()[0].split()
    fields[1] = str(int(fields[1]) + busy)
    fields[4] = str(int(fields[4]) + round(duration_s * 400) - busy)
    write(path, " ".join(fields))


class Case(NamedTuple):
    """A meter, a tree that has one, and how that tree looks when power is drawn."""

    config: Meter
    tree: str
    spend: Callable[[Path, float, float], None]
    broken: str
    is_estimate: bool
    scope: str


CASES = {
    "rapl": Case(Meter(kind="rapl"), "x86-rapl", spend_rapl, "sys/class/powercap", False, "cpu"),
    "ina2xx": Case(Meter(kind="ina2xx", shunt_ohm=0.1), "rpi4-ina219", spend_ina2xx, "sys/class/hwmon/hwmon2", False, "board"),
    "estimate": Case(Meter(kind="estimate"), "rpi4-ina219", spend_estimate, "proc/stat", True, "board"),
}


def test_every_meter_of_ours_is_in_this_suite() -> None:
    assert set(CASES) == set(METERS.names())


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def root(case: Case, tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / case.tree, tmp_path / "root"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=5_000_000_000)


@pytest.fixture
def meter(case: Case, root: Path, clock: ManualClock) -> Iterator[PowerMeter]:
    opened: PowerMeter = METERS.load(case.config.kind).open(case.config, BOARD, root, clock)
    with opened as meter:
        yield meter


def test_it_says_what_it_is(meter: PowerMeter, case: Case) -> None:
    assert meter.source
    assert meter.scope == case.scope
    assert meter.is_estimate is case.is_estimate


def test_it_reads_the_power_that_is_drawn(meter: PowerMeter, case: Case, root: Path, clock: ManualClock) -> None:
    meter.read()
    for power_w in (3.0, 5.5, 2.5):
        clock.advance(10.0)
        case.spend(root, power_w, 10.0)
        sample = meter.read()
        assert sample is not None
        assert sample.power_w == pytest.approx(power_w, rel=1e-3)
        assert sample.timestamp_ns == clock.now_ns()
        assert sample.energy_j is None or sample.energy_j == pytest.approx(power_w * 10.0, rel=1e-3)


def test_two_reads_at_the_same_moment_are_no_division_by_zero(meter: PowerMeter) -> None:
    meter.read()
    sample = meter.read()
    assert sample is None or sample.power_w >= 0


def test_a_sensor_that_goes_is_an_error_and_one_that_comes_back_is_read(
    meter: PowerMeter, case: Case, root: Path, clock: ManualClock
) -> None:
    meter.read()
    gone = root / case.broken
    gone.rename(gone.with_name("away"))
    for _ in range(2):
        clock.advance(1.0)
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert "\n" not in str(caught.value)
    gone.with_name("away").rename(gone)
    meter.read()
    clock.advance(10.0)
    case.spend(root, 4.0, 10.0)
    sample = meter.read()
    assert sample is not None
    assert sample.power_w == pytest.approx(4.0, rel=1e-3)


def test_close_may_be_called_twice(meter: PowerMeter) -> None:
    meter.close()
    meter.close()


def test_it_is_missing_where_there_is_none(case: Case, tmp_path: Path) -> None:
    with pytest.raises(MeterError) as caught:
        METERS.load(case.config.kind).open(case.config, BOARD, tmp_path, ManualClock())
    assert caught.value.reason == "missing"


def test_a_profile_finds_it_and_the_sampler_sums_it_up(case: Case, root: Path, clock: ManualClock) -> None:
    meters, reasons = open_meters(Power(meters=(case.config,)), BOARD, root, clock)
    assert reasons == []
    sampler = PowerSampler(meters, 1.0, clock)
    case.spend(root, 4.0, 1.0)
    sampler.sample()
    for _ in range(10):
        clock.advance(1.0)
        case.spend(root, 4.0, 1.0)
        sampler.sample()
    figure = sampler.total()
    assert figure is not None
    assert figure.power_w == pytest.approx(4.0, rel=0.01)
    assert figure.energy_j == pytest.approx(40.0, rel=0.01)
    assert figure.covered_s == pytest.approx(10.0)
    assert (figure.source, figure.scope, figure.is_estimate) == (meters[0].source, case.scope, case.is_estimate)
