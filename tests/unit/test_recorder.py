from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue

import pytest
from msgspec import structs

from device.core.clock import ManualClock
from device.core.errors import SourceError
from device.daemon.console import Console, format_interval, format_summary
from device.daemon.instruments import Instruments
from device.daemon.recorder import Recorder
from device.machine.memory import Memory
from device.protocols import (
    Event,
    FrameDamaged,
    Interruption,
    InterruptionRecord,
    IntervalRecord,
    MeterRecord,
    MeterTotal,
    Note,
    PowerFigure,
    RunEnded,
    SourceIntervalRecord,
    SourceSpec,
    ThermalSample,
    Tick,
    Trouble,
)
from tests.unit.fakes import FixedThermals, ScriptedPower
from tests.unit.records import frame, interval, run_record

MEASURED = PowerFigure(power_w=2.0, energy_j=2.0, covered_s=1.0, source="ina219 (hwmon)", scope="board", is_estimate=False)
ESTIMATED = PowerFigure(power_w=4.0, energy_j=4.0, covered_s=1.0, source="estimate", scope="board", is_estimate=True)
FILES = SourceSpec(uri="images:x", is_live=False)
DOOR = SourceSpec(uri="v4l2:/dev/video0", is_live=True)
YARD = SourceSpec(uri="rtsp://yard/stream", is_live=True)


class Bench:
    """A recorder with everything around it in reach."""

    def __init__(
        self,
        power: ScriptedPower | None,
        reason: str | None = None,
        *,
        unknown_below: float | None = None,
        sources: Sequence[SourceSpec] = (FILES,),
        heat: ThermalSample | None = None,
    ) -> None:
        self.clock = ManualClock(wall_time_s=1e9)
        self.records: list[Event] = []
        self.interruptions: SimpleQueue[Interruption] = SimpleQueue()
        self.allowed_fps: float | None = None
        thermals = FixedThermals(
            heat or ThermalSample(temperature_c=61.5, frequency_hz=1.5e9, throttled=("throttled", "under_voltage"))
        )
        self.recorder = Recorder(
            structs.replace(run_record(), unknown_below=unknown_below),
            sources,
            Instruments(power, (reason,) if reason else (), thermals, lambda: Memory(40_000_000, 50_000_000)),
            self.interruptions,
            clock=self.clock,
            interval_s=1.0,
            emit=self.records.append,
            limit_rate=lambda _temperature_c, _now_ns: self.allowed_fps,
        )

    def run(self, frames: int, period_s: float, dropped_each: int = 0) -> None:
        for index in range(frames):
            self.clock.advance(period_s)
            self.recorder.write(frame(index))
            self.recorder.write(Tick({FILES.uri: dropped_each * (index + 1)}))

    @property
    def lines(self) -> list[str]:
        """What a person reads of troubles and interruptions."""
        stream = Stream(is_terminal=False)
        console = Console(stream)  # type: ignore[arg-type]  # all of TextIO that it uses
        for record in self.records:
            if isinstance(record, Trouble | Note | InterruptionRecord):
                console.write(record)
        return stream.text.splitlines()

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
    assert first.power == MEASURED
    assert first.inference_s == pytest.approx(0.005, rel=0.01)
    assert first.throttled == "throttled,under_voltage"
    assert first.temperature_c == 61.5


def test_a_gap_of_the_meter_is_a_gap_in_the_record() -> None:
    bench = Bench(ScriptedPower([MEASURED, None], MEASURED))
    bench.run(frames=20, period_s=0.1)
    assert [row.power for row in bench.intervals] == [MEASURED, None]


def test_unknown_frames_are_counted_apart_from_the_labels() -> None:
    bench = Bench(None, "none", unknown_below=0.8)
    for index in range(12):
        bench.clock.advance(0.1)
        bench.recorder.write(frame(index, is_unknown=index % 4 == 0))
        bench.recorder.write(Tick({}))
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
    stream = Stream(is_terminal=False)
    console = Console(stream)  # type: ignore[arg-type]
    for second, is_unknown in enumerate([False, True]):
        console.write(frame(0, is_unknown=not is_unknown))
        console.write(frame(1, is_unknown=is_unknown))
        console.write(interval(second * 10 * 10**9))
    first, second_line = stream.text.splitlines()
    assert "FPS | hat 75% |" in first
    assert "FPS | unknown (hat 75%) |" in second_line


def test_summary_has_the_energy_of_an_inference() -> None:
    bench = Bench(ScriptedPower([MEASURED] * 4, structs.replace(MEASURED, energy_j=8.0, covered_s=4.0)))
    bench.run(frames=40, period_s=0.1)
    summary = bench.recorder.finish()
    assert summary.energy_per_inference_j == pytest.approx(2.0 * 4.0 / 40)
    assert "of the run" not in format_summary(summary)
    assert summary.power is not None
    assert not summary.power.is_estimate
    assert summary.frames == 40
    assert summary.fps == pytest.approx(10.0)
    assert summary.labels == {"hat": 40}


