"""Turns what the loop does into records: a row an interval, a line a frame, and the summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from device.contract.profile import Scope
from device.errors import SourceError
from device.pipeline import StageTimes
from device.process import Memory
from device.protocols import (
    Clock,
    IntervalRecord,
    Percentiles,
    PowerFigure,
    PowerReader,
    Prediction,
    Record,
    Thermals,
)
from device.statistics import DurationHistogram


class StageSummary(msgspec.Struct, frozen=True):
    """Percentiles of each stage, in seconds."""

    capture: Percentiles | None
    preprocess: Percentiles | None
    inference: Percentiles | None
    postprocess: Percentiles | None


class PowerSummary(msgspec.Struct, frozen=True):
    """Mean power of the run, by its headline meter."""

    w: float
    source: str
    scope: Scope
    is_estimate: bool


class RunSummary(msgspec.Struct, frozen=True):
    """What ``--json`` prints. A figure that could not be had is null, and for power the reason stands beside it.

    ``labels`` counts the frames that were named, ``unknown`` those that weren't since their best score was under
    ``unknown_below``; without a threshold there are none.
    """

    profile: str
    model: str
    runtime: str
    runtime_version: str
    threads: int
    source: str
    unknown_below: float | None
    duration_s: float
    frames: int
    dropped: int
    bad_frames: int
    fps: float
    latency_s: Percentiles | None
    stage_s: StageSummary
    power: PowerSummary | None
    power_missing_reason: str | None
    energy_per_inference_j: float | None
    rss_bytes: int
    peak_rss_bytes: int
    temperature_c: float | None
    labels: dict[str, int]
    unknown: int


class RunFacts(NamedTuple):
    """What is known before the first frame."""

    profile: str
    model: str
    runtime: str
    runtime_version: str
    threads: int
    source: str
    unknown_below: float | None = None


class Instruments(NamedTuple):
    """What the recorder reads beside the frames.

    Attributes:
        power: None where the board has no meter.
        power_missing_reason: why; None where it has one.
        thermals: heat and speed.
        memory: reads this process's memory.
    """

    power: PowerReader | None
    power_missing_reason: str | None
    thermals: Thermals
    memory: Callable[[], Memory]


_STAGES = StageTimes._fields


class _Tally:
    """Counts and durations of a span: an interval, or the whole run."""

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.frames = 0
        self.unknown = 0
        self.latency = DurationHistogram()
        self.stages = {name: DurationHistogram() for name in _STAGES}

    def add(self, prediction: Prediction, times: StageTimes) -> None:
        self.frames += 1
        self.unknown += prediction.is_unknown
        self.latency.add(prediction.latency_s)
        for name, duration_s in zip(_STAGES, times, strict=True):
            self.stages[name].add(duration_s)


class Recorder:
    """The loop's observer.

    Args:
        facts: of the run.
        instruments: read once an interval.
        clock: the loop's.
        interval_s: time that a row covers.
        write: takes each record; must not block.
        on_interval: told of each row and of the newest result until then, for the status line.
        on_trouble: told of each damaged frame, in one line.
    """

    def __init__(
        self,
        facts: RunFacts,
        instruments: Instruments,
        *,
        clock: Clock,
        interval_s: float,
        write: Callable[[Record], None],
        on_interval: Callable[[IntervalRecord, Prediction | None], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._facts = facts
        self._instruments = instruments
        self._clock = clock
        self._interval_ns = round(interval_s * 1e9)
        self._write = write
        self._on_interval = on_interval
        self._on_trouble = on_trouble
        self._run = _Tally(clock.now_ns())
        self._interval = _Tally(clock.now_ns())
        self._dropped = 0
        self._dropped_before = 0
        self._labels: Counter[str] = Counter()
        self._newest: Prediction | None = None
        self.bad_frames = 0

    def on_frame(self, prediction: Prediction, times: StageTimes) -> None:
        """Counts a frame and hands its prediction on."""
        self._run.add(prediction, times)
        self._interval.add(prediction, times)
        if not prediction.is_unknown:
            self._labels[prediction.label] += 1
        self._newest = prediction
        self._write(prediction)

    def on_bad_frame(self, error: SourceError) -> None:
        """Counts and tells of a damaged frame."""
        self.bad_frames += 1
        self._on_trouble(str(error))

    def on_tick(self, dropped: int) -> None:
        """Closes the interval when its time is over."""
        self._dropped = dropped
        if self._clock.now_ns() - self._interval.started_ns >= self._interval_ns:
            self._close_interval()

    def finish(self) -> RunSummary:
        """Writes the last, shorter interval, and sums up the run."""
        if self._interval.frames:
            self._close_interval()
        duration_s = (self._clock.now_ns() - self._run.started_ns) / 1e9
        figure = self._instruments.power.total() if self._instruments.power else None
        memory = self._instruments.memory()
        run = self._run
        return RunSummary(
            **self._facts._asdict(),
            duration_s=duration_s,
            frames=run.frames,
            dropped=self._dropped,
            bad_frames=self.bad_frames,
            fps=run.frames / duration_s if duration_s > 0 else 0.0,
            latency_s=run.latency.percentiles(),
            stage_s=StageSummary(*(run.stages[name].percentiles() for name in _STAGES)),
            power=PowerSummary(figure.power_w, figure.source, figure.scope, figure.is_estimate) if figure else None,
            power_missing_reason=None if figure else self._power_missing_reason(),
            energy_per_inference_j=_energy_per_inference_j(figure, duration_s, run.frames),
            rss_bytes=memory.rss_bytes,
            peak_rss_bytes=memory.peak_rss_bytes,
            temperature_c=self._instruments.thermals.read().temperature_c,
            labels=dict(self._labels.most_common()),
            unknown=run.unknown,
        )

    def _power_missing_reason(self) -> str:
        return self._instruments.power_missing_reason or "the meter gave no sample: the run was too short"

    def _close_interval(self) -> None:
        now_ns = self._clock.now_ns()
        interval = self._interval
        duration_s = (now_ns - interval.started_ns) / 1e9
        power = self._instruments.power.take() if self._instruments.power else None
        heat = self._instruments.thermals.read()
        record = IntervalRecord(
            timestamp_ns=now_ns,
            wall_time_s=self._clock.wall_time_s(),
            duration_s=duration_s,
            frames=interval.frames,
            dropped=self._dropped - self._dropped_before,
            unknown=interval.unknown,
            fps=interval.frames / duration_s,
            latency_s=interval.latency.percentiles(),
            **{name: interval.stages[name].percentile(0.5) for name in _STAGES},
            power_w=power.power_w if power else None,
            energy_j=power.energy_j if power else None,
            power_source=power.source if power else None,
            power_scope=power.scope if power else None,
            power_is_estimate=power.is_estimate if power else None,
            temperature_c=heat.temperature_c,
            frequency_hz=heat.frequency_hz,
            throttled=None if heat.throttled is None else ",".join(heat.throttled),
            rss_bytes=self._instruments.memory().rss_bytes,
        )
        self._dropped_before = self._dropped
        self._interval = _Tally(now_ns)
        self._write(record)
        self._on_interval(record, self._newest)


def _energy_per_inference_j(figure: PowerFigure | None, duration_s: float, frames: int) -> float | None:
    """Gross energy per inference: the mean power times the run's length, by its frames. Idle power is not subtracted."""
    return figure.power_w * duration_s / frames if figure and frames else None
