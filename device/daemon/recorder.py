"""Turns what the loop does into records: a row an interval, one a source and a meter, and the summary at the end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import msgspec

from device.daemon.instruments import Instruments
from device.daemon.statistics import DurationHistogram
from device.protocols import (
    Clock,
    Emit,
    Event,
    FrameDamaged,
    FrameDone,
    Interruption,
    InterruptionRecord,
    IntervalRecord,
    Kinds,
    MeterRecord,
    PowerFigure,
    PowerSummary,
    Prediction,
    RunEnded,
    RunRecord,
    RunSummary,
    SourceIntervalRecord,
    SourceSpec,
    SourceSummary,
    StageSummary,
    StageTimes,
    ThermalSample,
    ThrottleFlag,
    Tick,
    Trouble,
)

DAMAGE_INTERVAL_S = 60.0
"""Between warnings of a camera's damaged frames: a bad cable makes thirty a second, and a journal lies on an SD card."""

METERS_INTERVAL_S = 60.0
"""Between records of all the meters: what a process that dies may lose of them."""

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


class _Covered:
    """What the headline meter counted, and the inferences of the same time: where it had a gap, neither is added."""

    def __init__(self) -> None:
        self._energy_j = 0.0
        self._frames = 0.0

    def add(self, figure: PowerFigure, frames: int, duration_s: float) -> None:
        """Adds an interval, whose frames are spread evenly over it."""
        self._energy_j += figure.energy_j
        self._frames += frames * figure.covered_s / duration_s

    @property
    def energy_per_inference_j(self) -> float | None:
        """Gross: idle power is not subtracted."""
        return self._energy_j / self._frames if self._frames else None


class _SourceTally:
    """What one source gave, in a span."""

    def __init__(self) -> None:
        self.frames = 0
        self.bad_frames = 0
        self.latency = DurationHistogram()

    def add(self, prediction: Prediction) -> None:
        self.frames += 1
        self.latency.add(prediction.latency_s)