def test_energy_is_of_the_time_that_the_meter_covered_and_of_the_inferences_in_it() -> None:
    # 40 frames a second while the meter is there, 10 while it is away: its joules belong to the former.
    bench = Bench(ScriptedPower([MEASURED, None, None, None], MEASURED))
    bench.run(frames=40, period_s=0.025)
    bench.run(frames=30, period_s=0.1)
    summary = bench.recorder.finish()
    assert summary.energy_per_inference_j == pytest.approx(2.0 / 40)
    lines = {line.split()[0]: line for line in format_summary(summary).splitlines()}
    assert "in 1.0 s of the run" in lines["power"]
    assert "in 1.0 s of the run" in lines["energy"]


def test_half_an_interval_covered_is_half_its_inferences() -> None:
    half = structs.replace(MEASURED, energy_j=1.0, covered_s=0.5)
    bench = Bench(ScriptedPower([half], half))
    bench.run(frames=10, period_s=0.1)
    assert bench.recorder.finish().energy_per_inference_j == pytest.approx(1.0 / 5)


def test_a_meter_that_another_stands_in_for_is_named() -> None:
    bench = Bench(ScriptedPower([ESTIMATED], ESTIMATED), "ina2xx: no node; expected one")
    bench.run(frames=10, period_s=0.1)
    summary = bench.recorder.finish()
    assert summary.power_meters_missing == ("ina2xx: no node; expected one",)
    assert "ina2xx: no node; expected one" in format_summary(summary)


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


PLUG = MeterTotal(
    source="shelly",
    scope="wall",
    is_estimate=False,
    resolution_w=0.1,
    power_w=3.5,
    energy_j=3.5,
    covered_s=1.0,
    sample_rate_hz=1.0,
    samples=60,
    failed=2,
    error="shelly: did not answer",
)


def test_a_headline_without_a_figure_does_not_hide_the_meters_beside_it() -> None:
    silent = structs.replace(PLUG, source="ina219", power_w=None, energy_j=None, covered_s=0.0, error="ina219: gone")
    power = ScriptedPower([], None, others=(silent, PLUG), error="ina219: gone")
    heat = ThermalSample(temperature_c=61.5, frequency_hz=None, throttled=(), throttled_since_start=("throttled",))
    bench = Bench(power, "pmic: no such command", heat=heat)
    bench.run(frames=40, period_s=0.1)
    lines = format_summary(bench.recorder.finish()).splitlines()
    (headline,) = (line for line in lines if line.startswith("power"))
    (beside,) = (line for line in lines if "shelly" in line)
    assert "no figure: ina219: gone" in headline
    assert "3.50 W (shelly, wall, measured)" in beside
    # What stands beside the headline's figure stands beside every figure.
    assert "in 1.0 s of the run" in beside
    assert "THROTTLED (throttled)" in beside
    assert [line for line in lines if "pmic: no such command" in line]


def test_a_throttled_run_says_so_beside_every_figure_that_this_bends() -> None:
    heat = ThermalSample(temperature_c=82.0, frequency_hz=None, throttled=(), throttled_since_start=("throttled",))
    bench = Bench(ScriptedPower([MEASURED], MEASURED, others=(PLUG,)), sources=(FILES, DOOR), heat=heat)
    bench.run(frames=10, period_s=0.1)
    lines = format_summary(bench.recorder.finish()).splitlines()
    bent = [line for line in lines if any(unit in line for unit in (" FPS", " ms", " W ", " mJ"))]
    assert len(bent) == 11
    assert [line for line in bent if "THROTTLED (throttled)" not in line] == []


def test_every_meter_is_recorded_and_the_first_gives_the_headline() -> None:
    bench = Bench(ScriptedPower([MEASURED], MEASURED, others=(PLUG,)))
    bench.run(frames=10, period_s=0.1)
    summary = bench.recorder.finish()
    assert [meter.source for meter in summary.power_meters] == ["ina219 (hwmon)", "shelly"]
    assert summary.sampler_cpu_s == 0.25
    text = format_summary(summary)
    (line,) = (line for line in text.splitlines() if "shelly" in line)
    assert "3.50 W (shelly, wall, measured), steps of 0.1 W, 1 Hz" in line
    assert "2 reads failed" in line
    records = [record for record in bench.records if isinstance(record, MeterRecord)]
    assert [(record.place, record.source, record.power_w) for record in records] == [
        (0, "ina219 (hwmon)", 2.0),
        (1, "shelly", 3.5),
    ]
    assert [(record.resolution_w, record.sample_rate_hz) for record in records] == [(0.002, 10.0), (0.1, 1.0)]
    (headline,) = (line for line in text.splitlines() if line.startswith("power"))
    assert "2.00 W (ina219 (hwmon), board, measured), steps of 2 mW, 10 Hz" in headline


