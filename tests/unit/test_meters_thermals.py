"""Heat, speed and throttling: what can't be read is None."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.machine.thermals import THROTTLE_FLAGS, SysfsThermals
from device.machine.vcio import Mailbox
from device.protocols import ThermalSample, ThrottleFlag
from tests.unit.firmware import firmware_ioctl

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / "rpi4-ina219", tmp_path / "root"))


NOT_HERE = ("under_voltage", "frequency_capped", "soft_temperature_limit")


@pytest.mark.parametrize(
    ("tree", "temperature_c", "frequency_hz", "governor", "throttled", "unsupported"),
    [
        ("rpi3-plus", 55.844, 1.4e9, "ondemand", ("under_voltage", "throttled"), ()),
        ("rpi4-ina219", 48.199, 1.8e9, "ondemand", (), ()),
        ("rpi5", 61.7, 2.4e9, "ondemand", ("soft_temperature_limit",), ()),
        ("rpi-zero2w", 44.008, 1e9, "ondemand", (), ("under_voltage",)),
        ("android-phone", 47.6, 2.1696e9, "schedutil", (), ("under_voltage", "throttled", "soft_temperature_limit")),
        ("x86-rapl", 52.0, 3.4e9, "powersave", (), NOT_HERE),
        ("unknown-board", 41.875, 1.8e9, "performance,schedutil", None, THROTTLE_FLAGS),
    ],
)
def test_captured_boards(
    tree: str,
    temperature_c: float,
    frequency_hz: float,
    governor: str,
    throttled: tuple[ThrottleFlag, ...] | None,
    unsupported: tuple[ThrottleFlag, ...],
) -> None:
    expected = ThermalSample(temperature_c, frequency_hz, throttled, throttled, unsupported, governor)
    assert SysfsThermals(TREES / tree).read() == expected


def test_a_machine_without_sensors_gets_no_figures(tmp_path: Path) -> None:
    assert SysfsThermals(tmp_path).read() == ThermalSample(None, None, None, unsupported=THROTTLE_FLAGS)


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
    before = thermals.read()
    (root / "sys").rename(root / "away")
    assert thermals.read() == ThermalSample(None, None, None, (), THROTTLE_FLAGS)
    (root / "away").rename(root / "sys")
    assert thermals.read() == before
    assert before.temperature_c == 48.199


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


WORD = "sys/devices/platform/soc/soc:firmware/get_throttled"


def read_words(root: Path, *words: str) -> list[tuple[ThrottleFlag, ...] | None]:
    """What is remembered after each of the firmware's words; the first is there before the reader is made."""
    (root / WORD).write_text(words[0])
    thermals = SysfsThermals(root)
    held = []
    for word in words:
        (root / WORD).write_text(word)
        held.append(thermals.read().throttled_since_start)
    return held


def test_what_held_once_is_remembered_when_it_is_over(root: Path) -> None:
    assert read_words(root, "0", "2", "0", "5", "0") == [
        (),
        ("frequency_capped",),
        ("frequency_capped",),
        ("under_voltage", "frequency_capped", "throttled"),
        ("under_voltage", "frequency_capped", "throttled"),
    ]


def test_what_occurred_before_the_run_is_not_the_runs(root: Path) -> None:
    assert read_words(root, "50000", "50000", "0") == [(), (), ()]


def test_what_came_and_went_between_two_reads_is_seen_even_though_the_kernel_clears_it(root: Path) -> None:
    assert read_words(root, "0", "10000", "0") == [(), ("under_voltage",), ("under_voltage",)]
    assert read_words(root, "10000", "0", "50000", "0")[-1] == ("under_voltage", "throttled")
    assert read_words(root, "10000", "90000")[-1] == ("soft_temperature_limit",)


def test_what_happens_before_the_first_read_belongs_to_the_run(root: Path) -> None:
    (root / WORD).write_text("10000")
    thermals = SysfsThermals(root)
    (root / WORD).write_text("50000")
    assert thermals.read().throttled_since_start == ("throttled",)