class _Source:
    """One source over the run, and in the current interval."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.run = _SourceTally()
        self.interval = _SourceTally()
        self.capture = DurationHistogram()
        self.dropped = 0
        self.dropped_before = 0
        self.interruptions = 0
        self.interrupted_s = 0.0
        self.is_interrupted = False
        self.damage_reported = 0
        self.damage_reported_ns: int | None = None

    def add(self, prediction: Prediction, times: StageTimes) -> None:
        self.run.add(prediction)
        self.interval.add(prediction)
        self.capture.add(times.capture_s)

    @property
    def has_news(self) -> bool:
        """True where the current interval has anything to record."""
        return bool(self.interval.frames or self.interval.bad_frames or self.dropped > self.dropped_before)

    def close_interval(self, now_ns: int, duration_s: float) -> SourceIntervalRecord:
        """Begins the next interval; returns the one that ends."""
        interval, self.interval = self.interval, _SourceTally()
        capture, self.capture = self.capture, DurationHistogram()
        dropped, self.dropped_before = self.dropped - self.dropped_before, self.dropped
        return SourceIntervalRecord(
            timestamp_ns=now_ns,
            source=self.spec.uri,
            frames=interval.frames,
            dropped=dropped,
            bad_frames=interval.bad_frames,
            fps=interval.frames / duration_s,
            latency_s=interval.latency.percentiles(),
            capture_s=capture.percentile(0.5),
            is_interrupted=self.is_interrupted,
        )

    def summarise(self, duration_s: float) -> SourceSummary:
        return SourceSummary(
            uri=self.spec.uri,
            frames=self.run.frames,
            dropped=self.dropped,
            bad_frames=self.run.bad_frames,
            fps=self.run.frames / duration_s if duration_s > 0 else 0.0,
            latency_s=self.run.latency.percentiles(),
            interruptions=self.interruptions,
            interrupted_s=self.interrupted_s,
        )


class Recorder:
    """Sums up what the pipeline emits, and emits the records.

    Args:
        run: what runs where.
        sources: that frames come from.
        instruments: read once an interval.
        interruptions: of the sources, from any thread; emitted at the next tick.
        clock: the loop's.
        interval_s: time that a row covers.
        emit: takes the records.
        limit_rate: is given the processor's temperature in °C, if it is known, and the moment, once an interval; returns the
            rate that the heat allows, None where it sets no limit.
    """

    takes: Kinds = (FrameDone, FrameDamaged, Tick)

    def __init__(
        self,
        run: RunRecord,
        sources: Sequence[SourceSpec],
        instruments: Instruments,
        interruptions: SimpleQueue[Interruption],
        *,
        clock: Clock,
        interval_s: float,
        emit: Emit,
        limit_rate: Callable[[float | None, int], float | None] = lambda _temperature_c, _now_ns: None,
    ) -> None:
        self._record = run
        self._instruments = instruments
        self._clock = clock
        self._interval_ns = round(interval_s * 1e9)
        self._emit = emit
        self._limit_rate = limit_rate
        self._run = _Tally(clock.now_ns())
        self._interval = _Tally(clock.now_ns())
        self._sources = {spec.uri: _Source(spec) for spec in sources}
        self._interruptions = interruptions
        self._labels: Counter[str] = Counter()
        self._latched: set[ThrottleFlag] = set()
        self._meters_written_ns = clock.now_ns()
        self._covered = _Covered()

    @property
    def bad_files(self) -> int:
        """Damaged frames of files: a camera's come and go, a file's stays damaged."""
        return sum(source.run.bad_frames for source in self._sources.values() if not source.spec.is_camera)

    def write(self, event: Event) -> None:
        """Takes one event of the pipeline."""
        if isinstance(event, FrameDone):
            self._count_frame(event.prediction, event.times)
        elif isinstance(event, Tick):
            self._on_tick(event)
        elif isinstance(event, FrameDamaged):
            self._count_damage(event)

    def _count_frame(self, prediction: Prediction, times: StageTimes) -> None:
        self._run.add(prediction, times)
        self._interval.add(prediction, times)
        self._sources[prediction.source].add(prediction, times)
        if not prediction.is_unknown:
            self._labels[prediction.label] += 1

    def _count_damage(self, event: FrameDamaged) -> None:
        source = self._sources[event.source]
        source.run.bad_frames += 1
        source.interval.bad_frames += 1
        if source.spec.is_camera:
            self._report_damage(source, event)
        else:
            self._emit(Trouble(str(event.error)))

    def _on_tick(self, tick: Tick) -> None:
        for uri, count in tick.dropped.items():
            self._sources[uri].dropped = count
        self._emit_interruptions()
        if self._clock.now_ns() - self._interval.started_ns >= self._interval_ns:
            self._close_interval(self._take_power())

    def finish(self) -> RunSummary:
        """Emits the last, shorter interval, and `RunEnded` with the summary."""
        self._emit_interruptions()
        last_power = self._take_power()
        is_some_time = self._clock.now_ns() > self._interval.started_ns
        if is_some_time and (last_power is not None or any(source.has_news for source in self._sources.values())):
            self._close_interval(last_power)
        self._emit_meters()
        duration_s = (self._clock.now_ns() - self._run.started_ns) / 1e9
        power = self._instruments.power
        figure = power.total() if power else None
        memory = self._instruments.memory()
        heat = self._instruments.thermals.read()
        run = self._run
        sources = tuple(source.summarise(duration_s) for source in self._sources.values())
        summary = RunSummary(
            profile=self._record.profile,
            model=self._record.model,
            runtime=self._record.runtime,
            runtime_version=self._record.runtime_version,
            threads=self._record.threads,
            source=", ".join(source.uri for source in sources),
            unknown_below=self._record.unknown_below,
            duration_s=duration_s,
            frames=run.frames,
            dropped=sum(source.dropped for source in sources),
            bad_frames=sum(source.bad_frames for source in sources),
            interruptions=sum(source.interruptions for source in sources),
            fps=run.frames / duration_s if duration_s > 0 else 0.0,
            latency_s=run.latency.percentiles(),
            stage_s=StageSummary(*(run.stages[name].percentiles() for name in _STAGES)),
            sources=sources,
            power=_summarise_power(figure),
            power_missing_reason=None if figure else self._power_missing_reason(),
            power_meters_missing=self._instruments.meters_missing,
            power_meters=power.figures() if power else (),
            sampler_cpu_s=power.overhead_cpu_s if power else None,
            energy_per_inference_j=self._covered.energy_per_inference_j,
            rss_bytes=memory.rss_bytes,
            peak_rss_bytes=memory.peak_rss_bytes,
            temperature_c=heat.temperature_c,
            throttled=heat.throttled_since_start,
            throttling_unsupported=heat.unsupported,
            labels=dict(self._labels.most_common()),
            unknown=run.unknown,
        )
        self._emit(RunEnded(summary))
        return summary

    def _emit_interruptions(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._emit_interruption(self._interruptions.get_nowait())

    def _emit_interruption(self, interruption: Interruption) -> None:
        self._count(interruption)
        age_s = (self._clock.now_ns() - interruption.started_ns) / 1e9
        wall_time_s = self._clock.wall_time_s() - age_s
        self._emit(InterruptionRecord(**msgspec.structs.asdict(interruption), wall_time_s=wall_time_s))

    def _report_damage(self, source: _Source, event: FrameDamaged) -> None:
        now_ns = self._clock.now_ns()
        if source.damage_reported_ns is not None and now_ns - source.damage_reported_ns < DAMAGE_INTERVAL_S * 1e9:
            return
        source.damage_reported_ns = now_ns
        more = source.run.bad_frames - source.damage_reported - 1
        source.damage_reported = source.run.bad_frames
        since = f" ({more} more frames since the last warning)" if more else ""
        self._emit(Trouble(f"{event.error}{since}"))

    def _count(self, interruption: Interruption) -> None:
        if interruption.reason == "dark":
            return
        source = self._sources[interruption.source]
        source.is_interrupted = not interruption.is_over
        if interruption.duration_s is not None:
            source.interruptions += 1
            source.interrupted_s += interruption.duration_s

    def _throttled_in_interval(self, heat: ThermalSample) -> str | None:
        """Flags that hold now, and those that came and went since the last interval: the latch has them."""
        if heat.throttled is None:
            return None
        latched = set(heat.throttled_since_start or ())
        seen = latched - self._latched | set(heat.throttled)
        self._latched = latched
        return ",".join(sorted(seen))

    def _power_missing_reason(self) -> str:
        power = self._instruments.power
        if power is None:
            return "; ".join(self._instruments.meters_missing) or "the profile names no meter"
        return power.error() or "no sample came: the run was too short"

    def _emit_meters(self) -> None:
        power = self._instruments.power
        if power is None:
            return
        self._meters_written_ns = self._clock.now_ns()
        for place, total in enumerate(power.figures()):
            fields = msgspec.structs.asdict(total)
            self._emit(MeterRecord(place=place, **fields, sampler_cpu_s=power.overhead_cpu_s))

    def _take_power(self) -> PowerFigure | None:
        return self._instruments.power.take() if self._instruments.power else None

    def _close_interval(self, power: PowerFigure | None) -> None:
        now_ns = self._clock.now_ns()
        interval = self._interval
        duration_s = (now_ns - interval.started_ns) / 1e9
        heat = self._instruments.thermals.read()
        heat_limit_fps = self._limit_rate(heat.temperature_c, now_ns)
        if power is not None:
            self._covered.add(power, interval.frames, duration_s)
        sources = [source.close_interval(now_ns, duration_s) for source in self._sources.values()]
        record = IntervalRecord(
            timestamp_ns=now_ns,
            wall_time_s=self._clock.wall_time_s(),
            duration_s=duration_s,
            frames=interval.frames,
            dropped=sum(source.dropped for source in sources),
            unknown=interval.unknown,
            fps=interval.frames / duration_s,
            latency_s=interval.latency.percentiles(),
            **{name: interval.stages[name].percentile(0.5) for name in _STAGES},
            power=power,
            temperature_c=heat.temperature_c,
            frequency_hz=heat.frequency_hz,
            throttled=self._throttled_in_interval(heat),
            rss_bytes=self._instruments.memory().rss_bytes,
            wall_is_synchronised=self._clock.wall_is_synchronised(),
            heat_limit_fps=heat_limit_fps,
        )
        self._interval = _Tally(now_ns)
        self._emit(record)
        for source in sources:
            self._emit(source)
        if now_ns - self._meters_written_ns >= METERS_INTERVAL_S * 1e9:
            self._emit_meters()


def _summarise_power(figure: PowerFigure | None) -> PowerSummary | None:
    if figure is None:
        return None
    return PowerSummary(w=figure.power_w, covered_s=figure.covered_s, **msgspec.structs.asdict(figure.origin))
