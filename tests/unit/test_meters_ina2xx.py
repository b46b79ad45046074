"""INA2xx sensors: how the node is found, and what a wrong shunt does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters.ina2xx import CHIPS, Ina2xxMeter, Ina2xxOptions
from device.meters.meter import MeterContext

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "rpi4-ina219"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREE, tmp_path / "root"))


@pytest.fixture
def node(root: Path) -> Path:
    return root / "sys/class/hwmon/hwmon2"


def open_meter(root: Path, shunt_ohm: float = 0.1, address: int | None = None, bus: int | None = None) -> Ina2xxMeter:
    options = Ina2xxOptions(shunt_ohm=shunt_ohm, address=address, bus=bus)
    return Ina2xxMeter.open(options, MeterContext(root, ManualClock()))


def put_on_bus(root: Path, node: Path, name: str) -> None:
    """Gives a node the link to its client that the kernel makes: ``device -> ../../../1-0040``."""
    client = root / "sys/devices/platform/soc/fe804000.i2c/i2c-1" / name
    client.mkdir(parents=True, exist_ok=True)
    (node / "device").symlink_to(client)


@pytest.mark.parametrize("chip", CHIPS)
def test_each_chip_is_found_by_its_name(root: Path, node: Path, chip: str) -> None:
    (node / "name").write_text(f"{chip}\n")
    meter = open_meter(root)
    assert meter.origin.source == f"{chip} (hwmon)"
    assert meter.read().power_w == pytest.approx(3.24)


@pytest.mark.parametrize(
    ("chip", "shunt_ohm", "step_w"),
    [
        ("ina219", 0.1, 2e-3),
        ("ina220", 0.01, 20e-3),
        ("ina226", 0.1, 625e-6),
        ("ina231", 0.002, 31.25e-3),
        ("ina238", 0.1, None),
    ],
)
def test_a_count_of_the_power_register_is_the_resolution(
    root: Path, node: Path, chip: str, shunt_ohm: float, step_w: float | None
) -> None:
    (node / "name").write_text(f"{chip}\n")
    (node / "shunt_resistor").write_text(f"{round(shunt_ohm * 1e6)}\n")
    assert open_meter(root, shunt_ohm).resolution_w == (step_w and pytest.approx(step_w))


def test_a_node_that_comes_back_under_another_number_is_read(root: Path, node: Path) -> None:
    meter = open_meter(root)
    moved = node.rename(node.with_name("hwmon7"))
    with pytest.raises(MeterError):
        meter.read()
    (moved / "power1_input").write_text("1500000\n")
    assert meter.read().power_w == pytest.approx(1.5)


class Bus:
    """Sensors as the kernel shows them: a folder in the client's own, and a numbered link to it."""

    def __init__(self, root: Path, node: Path) -> None:
        self._links = node.parent
        self._pattern = node.rename(root / "pattern")
        self._devices = root / "sys/devices/platform/soc/fe804000.i2c/i2c-1"

    def bind(self, number: int, place: str, power_w: float, chip: str = "ina219") -> Path:
        node = self._devices / place / "hwmon" / f"hwmon{number}"
        shutil.copytree(self._pattern, node)
        (node / "name").write_text(f"{chip}\n")
        (node / "power1_input").write_text(f"{round(power_w * 1e6)}\n")
        (node / "device").symlink_to("../..")
        link = self._links / node.name
        link.symlink_to(node)
        return link

    def unbind(self, link: Path) -> None:
        shutil.rmtree(link.resolve())
        link.unlink()


def test_another_sensor_that_gets_its_number_is_not_taken_for_it(root: Path, node: Path) -> None:
    bus = Bus(root, node)
    own = bus.bind(2, "1-0041", 3.0)
    meter = open_meter(root, address=0x41)
    assert meter.read().power_w == pytest.approx(3.0)
    bus.unbind(own)
    bus.bind(2, "1-0045", 9.0)
    for _ in range(2):
        assert reason_of_read(meter) == "missing"
    bus.bind(3, "1-0041", 4.0)
    assert meter.read().power_w == pytest.approx(4.0)


