"""Heat, speed and throttling: what can't be read is None."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.meters import SysfsThermals
from device.protocols import ThermalSample, ThrottleFlag

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / "rpi4-ina219", tmp_path / "root"))


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ("rpi4-ina219", ThermalSample(48.199, 1.8e9, ())),
        ("rpi3-plus", ThermalSample(55.844, 1.4e9, ("under_voltage", "throttled"))),
        ("rpi5", ThermalSample(61.7, 2.4e9, ("soft_temperature_limit",))),
        ("unknown-board", ThermalSample(41.875, 1.8e9, None)),
        ("x86-rapl", ThermalSample(52.0, 3.4e9, None)),
    ],
)
def test_captured_boards(tree: str, expected: ThermalSample) -> None:
    assert SysfsThermals(TREES / tree).read() == expected


def test_a_machine_without_sensors_gets_no_figures(tmp_path: Path) -> None:
    assert SysfsThermals(tmp_path).read() == ThermalSample(None, None, None)


def add_zone(root: Path, number: int, kind: str, value: str) -> None:
    zone = root / f"sys/class/thermal/thermal_zone{number}"
    zone.mkdir(parents=True)
    (zone / "type").write_text(f"{kind}\n")
    (zone / "temp").write_text(f"{value}\n")


@pytest.mark.parametrize("kind", ["cpu-thermal", "cpu-0-0-usr", "cpuss-1", "soc_thermal", "soc-thermal", "x86_pkg_temp", "BIG"])
def test_zones_of_the_processor_count(tmp_path: Path, kind: str) -> None:
    add_zone(tmp_path, 0, kind, "45000")
    assert SysfsThermals(tmp_path).read().temperature_c == 45.0


@pytest.mark.parametrize("kind", ["battery", "gpu-thermal", "socd", "iwlwifi_1", "acpitz", "skin-therm", ""])
def test_other_zones_do_not(tmp_path: Path, kind: str) -> None:
    add_zone(tmp_path, 0, kind, "45000")
    assert SysfsThermals(tmp_path).read().temperature_c is None


def test_the_hottest_plausible_zone_wins(tmp_path: Path) -> None:
    for number, value in enumerate(["41000", "57500", "-274000", "200000", "hot"]):
        add_zone(tmp_path, number, "cpu-thermal", value)
    assert SysfsThermals(tmp_path).read().temperature_c == 57.5


def test_a_sensor_that_goes_gives_none_and_one_that_comes_back_is_read(root: Path) -> None:
    thermals = SysfsThermals(root)
    (root / "sys").rename(root / "away")
    assert thermals.read() == ThermalSample(None, None, None)
    (root / "away").rename(root / "sys")
    assert thermals.read() == ThermalSample(48.199, 1.8e9, ())


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("0", ()),
        ("f", ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")),
        ("0x50005", ("under_voltage", "throttled")),
        ("e0002", ("frequency_capped",)),
        ("", None),
        ("throttled=0x0", None),
        ("-1", None),
    ],
)
def test_throttle_words(tmp_path: Path, word: str, flags: tuple[ThrottleFlag, ...] | None) -> None:
    path = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    path.parent.mkdir(parents=True)
    path.write_text(f"{word}\n")
    assert SysfsThermals(tmp_path).read().throttled == flags


@given(junk=st.binary(max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_never_raises(root: Path, junk: bytes) -> None:
    thermals = SysfsThermals(root)
    for path in (
        "sys/class/thermal/thermal_zone0/temp",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
    ):
        (root / path).write_bytes(junk)
    sample = thermals.read()
    assert sample.temperature_c is None or -60.0 < sample.temperature_c < 150.0
    SysfsThermals(root).read()
