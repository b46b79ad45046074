"""What every power meter must do, on captured trees of ``/sys`` and ``/proc``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from device.contract import MeterConfig, Power
from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.machine import vcio
from device.meters.meter import MeterContext
from device.meters.registry import METERS
from device.meters.sampler import PowerSampler
from device.meters.select import open_meter, open_meters
from device.protocols import PowerMeter
from tests.unit.firmware import firmware_ioctl
from tests.unit.i2c import FakeSMBus, poke
from tests.unit.joulescope_driver import FakeInstrument
from tests.unit.plugs import FakePlug
from tests.unit.usb_meter import UsbPort

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"


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


def spend_pmic(root: Path, power_w: float, duration_s: float) -> None:
    path = root / "firmware/pmic_read_adc"
    # What the tree's other rails draw; the core draws the rest.
    core_a = (power_w - 1.082424) / 0.8974594
    lines = path.read_text().splitlines()
    write(path, "\n".join(f"VDD_CORE_A current(7)={core_a:.8f}A" if "VDD_CORE_A" in line else line for line in lines))


def spend_corrected_pmic(root: Path, power_w: float, duration_s: float) -> None:
    spend_pmic(root, (power_w - 0.5879) / 1.1451, duration_s)


def spend_smbus(root: Path, address: int, *registers: tuple[int, int]) -> None:
    for register, value in registers:
        poke(root / "dev/i2c-1", address, register, value)


# At 5 V; the registers' weights are those of the data sheets.
def spend_ina219(root: Path, power_w: float, duration_s: float) -> None:
    spend_smbus(root, 0x40, (0x01, round(power_w / 5.0 * 0.1 / 10e-6)), (0x02, round(5.0 / 4e-3) << 3 | 2))


def spend_ina226(root: Path, power_w: float, duration_s: float) -> None:
    spend_smbus(root, 0x41, (0x01, round(power_w / 5.0 * 0.01 / 2.5e-6)), (0x02, round(5.0 / 1.25e-3)))


def spend_ina228(root: Path, power_w: float, duration_s: float) -> None:
    spend_smbus(root, 0x42, (0x04, round(power_w / 5.0 * 0.01 / 312.5e-9) << 4), (0x05, round(5.0 / 195.3125e-6) << 4))


def spend_ina260(root: Path, power_w: float, duration_s: float) -> None:
    spend_smbus(root, 0x43, (0x01, round(power_w / 5.0 / 1.25e-3)), (0x02, round(5.0 / 1.25e-3)))


def spend_ina3221(root: Path, power_w: float, duration_s: float) -> None:
    spend_smbus(root, 0x44, (0x03, round(power_w / 5.0 * 0.1 / 40e-6) << 3), (0x04, round(5.0 / 8e-3) << 3))


def spend_battery(root: Path, power_w: float, duration_s: float) -> None:
    write(root / "sys/class/power_supply/battery/current_now", str(-round(power_w / 3.914062 * 1e6)))


def spend_termux(root: Path, power_w: float, duration_s: float) -> None:
    path = root / "data/data/com.termux/files/usr/share/battery.json"
    write(path, json.dumps({**json.loads(path.read_text()), "current": -round(power_w / 3.914 * 1e6)}))


def spend_plug(root: Path, power_w: float, duration_s: float) -> None:
    write(root / "plug", str(power_w))


class PlugOfTree(FakePlug):
    """A plug that metes out what a file of the tree says, and is out of order where there is none."""

    def __init__(self, kind: str, root: Path) -> None:
        self.path = root / "plug"
        spend_plug(root, 3.0, 0.0)
        super().__init__(kind)

    def say(self, path: str, query: dict[str, list[str]]) -> object:
        if not self.path.exists():
            return None
        self.power = float(self.path.read_text())
        return super().say(path, query)


def plug(kind: str) -> Callable[[Path], AbstractContextManager[MeterConfig]]:
    @contextmanager
    def start(root: Path) -> Iterator[MeterConfig]:
        with PlugOfTree(kind, root) as plug:
            yield {"kind": kind, "address": plug.address}

    return start


class Case(NamedTuple):
    """A meter, a tree that has one, and how that tree looks when power is drawn.

    ``start`` starts what isn't in the tree, and says by which keys it is found.
    """

    config: MeterConfig
    tree: str
    spend: Callable[[Path, float, float], None]
    broken: str
    is_estimate: bool
    scope: str
    start: Callable[[Path], AbstractContextManager[MeterConfig]] | None = None


def spend_fnirsi(root: Path, power_w: float, duration_s: float) -> None:
    USB.send(power_w)


@contextmanager
def usb(root: Path) -> Iterator[MeterConfig]:
    USB.path = root / "usb"
    USB.path.mkdir()
    yield {"kind": "fnirsi"}
    USB.path = root / "nothing"


def spend_joulescope(root: Path, power_w: float, duration_s: float) -> None:
    JOULESCOPE.send(power_w, duration_s)


@contextmanager
def joulescope(root: Path) -> Iterator[MeterConfig]:
    JOULESCOPE.path = root / "js220"
    JOULESCOPE.path.mkdir()
    yield {"kind": "joulescope"}
    JOULESCOPE.path = root / "nothing"


USB = UsbPort(Path("/nonexistent"))
JOULESCOPE = FakeInstrument(Path("/nonexistent"))
NO_PLUG = "http://127.0.0.1:1"
BUS = "dev/i2c-1"

CASES = {
    "rapl": Case({"kind": "rapl"}, "x86-rapl", spend_rapl, "sys/class/powercap", False, "cpu"),
    "ina2xx": Case({"kind": "ina2xx", "shunt_ohm": 0.1}, "rpi4-ina219", spend_ina2xx, "sys/class/hwmon/hwmon2", False, "board"),
    "estimate": Case({"kind": "estimate"}, "rpi4-ina219", spend_estimate, "proc/stat", True, "board"),
    "ina219": Case({"kind": "ina219", "shunt_ohm": 0.1}, "rpi4-i2c", spend_ina219, BUS, False, "board"),
    "ina226": Case({"kind": "ina226", "shunt_ohm": 0.01, "address": 0x41}, "rpi4-i2c", spend_ina226, BUS, False, "board"),
    "ina228": Case({"kind": "ina228", "shunt_ohm": 0.01, "address": 0x42}, "rpi4-i2c", spend_ina228, BUS, False, "board"),
    "ina260": Case({"kind": "ina260", "address": 0x43}, "rpi4-i2c", spend_ina260, BUS, False, "board"),
    "ina3221": Case(
        {"kind": "ina3221", "shunt_ohm": 0.1, "address": 0x44, "channel": 2}, "rpi4-i2c", spend_ina3221, BUS, False, "board"
    ),
    "battery": Case({"kind": "battery"}, "android-phone", spend_battery, "sys/class/power_supply/battery", False, "battery"),
    "termux_battery": Case({"kind": "termux_battery"}, "android-phone", spend_termux, "data/data/com.termux", False, "battery"),
    "fnirsi": Case({"kind": "fnirsi"}, "unknown-board", spend_fnirsi, "usb", False, "board", usb),
    "joulescope": Case({"kind": "joulescope"}, "unknown-board", spend_joulescope, "js220", False, "board", joulescope),
    "shelly": Case({"kind": "shelly", "address": NO_PLUG}, "unknown-board", spend_plug, "plug", False, "wall", plug("shelly")),
    "tasmota": Case(
        {"kind": "tasmota", "address": NO_PLUG}, "unknown-board", spend_plug, "plug", False, "wall", plug("tasmota")
    ),
    "pmic": Case({"kind": "pmic"}, "rpi5", spend_pmic, "dev/vcio_gencmd", False, "soc"),
    "pmic_vcgencmd": Case({"kind": "pmic_vcgencmd"}, "rpi5", spend_pmic, "usr/bin/vcgencmd", False, "soc"),
    "pmic_corrected": Case({"kind": "pmic_corrected"}, "rpi5", spend_corrected_pmic, "dev/vcio_gencmd", True, "board"),
}


def test_every_meter_of_the_registry_is_here() -> None:
    assert {case.config["kind"] for case in CASES.values()} == set(METERS.own_names())


@pytest.fixture(autouse=True)
def firmware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers the mailbox from the tree, where the kernel would pass it to the firmware."""
    monkeypatch.setattr(vcio, "ioctl", firmware_ioctl)


