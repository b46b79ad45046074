"""How a machine is named, and what others take of it: the same words and figures for the bench and for the converter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.work.machine import LoadMeter
from converter.work.machine import describe_machine as describe_for_converter
from converter.work.machine import format_machine as format_for_converter
from device.bench.conditions import ConditionMonitor
from device.bench.machine import describe_machine as describe_for_bench
from device.bench.machine import format_machine as format_for_bench
from device.core.clock import ManualClock
from device.machine.identity import Processor, read_processor
from device.machine.other_load import OtherLoad, OtherLoadMeter
from tests.unit.boards import STEADY
from tests.unit.fakes import FixedThermals

ONE_CORE = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor sse\n"


def write(root: Path, name: str, text: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / name).write_text(text)


def write_ticks(root: Path, *ticks: int) -> None:
    write(root, "stat", "cpu  " + " ".join(str(value) for value in ticks) + " 0 0\n")


def test_one_core_is_no_plural_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    write(tmp_path, "cpuinfo", ONE_CORE)
    bench = format_for_bench(describe_for_bench(tmp_path))
    converter = format_for_converter(describe_for_converter({}, tmp_path))
    assert converter.startswith("Some CPU, 1 core (a virtual machine), ")
    assert bench.startswith(converter + ", Python ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE_CORE, Processor("Some CPU", True)),
        (ONE_CORE.replace("hypervisor ", ""), Processor("Some CPU", False)),
        (ONE_CORE.replace("hypervisor", "nohypervisor"), Processor("Some CPU", False)),
        ("processor\t: 0\nCPU part\t: 0xd0b\n\nmodel name\t: of another\n", Processor(None, False)),
        ("", Processor(None, False)),
    ],
)
def test_the_processor_is_what_the_kernel_says_of_the_first(text: str, expected: Processor, tmp_path: Path) -> None:
    write(tmp_path, "cpuinfo", text)
    assert read_processor(tmp_path) == expected


def test_a_machine_without_cpuinfo_has_no_name(tmp_path: Path) -> None:
    assert read_processor(tmp_path) == Processor(None, False)


def test_bench_and_converter_see_the_same_load(tmp_path: Path) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    clock, own_s = ManualClock(), [3.0]
    before = (7, 1, 2, 3, 4, 5, 6, 8)
    write_ticks(tmp_path, *before)
    monitor = ConditionMonitor(FixedThermals(STEADY), clock, tmp_path, lambda: own_s[0])
    monitor.start()
    converter = LoadMeter(tmp_path, clock, lambda: own_s[0])
    # Thirty seconds on two cores, in the kernel's order of the kinds: 15 busy, of which 4 are ours; 4 stolen.
    seconds = (5, 4, 3, 30, 11, 2, 1, 4)
    write_ticks(tmp_path, *(ticks + of_kind * hertz for ticks, of_kind in zip(before, seconds, strict=True)))
    clock.advance(30.0)
    own_s[0] += 4.0
    conditions, machine = monitor.finish(), converter.finish(describe_for_converter({}, tmp_path))
    assert conditions.other_load_cores == machine.other_load_cores == pytest.approx(11 / 30)
    assert conditions.stolen_share == machine.stolen_share == pytest.approx(4 / 60)


def test_where_no_tick_has_passed_nothing_is_known_of_what_was_stolen(tmp_path: Path) -> None:
    clock = ManualClock()
    write_ticks(tmp_path, 1, 1, 1, 1, 1, 1, 1, 1)
    meter = OtherLoadMeter(clock, tmp_path, lambda: 0.0)
    meter.start()
    clock.advance(0.001)
    assert meter.read() == OtherLoad(0.0, None)


def test_a_meter_that_was_not_started_or_saw_no_time_pass_tells_nothing(tmp_path: Path) -> None:
    write_ticks(tmp_path, 1, 1, 1, 1, 1, 1, 1, 1)
    meter = OtherLoadMeter(ManualClock(), tmp_path)
    assert meter.read() == OtherLoad(None, None)
    meter.start()
    assert meter.read() == OtherLoad(None, None)


TICKS = st.tuples(*[st.integers(0, 10**6)] * 8)


@given(before=TICKS, after=TICKS, own_s=st.floats(0, 1e4))
def test_no_count_gives_a_figure_that_cannot_be(
    before: tuple[int, ...], after: tuple[int, ...], own_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, clock, taken_s = tmp_path_factory.mktemp("ticks"), ManualClock(), [0.0]
    write_ticks(root, *before)
    meter = OtherLoadMeter(clock, root, lambda: taken_s[0])
    meter.start()
    write_ticks(root, *after)
    taken_s[0] = own_s
    clock.advance(10.0)
    found = meter.read()
    assert found.cores is not None
    assert found.cores >= 0
    assert found.stolen_share is None or 0 <= found.stolen_share <= 1