def test_meters_are_recorded_once_a_minute_so_that_a_kill_loses_little() -> None:
    bench = Bench(ScriptedPower([], MEASURED))
    bench.run(frames=1300, period_s=0.1)
    assert sum(isinstance(record, MeterRecord) for record in bench.records) == 2


def test_a_meter_that_gave_nothing_says_why() -> None:
    bench = Bench(ScriptedPower([], None, error="battery: is charging; expected discharging"))
    bench.run(frames=10, period_s=0.1)
    assert bench.recorder.finish().power_missing_reason == "battery: is charging; expected discharging"


def test_a_run_without_frames_has_no_figures_but_a_summary() -> None:
    summary = Bench(None, "none").recorder.finish()
    assert summary.frames == 0
    assert summary.latency_s is None
    assert format_summary(summary)


def test_the_last_interval_is_kept_without_frames_too() -> None:
    bench = Bench(ScriptedPower([MEASURED, MEASURED], MEASURED))
    bench.run(frames=10, period_s=0.1)
    bench.clock.advance(0.4)
    bench.recorder.finish()
    assert [record.power for record in bench.intervals] == [MEASURED] * 2
    assert bench.intervals[-1].frames == 0
    assert bench.intervals[-1].duration_s == pytest.approx(0.4)


def test_dropped_frames_of_the_last_interval_are_kept() -> None:
    bench = Bench(None, "none")
    bench.run(frames=10, period_s=0.1)
    bench.clock.advance(0.4)
    bench.recorder.write(Tick({FILES.uri: 3}))
    bench.recorder.finish()
    assert [record.dropped for record in bench.intervals] == [0, 3]


def test_damaged_frames_are_counted_and_told() -> None:
    bench = Bench(None, "none")
    bench.recorder.write(FrameDamaged(FILES.uri, SourceError("a.jpg", "is no image", reason="decode")))
    assert bench.recorder.finish().bad_frames == 1
    assert bench.lines == ["warning: a.jpg: is no image"]


@pytest.mark.parametrize("is_live", [False, True])
def test_damaged_files_are_each_told_and_counted_at_their_own_rate_too(is_live: bool) -> None:
    files = SourceSpec(uri="images:x", is_live=is_live, is_recorded=True)
    bench = Bench(None, "none", sources=(files,))
    for name in "abc":
        bench.recorder.write(FrameDamaged(files.uri, SourceError(f"{name}.jpg", "is no image", reason="decode")))
    assert bench.lines == [f"warning: {name}.jpg: is no image" for name in "abc"]
    assert bench.recorder.bad_files == 3


def test_each_source_has_its_own_row_beside_the_intervals() -> None:
    bench = Bench(None, "none", sources=(DOOR, YARD))
    for index in range(20):
        bench.clock.advance(0.05)
        bench.recorder.write(frame(index, source=(YARD if index % 4 == 0 else DOOR).uri))
        bench.recorder.write(Tick({DOOR.uri: index, YARD.uri: 0}))
    (row,) = bench.intervals
    door, yard = (record for record in bench.records if isinstance(record, SourceIntervalRecord))
    assert (door.source, door.frames, door.dropped) == (DOOR.uri, 15, 19)
    assert (yard.source, yard.frames, yard.dropped) == (YARD.uri, 5, 0)
    assert door.timestamp_ns == yard.timestamp_ns == row.timestamp_ns
    assert row.frames == door.frames + yard.frames
    assert row.dropped == door.dropped + yard.dropped
    summary = bench.recorder.finish()
    assert [(source.uri, source.frames) for source in summary.sources] == [(DOOR.uri, 15), (YARD.uri, 5)]
    assert "rtsp://yard/stream: 5 frames" in format_summary(summary)


def test_an_interruption_is_told_and_kept_when_it_begins_and_when_it_ends() -> None:
    bench = Bench(None, "none", sources=(DOOR, YARD))
    bench.clock.advance(10.0)
    began = Interruption(YARD.uri, "stalled", "no frame within 5 s", started_ns=4 * 10**9)
    bench.interruptions.put(began)
    bench.recorder.write(Tick({}))
    assert bench.lines == ["warning: rtsp://yard/stream: stalled; no frame within 5 s"]
    sources = {record.source: record for record in bench.records if isinstance(record, SourceIntervalRecord)}
    assert (sources[DOOR.uri].is_interrupted, sources[YARD.uri].is_interrupted) == (False, True)
    bench.interruptions.put(structs.replace(began, duration_s=7.25, attempts=2, is_over=True))
    bench.recorder.write(Tick({}))
    assert bench.lines[1:] == ["note: rtsp://yard/stream: well again after 7.2 s (stalled, attempts to open it again: 2)"]
    first, last = (record for record in bench.records if isinstance(record, InterruptionRecord))
    assert (first.duration_s, first.is_over) == (None, False)
    assert (last.duration_s, last.attempts, last.is_over) == (7.25, 2, True)
    assert first.wall_time_s == last.wall_time_s == pytest.approx(1e9 + 4.0)
    summary = bench.recorder.finish()
    assert summary.interruptions == 1
    assert [source.interrupted_s for source in summary.sources] == [0.0, 7.25]


