"""Which of a profile's meters are opened, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from device.contract import MeterConfig, Power
from device.core.clock import ManualClock
from device.core.errors import MeterError, UsageError
from device.core.plugin import describe_option
from device.meters.meter import Meter, MeterContext
from device.meters.registry import METERS
from device.meters.select import open_meters, read_options

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"
RAPL: MeterConfig = {"kind": "rapl"}
INA2XX: MeterConfig = {"kind": "ina2xx", "shunt_ohm": 0.1}
ESTIMATE: MeterConfig = {"kind": "estimate"}


def select(tree: str, *meters: MeterConfig) -> tuple[list[str], list[str]]:
    opened, reasons = open_meters(Power(meters=meters), MeterContext(TREES / tree, ManualClock()))
    return [meter.origin.source for meter in opened], reasons


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
        select("rpi4-ina219", RAPL, {"kind": "ina2x"})


def test_keys_that_older_manifests_leave_null_say_nothing() -> None:
    old = dict.fromkeys(("shunt_ohm", "scope", "address", "bus", "channel", "current_unit"))
    assert read_options({**old, **RAPL}) == read_options(RAPL)
    assert read_options({**old, **INA2XX}) == read_options(INA2XX)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"kind": "ina2xx"}, ("power.meters ina2xx: ina2xx without shunt_ohm", "printed on the shunt")),
        ({"kind": "ina2xx", "shunt_ohm": None}, ("without shunt_ohm",)),
        ({"kind": "ina2xx", "shunt_ohm": -1}, ("power.meters ina2xx shunt_ohm: -1", "> 0.0")),
        ({"kind": "ina2xx", "shunt_ohm": 0.1, "adress": 0x40}, ("adress: is no key of ina2xx", "did you mean 'address'?")),
        ({"kind": "ina2xx", "shunt_ohm": 0.1, "address": "0x40"}, ("ina2xx address: '0x40'", "got `str`")),
        ({"kind": "ina260", "shunt_ohm": 0.1}, ("power.meters ina260 shunt_ohm: is no key of ina260",)),
        ({"kind": "ina3221", "shunt_ohm": 0.1}, ("without channel", "which of the chip's three inputs")),
        ({"kind": "ina3221", "shunt_ohm": 0.1, "channel": 4}, ("ina3221 channel: 4", "Invalid enum value 4")),
        ({"kind": "shelly"}, ("without address", "http://HOST")),
        ({"kind": "shelly", "address": ""}, ("shelly address",)),
        ({"kind": "shelly", "address": 64}, ("shelly address: 64", "`str`, got `int`")),
    ],
)
def test_keys_that_a_meter_does_not_declare_are_refused(config: MeterConfig, parts: tuple[str, ...]) -> None:
    with pytest.raises(MeterError) as caught:
        read_options(config)
    assert caught.value.reason == "options"
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_meter_with_wrong_keys_leaves_the_others() -> None:
    sources, reasons = select("rpi4-ina219", {"kind": "ina2xx"}, ESTIMATE)
    assert len(sources) == 1
    assert reasons[0].startswith("ina2xx: power.meters ina2xx: ina2xx without shunt_ohm")


@pytest.mark.parametrize("kind", METERS.own_names())
def test_every_option_says_what_it_means(kind: str) -> None:
    plugin: type[Meter] = METERS.load(kind)
    assert plugin.summary()
    for field in msgspec.structs.fields(plugin.Options):
        assert describe_option(field.type), field.name


@pytest.mark.parametrize("meter", [{}, {"kind": None}, {"kind": 3}, {"shunt_ohm": 0.1}])
def test_a_manifest_with_a_meter_of_no_kind_is_malformed(meter: MeterConfig) -> None:
    with pytest.raises(msgspec.ValidationError, match="a kind for each of meters"):
        msgspec.convert({"meters": [meter]}, Power)