@pytest.fixture(autouse=True)
def i2c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers for the chips from the tree, where the kernel would pass the question to the bus."""
    monkeypatch.setattr("smbus2.SMBus", FakeSMBus)


@pytest.fixture(autouse=True)
def usb_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plays the libraries' part: nothing is plugged in, and one needs a newer Python than the oldest that we run on."""
    monkeypatch.setitem(sys.modules, "usb_multimeter", USB.library())
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", JOULESCOPE.library())


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
def config(case: Case, root: Path) -> Iterator[MeterConfig]:
    with case.start(root) if case.start else nullcontext(case.config) as config:
        yield config


@pytest.fixture
def meter(config: MeterConfig, root: Path, clock: ManualClock) -> Iterator[PowerMeter]:
    with open_meter(config, MeterContext(root, clock)) as meter:
        yield meter


def test_it_says_what_it_is(meter: PowerMeter, case: Case) -> None:
    assert meter.origin.source
    assert meter.origin.scope == case.scope
    assert meter.origin.is_estimate is case.is_estimate
    assert meter.timeout_s >= 0


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


# Watts, by hand from the data sheets: a count of the power register; a count at the shunt, by its ohms, at 5 V; a count of
# energy in the 10 s between two reads; the last digit that a plug writes.
RESOLUTIONS_W = {
    "rapl": 2.0**-14 / 10.0,
    "ina2xx": 2e-3,
    "ina219": 10e-6 / 0.1 * 5.0,
    "ina226": 2.5e-6 / 0.01 * 5.0,
    "ina228": 312.5e-9 / 0.01 * 5.0,
    "ina260": 1.25e-3 * 5.0,
    "ina3221": 40e-6 / 0.1 * 5.0,
    "fnirsi": 10e-6 * 5.0,
    "shelly": 0.1,
    "tasmota": 0.1,
    "estimate": None,
    "joulescope": None,
    "battery": None,
    "termux_battery": None,
    "pmic": None,
    "pmic_vcgencmd": None,
    "pmic_corrected": None,
}


