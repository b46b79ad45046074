"""What speaks against a figure, and what a machine can't tell."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from device.bench.conditions import ConditionMonitor, find_caveats, list_unknowns, read_batteries
from device.bench.machine import describe_machine, format_machine
from device.core.clock import ManualClock
from device.protocols import ThermalSample
from tests.unit.boards import STEADY, make_conditions
from tests.unit.fakes import FixedThermals

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sysfs"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"throttled": ("frequency_capped",)}, "throttled", "frequency capped"),
        ({"governors": ("ondemand",)}, "governor", "ondemand"),
        ({"governors": ("performance", "schedutil")}, "governor", "schedutil"),
        ({"frequency_low_hz": 1.5e9}, "frequency_moved", "1500 and 1800 MHz"),
        ({"other_load_cores": 0.5}, "other_load", "0.50 cores"),
        ({"stolen_share": 0.2}, "stolen_time", "20%"),
        ({"batteries": ("Charging",)}, "battery_charging", "charged"),
    ],
)
def test_each_condition_raises_its_flag(changes: dict[str, object], code: str, words: str) -> None:
    (flag,) = find_caveats([make_conditions(), make_conditions(**changes)])
    assert flag.code == code
    assert words in flag.detail


def test_a_quiet_machine_raises_none() -> None:
    quiet = make_conditions(batteries=("Discharging",), frequency_low_hz=1.79e9)
    assert find_caveats([quiet]) == ()
    assert list_unknowns([quiet]) == ()


def test_what_a_machine_cannot_tell_is_neither_a_flag_nor_silence() -> None:
    mute = make_conditions(
        throttled=None,
        governors=(),
        frequency_low_hz=None,
        frequency_high_hz=None,
        other_load_cores=None,
        stolen_share=None,
        throttle_unsupported=("under_voltage",),
    )
    assert find_caveats([mute]) == ()
    assert list_unknowns([mute]) == ("throttling", "governor", "frequency", "other load")
    assert list_unknowns([make_conditions(throttle_unsupported=("under_voltage",))]) == ("under voltage",)


def test_rounds_at_different_frequencies_raise_the_flag_together() -> None:
    one = make_conditions(frequency_low_hz=1.8e9, frequency_high_hz=1.8e9)
    other = make_conditions(frequency_low_hz=1.2e9, frequency_high_hz=1.2e9)
    assert [flag.code for flag in find_caveats([one, other])] == ["frequency_moved"]


def write_stat(root: Path, *ticks: int) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text("cpu  " + " ".join(str(value) for value in ticks) + " 0 0\ncpu0 1 2 3\n")


class Changing:
    """Thermals that change from look to look."""

    def __init__(self, *samples: ThermalSample) -> None:
        self._samples = list(samples)

    def read(self) -> ThermalSample:
        return self._samples.pop(0) if len(self._samples) > 1 else self._samples[0]


def test_other_load_is_what_is_busy_without_this_process(tmp_path: Path) -> None:
    clock = ManualClock()
    own_s = [3.0]
    monitor = ConditionMonitor(FixedThermals(STEADY), clock, tmp_path, lambda: own_s[0])
    write_stat(tmp_path, 100, 0, 0, 900, 0, 0, 0, 0)
    monitor.start()
    hertz = os.sysconf("SC_CLK_TCK")
    # Ten seconds on two cores: 12 busy, of which 9 are ours; 1 was stolen.
    write_stat(tmp_path, 100 + 10 * hertz, 0, 2 * hertz, 900 + 7 * hertz, 0, 0, 0, 1 * hertz)
    own_s[0] += 9.0
    clock.advance(10.0)
    found = monitor.finish()
    assert found.other_load_cores == pytest.approx(0.3)
    assert found.stolen_share == pytest.approx(1 / 20)


@pytest.mark.parametrize("text", [None, "", "cpu  1 2 three 4 5 6 7 8\n", "cpu  1 2\n", "intr 5\n"])
def test_a_kernel_that_does_not_count_is_unknown(text: str | None, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    if text is not None:
        (tmp_path / "proc/stat").write_text(text)
    clock = ManualClock()
    monitor = ConditionMonitor(FixedThermals(STEADY), clock, tmp_path)
    monitor.start()
    clock.advance(1.0)
    found = monitor.finish()
    assert (found.other_load_cores, found.stolen_share) == (None, None)


def test_the_range_of_what_was_seen_is_kept(tmp_path: Path) -> None:
    cool = msgspec.structs.replace(STEADY, temperature_c=40.0, frequency_hz=1.8e9)
    hot = msgspec.structs.replace(STEADY, temperature_c=80.0, frequency_hz=1.2e9, governor="schedutil")
    end = msgspec.structs.replace(STEADY, temperature_c=60.0, throttled_since_start=("throttled",))
    monitor = ConditionMonitor(Changing(cool, hot, end), ManualClock(), tmp_path)
    monitor.start()
    monitor.observe()
    found = monitor.finish()
    assert (found.temperature_low_c, found.temperature_high_c) == (40.0, 80.0)
    assert (found.frequency_low_hz, found.frequency_high_hz) == (1.2e9, 1.8e9)
    assert found.governors == ("performance", "schedutil")
    assert found.throttled == ("throttled",)


def write_supply(root: Path, name: str, **files: str) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text + "\n")


def test_only_batteries_that_feed_the_machine_count(tmp_path: Path) -> None:
    write_supply(tmp_path, "BAT0", type="Battery", status="Charging")
    write_supply(tmp_path, "mouse", type="Battery", status="Charging", scope="Device")
    write_supply(tmp_path, "AC", type="Mains", online="1")
    write_supply(tmp_path, "BAT1", type="Battery", status="Full", scope="System")
    assert read_batteries(tmp_path) == ("Charging", "Full")
    assert read_batteries(tmp_path / "none") == ()


def test_the_machine_is_named() -> None:
    machine = describe_machine(FIXTURES / "rpi5")
    assert machine.board is not None
    assert machine.board.startswith("Raspberry Pi 5")
    assert machine.board in format_machine(machine)


def test_a_virtual_machine_says_so(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor sse\n\nprocessor : 1\n"
    )
    (tmp_path / "proc/meminfo").write_text("MemTotal:        2048 kB\nMemFree: 1 kB\n")
    machine = describe_machine(tmp_path)
    assert (machine.processor, machine.is_virtual, machine.memory_bytes) == ("Some CPU", True, 2048 * 1024)
    assert "Some CPU, " in format_machine(machine)
    assert "(a virtual machine)" in format_machine(machine)