def test_darkness_is_told_but_is_no_interruption() -> None:
    bench = Bench(None, "none", sources=(DOOR,))
    bench.interruptions.put(Interruption(DOOR.uri, "dark", "every pixel is black", started_ns=0))
    bench.clock.advance(1.0)
    bench.recorder.write(Tick({}))
    assert bench.lines == ["warning: v4l2:/dev/video0: dark; every pixel is black"]
    assert not any(record.is_interrupted for record in bench.records if isinstance(record, SourceIntervalRecord))
    assert bench.recorder.finish().interruptions == 0


def test_a_run_that_ends_in_an_interruption_says_so() -> None:
    bench = Bench(None, "none", sources=(DOOR,))
    bench.interruptions.put(Interruption(DOOR.uri, "ended", "gone", started_ns=0, duration_s=3.0, attempts=1))
    assert bench.recorder.finish().interruptions == 1
    assert bench.lines == ["warning: v4l2:/dev/video0: the run ends in it, after 3.0 s (ended, attempts to open it again: 1)"]


def test_a_camera_with_many_damaged_frames_is_told_of_once_a_minute() -> None:
    bench = Bench(None, "none", sources=(DOOR,))
    for index in range(130):
        bench.clock.advance(0.5)
        bench.recorder.write(FrameDamaged(DOOR.uri, SourceError(f"frame {index}", "the JPEG is truncated", reason="decode")))
        bench.recorder.write(Tick({}))
    assert bench.lines == [
        "warning: frame 0: the JPEG is truncated",
        "warning: frame 120: the JPEG is truncated (119 more frames since the last warning)",
    ]
    assert bench.recorder.bad_files == 0
    assert bench.recorder.finish().bad_frames == 130
    assert sum(record.bad_frames for record in bench.records if isinstance(record, SourceIntervalRecord)) == 130


def test_a_run_that_was_throttled_says_so_beside_every_figure() -> None:
    bench = Bench(
        ScriptedPower([MEASURED], MEASURED),
        heat=ThermalSample(
            70.0, 1.5e9, (), throttled_since_start=("frequency_capped",), unsupported=("under_voltage",), governor="ondemand"
        ),
    )
    bench.run(frames=10, period_s=0.1)
    summary = bench.recorder.finish()
    assert summary.throttled == ("frequency_capped",)
    lines = {line.split()[0]: line for line in format_summary(summary).splitlines()}
    for name in ("speed", "latency", "power", "energy"):
        assert "THROTTLED (frequency_capped)" in lines[name]
    assert "can't tell: under_voltage" in lines["heat"]


def test_a_flag_that_came_and_went_stands_in_the_row_of_its_interval() -> None:
    bench = Bench(None, "none", heat=ThermalSample(70.0, None, (), throttled_since_start=("under_voltage",)))
    bench.run(frames=20, period_s=0.1)
    assert [row.throttled for row in bench.intervals] == ["under_voltage", ""]


def test_a_board_that_cannot_tell_is_not_called_well() -> None:
    bench = Bench(None, "none", heat=ThermalSample(50.0, None, None))
    bench.run(frames=3, period_s=0.1)
    text = format_summary(bench.recorder.finish())
    assert "this board can't tell" in text
    assert "never throttled" not in text


def test_what_the_heat_allows_stands_in_the_row() -> None:
    bench = Bench(None, "none")
    bench.run(frames=10, period_s=0.1)
    bench.allowed_fps = 5.0
    bench.run(frames=10, period_s=0.1)
    assert [row.heat_limit_fps for row in bench.intervals] == [None, 5.0]


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
    console = Console(stream)  # type: ignore[arg-type]  # all of TextIO that it uses
    for second in range(5):
        console.write(interval(second * 10**9))
    console.write(RunEnded(Bench(None, "none").recorder.finish()))
    assert stream.text.count("\n") == 1
    assert stream.text.count("\r") == 5


def test_a_journal_gets_a_line_now_and_then() -> None:
    stream = Stream(is_terminal=False)
    console = Console(stream)  # type: ignore[arg-type]
    for second in range(25):
        console.write(interval(second * 10**9))
    assert len(stream.text.splitlines()) == 3
    assert "\x1b" not in stream.text
