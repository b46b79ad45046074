"""INA2xx sensors: how the node is found, and what a wrong shunt does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.clock import ManualClock
from device.contract import Board, Meter
from device.errors import MeterError
from device.meters.ina2xx import CHIPS, Ina2xxMeter

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "rpi4-ina219"
BOARD = Board(name="rpi4", title="Raspberry Pi 4", arch="aarch64", cpu="cortex-a72", cores=4, memory_mb=1024)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREE, tmp_path / "root"))


@pytest.fixture
def node(root: Path) -> Path:
    return root / "sys/class/hwmon/hwmon2"


def open_meter(root: Path, shunt_ohm: float = 0.1) -> Ina2xxMeter:
    return Ina2xxMeter(shunt_ohm, "board", root, ManualClock())


@pytest.mark.parametrize("chip", CHIPS)
def test_each_chip_is_found_by_its_name(root: Path, node: Path, chip: str) -> None:
    (node / "name").write_text(f"{chip}\n")
    meter = open_meter(root)
    assert meter.source == f"{chip} (hwmon)"
    assert meter.read().power_w == pytest.approx(3.24)


def test_a_node_that_comes_back_under_another_number_is_read(root: Path, node: Path) -> None:
    meter = open_meter(root)
    moved = node.rename(node.with_name("hwmon7"))
    with pytest.raises(MeterError):
        meter.read()
    (moved / "power1_input").write_text("1500000\n")
    assert meter.read().power_w == pytest.approx(1.5)


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
    with pytest.raises(MeterError, match=r"reckons with 0\.01 ohm"):
        meter.read()


def test_a_shunt_is_never_guessed(root: Path) -> None:
    with pytest.raises(MeterError, match="shunt_ohm"):
        Ina2xxMeter.open(Meter(kind="ina2xx"), BOARD, root, ManualClock())


def test_the_profile_says_what_the_wires_enclose(root: Path) -> None:
    config = Meter(kind="ina2xx", shunt_ohm=0.1, scope="soc")
    assert Ina2xxMeter.open(config, BOARD, root, ManualClock()).scope == "soc"


def test_a_driver_that_does_not_say_its_shunt_is_asked_by_the_device_tree(root: Path, node: Path) -> None:
    (node / "name").write_text("ina238\n")
    (node / "shunt_resistor").unlink()
    with pytest.raises(MeterError):
        open_meter(root)
    (node / "device/of_node").mkdir(parents=True)
    (node / "device/of_node/shunt-resistor").write_bytes((100_000).to_bytes(4, "big"))
    assert open_meter(root).read().power_w == pytest.approx(3.24)
    with pytest.raises(MeterError, match="reckons with"):
        open_meter(root, shunt_ohm=0.002)


def test_two_sensors_are_one_too_many(root: Path, node: Path) -> None:
    shutil.copytree(node, node.with_name("hwmon5"))
    with pytest.raises(MeterError, match=r"hwmon2 ina219, hwmon5 ina219") as caught:
        open_meter(root)
    assert caught.value.reason == "ambiguous"


@given(current_ma=st.integers(0, 20_000), voltage_mv=st.integers(0, 26_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_without_a_power_register_current_times_voltage_is_taken(
    root: Path, node: Path, current_ma: int, voltage_mv: int
) -> None:
    (node / "power1_input").unlink(missing_ok=True)
    (node / "curr1_input").write_text(f"{current_ma}\n")
    (node / "in1_input").write_text(f"{voltage_mv}\n")
    assert open_meter(root).read().power_w == pytest.approx(current_ma / 1e3 * voltage_mv / 1e3)


@pytest.mark.parametrize("text", ["", "-5000000", "3.24", "nan", "ffff\x00"])
def test_what_is_no_power_is_an_error(root: Path, node: Path, text: str) -> None:
    meter = open_meter(root)
    (node / "power1_input").write_text(text)
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason == "malformed"
    (node / "power1_input").write_text("1000000")
    assert meter.read().power_w == 1.0