def test_it_says_how_finely_it_tells_watts(meter: PowerMeter, case: Case, root: Path, clock: ManualClock) -> None:
    for power_w in (3.0, 5.5, 2.5):
        clock.advance(10.0)
        case.spend(root, power_w, 10.0)
        meter.read()
    expected_w = RESOLUTIONS_W[case.config["kind"]]
    assert meter.resolution_w is None if expected_w is None else meter.resolution_w == pytest.approx(expected_w, rel=1e-3)


def test_a_sampler_sums_up_what_it_reads(meter: PowerMeter, case: Case, root: Path, clock: ManualClock) -> None:
    sampler = PowerSampler([meter], 0.1, clock)
    sampler.sample()
    for _ in range(2):
        clock.advance(10.0)
        case.spend(root, 3.0, 10.0)
        sampler.sample()
    (total,) = sampler.figures()
    assert (total.source, total.failed, total.error) == (meter.origin.source, 0, None)
    assert total.samples >= 2


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
        clock.advance(5.0)
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert "\n" not in str(caught.value)
    gone.with_name("away").rename(gone)
    clock.advance(5.0)
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
        open_meter(case.config, MeterContext(tmp_path, ManualClock()))
    assert caught.value.reason == "missing"


def test_a_profile_finds_it_and_the_sampler_sums_it_up(case: Case, config: MeterConfig, root: Path, clock: ManualClock) -> None:
    meters, reasons = open_meters(Power(meters=(config,)), MeterContext(root, clock))
    assert reasons == []
    with meters[0]:
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
        assert (figure.source, figure.scope, figure.is_estimate) == (meters[0].origin.source, case.scope, case.is_estimate)