@pytest.mark.parametrize(("place", "chip"), [("1-0045", "ina219"), ("1-0041", "ina226")])
def test_who_needs_no_address_waits_for_the_same_sensor_too(root: Path, node: Path, place: str, chip: str) -> None:
    bus = Bus(root, node)
    own = bus.bind(2, "1-0041", 3.0)
    meter = open_meter(root)
    assert meter.origin.source == "ina219 (hwmon)"
    bus.unbind(own)
    other = bus.bind(5, place, 9.0, chip)
    for _ in range(2):
        assert reason_of_read(meter) == "missing"
    bus.unbind(other)
    bus.bind(6, "1-0041", 4.0)
    assert meter.read().power_w == pytest.approx(4.0)


def reason_of_read(meter: Ina2xxMeter) -> str:
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_shunt_that_the_kernel_sees_otherwise_is_refused_with_both_values(root: Path) -> None:
    with pytest.raises(MeterError, match=r"0\.1 ohm, the profile says 0\.01 ohm") as caught:
        open_meter(root, shunt_ohm=0.01)
    assert caught.value.reason == "shunt"


def test_a_shunt_is_checked_again_when_the_node_comes_back(root: Path, node: Path) -> None:
    meter = open_meter(root)
    moved = node.rename(node.with_name("hwmon7"))
    with pytest.raises(MeterError):
        meter.read()
    (moved / "shunt_resistor").write_text("10000\n")
    with pytest.raises(MeterError, match=r"calculates with 0\.01 ohm"):
        meter.read()


def test_the_profile_says_what_the_wires_enclose(root: Path) -> None:
    options = Ina2xxOptions(shunt_ohm=0.1, scope="soc")
    assert Ina2xxMeter.open(options, MeterContext(root, ManualClock())).origin.scope == "soc"


def test_a_driver_that_does_not_say_its_shunt_is_asked_by_the_device_tree(root: Path, node: Path) -> None:
    (node / "name").write_text("ina238\n")
    (node / "shunt_resistor").unlink()
    with pytest.raises(MeterError):
        open_meter(root)
    (node / "device/of_node").mkdir(parents=True)
    (node / "device/of_node/shunt-resistor").write_bytes((100_000).to_bytes(4, "big"))
    assert open_meter(root).read().power_w == pytest.approx(3.24)
    with pytest.raises(MeterError, match="calculates with"):
        open_meter(root, shunt_ohm=0.002)


def test_two_sensors_are_one_too_many(root: Path, node: Path) -> None:
    shutil.copytree(node, node.with_name("hwmon5"))
    with pytest.raises(MeterError, match=r"hwmon2 ina219, hwmon5 ina219") as caught:
        open_meter(root)
    assert caught.value.reason == "ambiguous"


def test_sensors_of_one_kind_are_told_apart_by_their_place(root: Path, node: Path) -> None:
    other = Path(shutil.copytree(node, node.with_name("hwmon5")))
    third = Path(shutil.copytree(node, node.with_name("hwmon6")))
    for folder, name, power_uw in ((node, "1-0040", 1_000_000), (other, "1-0041", 2_000_000), (third, "10-0041", 3_000_000)):
        put_on_bus(root, folder, name)
        (folder / "power1_input").write_text(f"{power_uw}\n")
    assert open_meter(root, address=0x40).read().power_w == 1.0
    assert open_meter(root, address=0x41, bus=1).read().power_w == 2.0
    assert open_meter(root, bus=10).read().power_w == 3.0
    assert open_meter(root, address=0x40).origin.source == "ina219 0x40 (hwmon)"
    with pytest.raises(MeterError, match="hwmon5 ina219 at 0x41 of bus 1, hwmon6 ina219 at 0x41 of bus 10") as caught:
        open_meter(root, address=0x41)
    assert caught.value.reason == "ambiguous"
    with pytest.raises(MeterError, match=r"at 0x44 of bus 1, but hwmon2 ina219 at 0x40 of bus 1, ") as caught:
        open_meter(root, address=0x44, bus=1)
    assert caught.value.reason == "missing"