def test_each_reader_remembers_for_itself(root: Path) -> None:
    assert read_words(root, "0", "4")[-1] == ("throttled",)
    assert read_words(root, "0", "0")[-1] == ()


def test_a_word_that_can_not_be_read_for_a_while_loses_nothing(root: Path) -> None:
    assert read_words(root, "4", "gone", "0") == [("throttled",), ("throttled",), ("throttled",)]


def test_a_board_without_a_detector_of_low_voltage_never_says_that_it_is_fine(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREES / "rpi-zero2w", tmp_path / "root"))
    (root / WORD).write_text("f000f")
    sample = SysfsThermals(root).read()
    assert sample.throttled == THROTTLE_FLAGS[1:]
    assert sample.unsupported == ("under_voltage",)


def test_without_the_sysfs_file_the_mailbox_is_asked(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREES / "rpi5", tmp_path / "root"))
    shutil.rmtree(root / "sys/devices/platform")
    thermals = SysfsThermals(root, Mailbox(root, firmware_ioctl))
    assert thermals.read().throttled == ("soft_temperature_limit",)
    (root / "firmware/get_throttled").write_text("throttled=0x4")
    assert thermals.read().throttled_since_start == ("throttled", "soft_temperature_limit")
    for junk in ("throttled=", "0x4", "temp=4", "throttled=0xg"):
        (root / "firmware/get_throttled").write_text(junk)
        assert thermals.read().throttled is None


def test_with_neither_the_kernels_alarm_tells_of_the_voltage_alone(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREES / "rpi3-plus", tmp_path / "root"))
    shutil.rmtree(root / "sys/devices/platform")
    thermals = SysfsThermals(root)
    assert thermals.read().throttled == ("under_voltage",)
    (root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm").write_text("0\n")
    sample = thermals.read()
    assert (sample.throttled, sample.throttled_since_start) == ((), ("under_voltage",))
    assert sample.unsupported == THROTTLE_FLAGS[1:]


def test_an_x86_processor_is_throttled_where_a_counter_has_grown(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREES / "x86-rapl", tmp_path / "root"))
    counter = root / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count"
    thermals = SysfsThermals(root)
    found = []
    # The last but one begins anew, as after a core was switched off.
    for count in ("3", "4", "4", "0", "1"):
        counter.write_text(f"{count}\n")
        sample = thermals.read()
        found.append((sample.throttled, sample.throttled_since_start))
    flag = ("throttled",)
    assert found == [((), ()), (flag, flag), ((), flag), ((), flag), (flag, flag)]


def test_a_phone_whose_kernel_brakes_is_capped(tmp_path: Path) -> None:
    root = Path(shutil.copytree(TREES / "android-phone", tmp_path / "root"))
    thermals = SysfsThermals(root)
    (root / "sys/class/thermal/cooling_device1/cur_state").write_text("3\n")
    assert thermals.read().throttled == ("frequency_capped",)
    (root / "sys/class/thermal/cooling_device1/cur_state").write_text("0\n")
    sample = thermals.read()
    assert (sample.throttled, sample.throttled_since_start) == ((), ("frequency_capped",))


@given(words=st.lists(st.integers(0, 0xFFFFF), min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nothing_that_held_at_a_read_is_ever_forgotten(root: Path, words: list[int]) -> None:
    held = read_words(root, *(f"{word:x}" for word in words))
    seen: set[ThrottleFlag] = set()
    for word, found in zip(words, held, strict=True):
        seen |= {flag for bit, flag in enumerate(THROTTLE_FLAGS) if word >> bit & 1}
        assert found is not None
        assert seen <= set(found)
    new = [later >> 16 & ~(earlier >> 16) for earlier, later in pairwise(words)]
    assert set(held[-1] or ()) == seen | {
        flag for bit, flag in enumerate(THROTTLE_FLAGS) if any(word >> bit & 1 for word in new)
    }
