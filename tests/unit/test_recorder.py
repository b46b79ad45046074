from __future__ import annotations

import pytest

from device.clock import ManualClock
from device.console import StatusLine, format_interval, format_summary
from device.errors import SourceError
from device.pipeline import StageTimes
from device.process import Memory
from device.protocols import IntervalRecord, PowerFigure, Prediction, Record, ThermalSample
from device.recorder import Instruments, Recorder, RunFacts
from tests.unit.fakes import FixedThermals, ScriptedPower
from tests.unit.records import interval, prediction

MEASURED = PowerFigure(power_w=2.0, energy_j=2.0, covered_s=1.0, source="ina219 (hwmon)", scope="board", is_estimate=False)
ESTIMATED = PowerFigure(power_w=4.0, energy_j=4.0, covered_s=1.0, source="estimate", scope="board", is_estimate=True)
TIMES = StageTimes(0.001, 0.002, 0.005, 0.0001)


class Bench:
    """A recorder with everything around it in reach."""

    def __init__(self, power: ScriptedPower | None, reason: str | None = None, *, unknown_below: float | None = None) -> None:
        self.clock = ManualClock(wall_time_s=1e9)
        self.records: list[Record] = []
        self.troubles: list[str] = []
        self.newest: list[Prediction | None] = []
        thermals = FixedThermals(
            ThermalSample(temperature_c=61.5, frequency_hz=1.5e9, throttled=("throttled", "under_voltage"))
        )
        self.recorder = Recorder(
            RunFacts("host", "ghostnet_100", "litert", "ai-edge-litert 2.3.0", 1, "images:x", unknown_below),
            Instruments(power, reason, thermals, lambda: Memory(40_000_000, 50_000_000)),
            clock=self.clock,
            interval_s=1.0,
            write=self.records.append,
            on_interval=lambda _, newest: self.newest.append(newest),
            on_trouble=self.troubles.append,
        )

    def run(self, frames: int, period_s: float, dropped_each: int = 0) -> None:
        for index in range(frames):
            self.clock.advance(period_s)
            self.recorder.on_frame(prediction(index), TIMES)
            self.recorder.on_tick(dropped_each * (index + 1))

    @property
    def intervals(self) -> list[IntervalRecord]:
        return [record for record in self.records if isinstance(record, IntervalRecord)]


def test_a_row_a_second_with_what_happened_in_it() -> None:
    bench = Bench(ScriptedPower([MEASURED, None], MEASURED))
    bench.run(frames=20, period_s=0.1, dropped_each=2)
    first, second = bench.intervals
    assert (first.frames, first.dropped) == (10, 20)
    assert first.fps == pytest.approx(10.0)
    assert second.dropped == 20
    assert (first.power_w, first.power_source, first.power_is_estimate) == (2.0, "ina219 (hwmon)", False)
    assert first.inference_s == pytest.approx(0.005, rel=0.01)
    assert first.throttled == "throttled,under_voltage"
    assert first.temperature_c == 61.5


def test_a_gap_of_the_meter_is_a_gap_in_the_record() -> None:
    bench = Bench(ScriptedPower([MEASURED, None], MEASURED))
    bench.run(frames=20, period_s=0.1)
    assert bench.intervals[1].power_w is None
    assert bench.intervals[1].power_source is None


def test_every_prediction_goes_out() -> None:
    bench = Bench(None, "no meter")
    bench.run(frames=5, period_s=0.01)
    assert sum(isinstance(record, Prediction) for record in bench.records) == 5


def test_unknown_frames_are_counted_apart_from_the_labels() -> None:
    bench = Bench(None, "none", unknown_below=0.8)
    for index in range(12):
        bench.clock.advance(0.1)
        bench.recorder.on_frame(prediction(index, is_unknown=index % 4 == 0), TIMES)
        bench.recorder.on_tick(0)
    summary = bench.recorder.finish()
    assert (summary.unknown, summary.unknown_below) == (3, 0.8)
    assert summary.labels == {"hat": 9}
    assert [row.unknown for row in bench.intervals] == [3, 0]
    assert "3 of 12 frames: best score under 0.8" in format_summary(summary)


def test_without_a_threshold_the_summary_says_nothing_of_unknown_frames() -> None:
    bench = Bench(None, "none")
    bench.run(frames=3, period_s=0.1)
    summary = bench.recorder.finish()
    assert (summary.unknown, summary.unknown_below) == (0, None)
    assert "unknown" not in format_summary(summary)


def test_the_status_line_tells_what_was_seen_last() -> None:
    bench = Bench(None, "none")
    bench.run(frames=25, period_s=0.1)
    assert [one.index for one in bench.newest if one] == [9, 19]
    assert "hat 75%" in format_interval(bench.intervals[0], bench.newest[0])
    assert "unknown (hat 75%)" in format_interval(bench.intervals[0], prediction(0, is_unknown=True))


def test_summary_has_the_energy_of_an_inference() -> None:
    bench = Bench(ScriptedPower([], MEASURED))
    bench.run(frames=40, period_s=0.1)
    summary = bench.recorder.finish()
    assert summary.energy_per_inference_j == pytest.approx(2.0 * 4.0 / 40)
    assert summary.power is not None
    assert not summary.power.is_estimate
    assert summary.frames == 40
    assert summary.fps == pytest.approx(10.0)
    assert summary.labels == {"hat": 40}


def test_without_a_meter_there_is_no_figure_and_a_reason() -> None:
    bench = Bench(None, "rapl: there is no /sys/class/powercap")
    bench.run(frames=3, period_s=0.1)
    summary = bench.recorder.finish()
    assert summary.power is None
    assert summary.energy_per_inference_j is None
    assert summary.power_missing_reason == "rapl: there is no /sys/class/powercap"
    text = format_summary(summary)
    assert "no figure: rapl" in text
    assert " W " not in text


def test_an_estimate_is_called_one_wherever_it_is_shown() -> None:
    bench = Bench(ScriptedPower([ESTIMATED], ESTIMATED))
    bench.run(frames=10, period_s=0.1)
    text = format_summary(bench.recorder.finish())
    power, energy = (line for line in text.splitlines() if line.startswith(("power", "energy")))
    assert "ESTIMATE" in power
    assert "ESTIMATE" in energy
    assert "ESTIMATE" in format_interval(bench.intervals[0])


def test_a_run_without_frames_has_no_figures_but_a_summary() -> None:
    summary = Bench(None, "none").recorder.finish()
    assert summary.frames == 0
    assert summary.latency_s is None
    assert format_summary(summary)


def test_damaged_frames_are_counted_and_told() -> None:
    bench = Bench(None, "none")
    bench.recorder.on_bad_frame(SourceError("a.jpg", "is no image", reason="decode"))
    assert bench.recorder.finish().bad_frames == 1
    assert bench.troubles == ["a.jpg: is no image"]


class Stream:
    """A stream that may be a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal = is_terminal
        self.text = ""

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_a_terminal_gets_one_line_that_changes() -> None:
    stream = Stream(is_terminal=True)
    status = StatusLine(stream, is_quiet=False)  # type: ignore[arg-type]  # all of TextIO that it uses
    for second in range(5):
        status.show(interval(second * 10**9))
    status.end()
    assert stream.text.count("\n") == 1
    assert stream.text.count("\r") == 5


def test_a_journal_gets_a_line_now_and_then() -> None:
    stream = Stream(is_terminal=False)
    status = StatusLine(stream, is_quiet=False)  # type: ignore[arg-type]
    for second in range(25):
        status.show(interval(second * 10**9))
    assert len(stream.text.splitlines()) == 3
    assert "\x1b" not in stream.text