def test_one_that_is_asked_for_by_address_is_found_again_among_others(root: Path, node: Path) -> None:
    other = Path(shutil.copytree(node, node.with_name("hwmon3")))
    put_on_bus(root, node, "1-0040")
    put_on_bus(root, other, "1-0041")
    (other / "name").write_text("ina219\n")
    (other / "power1_input").write_text("9000000\n")
    meter = open_meter(root, address=0x40)
    moved = node.rename(node.with_name("hwmon7"))
    with pytest.raises(MeterError):
        meter.read()
    (moved / "power1_input").write_text("1500000\n")
    assert meter.read().power_w == 1.5


@pytest.mark.parametrize(("gain", "limit_ma"), [(1, 409), (4, 1638), (None, 1638)])
def test_an_ina238_that_the_device_tree_makes_finer_ends_earlier(
    root: Path, node: Path, gain: int | None, limit_ma: int
) -> None:
    (node / "name").write_text("ina238\n")
    put_on_bus(root, node, "1-0040")
    (node / "device/of_node").mkdir()
    if gain is not None:
        (node / "device/of_node/ti,shunt-gain").write_bytes(gain.to_bytes(4, "big"))
    (node / "curr1_input").write_text(f"{round(0.9 * limit_ma)}\n")
    meter = open_meter(root)
    (node / "curr1_input").write_text(f"{limit_ma}\n")
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason == "range"


@pytest.mark.parametrize(("chip", "limit_ma"), [("ina219", 3200), ("ina226", 819), ("ina238", 1638)])
def test_a_current_beyond_the_range_is_no_figure(root: Path, node: Path, chip: str, limit_ma: int) -> None:
    (node / "name").write_text(f"{chip}\n")
    (node / "curr1_input").write_text("500\n")
    meter = open_meter(root)
    for current_ma in (limit_ma, -limit_ma):
        (node / "curr1_input").write_text(f"{current_ma}\n")
        with pytest.raises(MeterError, match="smaller shunt") as caught:
            meter.read()
        assert caught.value.reason == "range"
    (node / "curr1_input").write_text(f"{round(limit_ma * 0.95)}\n")
    assert meter.read().power_w == pytest.approx(3.24)


def test_a_current_that_flows_backwards_is_no_power_drawn(root: Path, node: Path) -> None:
    (node / "curr1_input").write_text("-400\n")
    with pytest.raises(MeterError, match="wired backwards"):
        open_meter(root)


def test_a_slow_setting_of_the_sensor_is_told(root: Path, node: Path) -> None:
    (node / "update_interval").write_text("2250\n")
    assert open_meter(root).read().period_s == 2.25
    (node / "update_interval").unlink()
    assert open_meter(root).read().period_s == 0.0


@given(current_ma=st.integers(0, 3000), voltage_mv=st.integers(0, 26_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_without_a_power_register_current_times_voltage_is_taken(
    root: Path, node: Path, current_ma: int, voltage_mv: int
) -> None:
    (node / "power1_input").unlink(missing_ok=True)
    (node / "curr1_input").write_text(f"{current_ma}\n")
    (node / "in1_input").write_text(f"{voltage_mv}\n")
    assert open_meter(root).read().power_w == pytest.approx(current_ma / 1e3 * voltage_mv / 1e3)


@pytest.mark.parametrize("text", ["", "-5000000", "3.24", "nan", "ffff\x00", "1" * 400])
def test_what_is_no_power_is_an_error(root: Path, node: Path, text: str) -> None:
    meter = open_meter(root)
    (node / "power1_input").write_text(text)
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason == "malformed"
    (node / "power1_input").write_text("1000000")
    assert meter.read().power_w == 1.0
