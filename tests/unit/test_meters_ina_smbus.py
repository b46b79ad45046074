"""INA chips without a driver: their registers, their ranges, and who else may be on the bus."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.contract import MeterConfig
from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters import select
from device.meters.ina2xx import CHIPS
from device.meters.ina_smbus import InaSmbusMeter
from device.meters.meter import MeterContext
from tests.unit.i2c import FakeSMBus, peek, poke

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "rpi4-i2c"

CONFIGS: dict[str, MeterConfig] = {
    "ina219": {"kind": "ina219", "shunt_ohm": 0.1},
    "ina226": {"kind": "ina226", "shunt_ohm": 0.01, "address": 0x41},
    "ina228": {"kind": "ina228", "shunt_ohm": 0.01, "address": 0x42},
    "ina260": {"kind": "ina260", "address": 0x43},
    "ina3221": {"kind": "ina3221", "shunt_ohm": 0.1, "address": 0x44, "channel": 2},
}
SHUNT = {"ina219": 0x01, "ina226": 0x01, "ina228": 0x04, "ina260": 0x01, "ina3221": 0x03}
SETTING = {"ina219": 0x00, "ina226": 0x00, "ina228": 0x01, "ina260": 0x00, "ina3221": 0x00}


@pytest.fixture(autouse=True)
def smbus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smbus2.SMBus", FakeSMBus)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREE, tmp_path / "root"))


@pytest.fixture
def bus(root: Path) -> Path:
    return root / "dev/i2c-1"


@pytest.fixture(params=sorted(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def address_of(kind: str) -> int:
    return int(CONFIGS[kind].get("address", 0x40))


def open_meter(config: MeterConfig, root: Path, clock: ManualClock | None = None) -> InaSmbusMeter:
    meter = select.open_meter(config, MeterContext(root, clock or ManualClock()))
    assert isinstance(meter, InaSmbusMeter)
    return meter


def read_w(meter: InaSmbusMeter) -> float:
    sample = meter.read()
    assert sample is not None
    return sample.power_w


# By hand, from the tree's registers and the data sheets' weights.
@pytest.mark.parametrize(
    ("kind", "power_w"),
    [
        ("ina219", 0x1838 * 10e-6 / 0.1 * (0x2712 >> 3) * 4e-3),  # 6200 * 10 uV = 62 mV; 1250 * 4 mV = 5 V
        ("ina226", 0x09B0 * 2.5e-6 / 0.01 * 0x0FA0 * 1.25e-3),
        ("ina228", 0x04D80 * 312.5e-9 / 0.01 * 0x06400 * 195.3125e-6),
        ("ina260", 0x01F0 * 1.25e-3 * 0x0FA0 * 1.25e-3),
        ("ina3221", (0x3070 >> 3) * 40e-6 / 0.1 * (0x1388 >> 3) * 8e-3),
    ],
)
def test_the_registers_are_weighed_as_the_data_sheets_say(root: Path, kind: str, power_w: float) -> None:
    assert power_w == pytest.approx(3.1, rel=1e-3)
    assert read_w(open_meter(CONFIGS[kind], root)) == pytest.approx(power_w)


def test_the_source_says_chip_address_and_way(root: Path, kind: str) -> None:
    meter = open_meter(CONFIGS[kind], root)
    assert meter.origin.source == f"{kind} {address_of(kind):#x} (smbus)"
    assert (meter.origin.scope, meter.origin.is_estimate) == ("board", False)


@given(count=st.integers(0, 31_999), bus_count=st.integers(0, 8000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_an_ina219_multiplies_what_is_at_the_shunt_with_what_is_at_the_bus(
    root: Path, bus: Path, count: int, bus_count: int
) -> None:
    meter = open_meter(CONFIGS["ina219"], root)
    poke(bus, 0x40, 0x01, count)
    poke(bus, 0x40, 0x02, bus_count << 3 | 0b10)
    assert read_w(meter) == pytest.approx(count * 1e-5 / 0.1 * bus_count * 4e-3)


@given(count=st.integers(-(2**19), 2**19 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_an_ina228s_twenty_bits_have_a_sign(root: Path, bus: Path, count: int) -> None:
    meter = open_meter(CONFIGS["ina228"], root)
    poke(bus, 0x42, 0x04, count % (1 << 20) << 4)
    if -3 <= count < 2**19 - 1:
        assert read_w(meter) == pytest.approx(max(0, count) * 312.5e-9 / 0.01 * 5.0)
    else:
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert caught.value.reason == ("range" if abs(count) >= 2**19 - 1 else "malformed")


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("ina219", (32_000, 32_767, 0x8300)),
        ("ina226", (0x7FFF, 0x8000, 0x8001)),
        ("ina228", (0x7FFFF0, 0x800000)),
        ("ina260", (0x7FFF, 0x8000)),
        ("ina3221", (0x7FF8, 0x8000)),
    ],
)
def test_a_reading_at_the_end_of_the_range_is_no_figure(root: Path, bus: Path, kind: str, counts: tuple[int, ...]) -> None:
    meter = open_meter(CONFIGS[kind], root)
    for count in counts:
        poke(bus, address_of(kind), SHUNT[kind], count)
        with pytest.raises(MeterError, match="smaller shunt") as caught:
            meter.read()
        assert caught.value.reason == "range"


@pytest.mark.parametrize(
    ("kind", "noise", "reverse"),
    [
        ("ina219", 0xFFF6, 0xFFF5),
        ("ina226", 0xFFFC, 0xFFFB),
        ("ina228", 0xFFFFD0, 0xFFFFC0),
        ("ina260", 0xFFFC, 0xFFFB),
        ("ina3221", 0xFFF0, 0xFFE8),
    ],
)
def test_below_nothing_is_noise_first_and_then_a_shunt_wired_backwards(
    root: Path, bus: Path, kind: str, noise: int, reverse: int
) -> None:
    meter = open_meter(CONFIGS[kind], root)
    poke(bus, address_of(kind), SHUNT[kind], noise)
    assert read_w(meter) == 0.0
    poke(bus, address_of(kind), SHUNT[kind], reverse)
    with pytest.raises(MeterError, match="wired backwards") as caught:
        meter.read()
    assert caught.value.reason == "malformed"


def test_an_ina219_that_overflows_says_so(root: Path, bus: Path) -> None:
    meter = open_meter(CONFIGS["ina219"], root)
    poke(bus, 0x40, 0x02, 0x2713)
    with pytest.raises(MeterError, match="overflowed") as caught:
        meter.read()
    assert caught.value.reason == "range"
    poke(bus, 0x40, 0x02, 0x2712)
    assert read_w(meter) == pytest.approx(3.1)


def test_a_bus_below_ground_is_no_power(root: Path, bus: Path) -> None:
    meter = open_meter(CONFIGS["ina3221"], root)
    poke(bus, 0x44, 0x04, 0xFFF8)
    with pytest.raises(MeterError, match=r"-0\.008 V") as caught:
        meter.read()
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("kind", "register", "busy", "ready"),
    [
        ("ina219", 0x02, 0x2710, 0x2712),
        ("ina226", 0x06, 0x0000, 0x0008),
        ("ina228", 0x0B, 0x0001, 0x0003),
        ("ina260", 0x06, 0x0000, 0x0008),
        ("ina3221", 0x0F, 0x0002, 0x0003),
    ],
)
def test_nothing_is_said_before_the_first_conversion_has_ended(
    root: Path, bus: Path, kind: str, register: int, busy: int, ready: int
) -> None:
    clock = ManualClock()
    poke(bus, address_of(kind), register, busy)
    meter = open_meter(CONFIGS[kind], root, clock)
    assert meter.read() is None
    clock.advance(1.1)
    with pytest.raises(MeterError, match="no conversion") as caught:
        meter.read()
    assert caught.value.reason == "stalled"
    poke(bus, address_of(kind), register, ready)
    assert read_w(meter) == pytest.approx(3.1, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "expected"), [("ina219", 0x3F77), ("ina226", 0x4527), ("ina228", 0xBB6A), ("ina3221", 0x7327)]
)
def test_a_chip_that_lost_its_setting_is_set_up_anew_and_leaves_a_gap(root: Path, bus: Path, kind: str, expected: int) -> None:
    meter = open_meter(CONFIGS[kind], root)
    assert peek(bus, address_of(kind), SETTING[kind]) == expected
    assert read_w(meter) > 0
    poke(bus, address_of(kind), SETTING[kind], 0x0000)
    with pytest.raises(MeterError, match="its setting is 0x0000") as caught:
        meter.read()
    assert caught.value.reason == "setting"
    assert read_w(meter) == pytest.approx(3.1, rel=1e-3)
    assert peek(bus, address_of(kind), SETTING[kind]) == expected


@pytest.mark.parametrize(
    ("kind", "register"), [("ina226", 0xFE), ("ina226", 0xFF), ("ina228", 0x3F), ("ina260", 0xFF), ("ina3221", 0xFF)]
)
def test_another_chip_at_the_address_is_refused_and_left_alone(root: Path, bus: Path, kind: str, register: int) -> None:
    poke(bus, address_of(kind), register, 0x1234)
    before = bus.read_text()
    with pytest.raises(MeterError, match=f"which is no {kind.upper()}") as caught:
        open_meter(CONFIGS[kind], root)
    assert caught.value.reason == "chip"
    assert bus.read_text() == before


def test_an_ina226_is_no_ina219(root: Path) -> None:
    with pytest.raises(MeterError, match="which is no INA219"):
        open_meter({"kind": "ina219", "shunt_ohm": 0.1, "address": 0x41}, root)


def test_a_chip_of_the_kernels_is_left_to_it(root: Path, bus: Path, kind: str) -> None:
    bus.write_text(json.dumps({**json.loads(bus.read_text()), "bound": [f"{address_of(kind):#04x}"]}))
    with pytest.raises(MeterError, match=r"take its overlay out of /boot/firmware/config.txt") as caught:
        open_meter(CONFIGS[kind], root)
    assert caught.value.reason == "busy"
    # The others have drivers too, or none, but the kind ina2xx doesn't read them.
    assert ("use kind ina2xx" in caught.value.remedy) == (kind in CHIPS)


def test_an_address_where_no_chip_is_says_how_to_look(root: Path) -> None:
    with pytest.raises(MeterError, match="i2cdetect") as caught:
        open_meter({"kind": "ina219", "shunt_ohm": 0.1, "address": 0x4F}, root)
    assert caught.value.reason == "missing"


def test_a_bus_that_is_not_there_says_how_to_get_it(root: Path) -> None:
    with pytest.raises(MeterError, match="dtparam=i2c_arm=on") as caught:
        open_meter({"kind": "ina219", "shunt_ohm": 0.1, "bus": 7}, root)
    assert caught.value.reason == "missing"


def test_a_bus_that_may_not_be_used_says_which_group(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeSMBus, bus: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), bus)

    monkeypatch.setattr(FakeSMBus, "__init__", refuse)
    with pytest.raises(MeterError, match="usermod -aG i2c") as caught:
        open_meter(CONFIGS["ina219"], root)
    assert caught.value.reason == "permission"


def test_two_channels_of_one_chip_do_not_disturb_each_other(root: Path, bus: Path) -> None:
    poke(bus, 0x44, 0x01, 500 << 3)
    meters = [
        open_meter({"kind": "ina3221", "shunt_ohm": 0.1, "address": 0x44, "channel": channel}, root) for channel in (1, 2)
    ]
    for meter in meters * 2:
        assert meter.read() is not None
    assert [read_w(meter) for meter in meters] == pytest.approx([500 * 40e-6 / 0.1 * 5.0, 1550 * 40e-6 / 0.1 * 5.0])


def test_a_closed_meter_stays_closed(root: Path, kind: str) -> None:
    meter = open_meter(CONFIGS[kind], root)
    meter.close()
    with pytest.raises(MeterError, match="is closed"):
        meter.read()


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_whatever_the_registers_hold_it_is_a_power_or_an_error(root: Path, bus: Path, kind: str, data: st.DataObject) -> None:
    shutil.copyfile(TREE / "dev/i2c-1", bus)
    meter = open_meter(CONFIGS[kind], root)
    registers = json.loads(bus.read_text())[f"{address_of(kind):#04x}"]
    for name, value in registers.items():
        if int(name, 16) != SETTING[kind]:
            poke(bus, address_of(kind), int(name, 16), data.draw(st.integers(0, 16 ** len(value) - 1)))
    with contextlib.suppress(MeterError):
        sample = meter.read()
        assert sample is None or sample.power_w >= 0
