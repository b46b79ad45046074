"""Which of a profile's meters are opened, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.contract import Board, Meter, Power
from device.core.clock import ManualClock
from device.core.errors import UsageError
from device.meters.select import open_meters

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"
BOARD = Board(name="rpi4", title="Raspberry Pi 4", arch="aarch64", cpu="cortex-a72", cores=4, memory_mb=1024)
RAPL, INA2XX, ESTIMATE = Meter(kind="rapl"), Meter(kind="ina2xx", shunt_ohm=0.1), Meter(kind="estimate")


def select(tree: str, *meters: Meter) -> tuple[list[str], list[str]]:
    opened, reasons = open_meters(Power(meters=meters), BOARD, TREES / tree, ManualClock())
    return [meter.source for meter in opened], reasons


def test_the_profiles_order_is_kept() -> None:
    assert select("rpi4-ina219", INA2XX, ESTIMATE)[0] == ["ina219 (hwmon)", "estimate (utilisation, PowerJoular's model)"]
    assert select("rpi4-ina219", ESTIMATE, INA2XX)[0] == ["estimate (utilisation, PowerJoular's model)", "ina219 (hwmon)"]


def test_each_missing_meter_says_why() -> None:
    sources, reasons = select("rpi5", RAPL, INA2XX, ESTIMATE)
    assert sources == ["estimate (utilisation, PowerJoular's model)"]
    assert [reason.partition(":")[0] for reason in reasons] == ["rapl", "ina2xx"]
    assert "no RAPL here" in reasons[0]


def test_an_estimate_that_was_not_asked_for_is_not_given() -> None:
    assert select("rpi5", RAPL)[0] == []


def test_a_board_without_any_meter_gets_none() -> None:
    sources, reasons = select("unknown-board", RAPL, INA2XX, ESTIMATE)
    assert sources == []
    assert len(reasons) == 3
    assert select("rpi5") == ([], [])


def test_a_meter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'ina2xx'"):
        select("rpi4-ina219", RAPL, Meter(kind="ina2x"))
