"""Records as Prometheus series: which there are, how long each lives, and what tells them apart.

Counters add up over the run. All others are of the newest record of its kind, which replaces the one before as a whole: a
figure that it doesn't have is absent, never 0. Where no newer record comes, figures vanish after their lifetime.

Series of power and energy carry ``estimate``, so that no query mixes an estimate with a measurement unless it asks to.

References:
    https://prometheus.io/docs/practices/naming/: prefix, base units, ``_total``.
    https://prometheus.io/docs/practices/instrumentation/: counters rather than rates, no label of many values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from device.protocols import (
    Clock,
    Event,
    InterruptionRecord,
    IntervalRecord,
    MeterRecord,
    Percentiles,
    PowerFigure,
    PowerOrigin,
    RunRecord,
    SourceIntervalRecord,
)

Kind = Literal["counter", "gauge", "summary", "info"]


class Family(NamedTuple):
    """Series of one name.

    Attributes:
        name: without a counter's ``_total`` and an info's ``_info``.
        kind: Prometheus's type.
        help: one line.
        interval: the figure of an interval that is the series' value, or is added to it; None where it comes otherwise.
    """

    name: str
    kind: Kind
    help: str
    interval: Callable[[IntervalRecord], float | None] | None = None


_POWER = "estimate=true: by a model, not by a sensor."

FAMILIES = {
    family.name: family
    for family in (
        Family("ghostwatt_run", "info", "What runs, where."),
        Family("ghostwatt_frames", "counter", "Inferences.", lambda record: record.frames),
        Family(
            "ghostwatt_dropped_frames", "counter", "Frames that came and were never looked at.", lambda record: record.dropped
        ),
        Family("ghostwatt_unknown_frames", "counter", "Inferences whose best score was too low to name a class."),
        Family("ghostwatt_frames_per_second", "gauge", "Inferences a second, in the last interval.", lambda record: record.fps),
        Family("ghostwatt_latency_seconds", "summary", "From a frame's timestamp to its result, in the last interval."),
        Family("ghostwatt_stage_median_seconds", "gauge", "Median time of each stage, in the last interval."),
        Family("ghostwatt_power_watts", "gauge", f"By the headline meter, in the last interval that it covered. {_POWER}"),
        Family("ghostwatt_energy_joules", "counter", f"By the headline meter, over the time that it covered. {_POWER}"),
        Family("ghostwatt_power_covered_seconds", "counter", f"Time that the headline meter covered. {_POWER}"),
        Family("ghostwatt_temperature_celsius", "gauge", "Of the processor.", lambda record: record.temperature_c),
        Family("ghostwatt_cpu_frequency_hertz", "gauge", "Of the fastest core.", lambda record: record.frequency_hz),
        Family("ghostwatt_throttled", "gauge", "1 where a flag holds that the board can tell, 0 where none does."),
        Family(
            "ghostwatt_throttle_flag",
            "gauge",
            "1 for each flag that holds; the others are absent, whether the board can tell them or not.",
        ),
        Family(
            "ghostwatt_heat_limit_frames_per_second",
            "gauge",
            "Rate that the limit on heat holds the daemon to.",
            lambda record: record.heat_limit_fps,
        ),
        Family("ghostwatt_resident_memory_bytes", "gauge", "Of the daemon.", lambda record: record.rss_bytes),
        Family("ghostwatt_source_frames", "counter", "Inferences on a source's frames."),
        Family("ghostwatt_source_dropped_frames", "counter", "A source's frames that were never looked at."),
        Family("ghostwatt_source_bad_frames", "counter", "A source's frames that came damaged."),
        Family("ghostwatt_source_frames_per_second", "gauge", "Inferences a second, in the last interval."),
        Family("ghostwatt_source_latency_seconds", "summary", "Of a source's frames, in the last interval."),
        Family("ghostwatt_source_capture_median_seconds", "gauge", "Median wait for a source's frame, in the last interval."),
        Family("ghostwatt_source_interrupted", "gauge", "1 where no good frame came at the end of the last interval."),
        Family("ghostwatt_source_interruptions", "counter", "Times that a source gave no good frames, by reason."),
        Family("ghostwatt_source_interrupted_seconds", "counter", "Length of the interruptions that have ended, by reason."),
        Family("ghostwatt_meter_energy_joules", "counter", f"By each meter, over the time that it covered. {_POWER}"),
        Family("ghostwatt_meter_covered_seconds", "counter", f"Time that each meter covered. {_POWER}"),
        Family("ghostwatt_meter_samples", "counter", f"That each meter gave. {_POWER}"),
        Family("ghostwatt_meter_failed_reads", "counter", f"Reads of each meter that failed. {_POWER}"),
        Family("ghostwatt_meter_resolution_watts", "gauge", f"Least step between two figures of a meter. {_POWER}"),
        Family("ghostwatt_sampler_cpu_seconds", "counter", "Processor time that reading the meters has taken."),
    )
}

REASONS = ("stalled", "ended", "missing", "unreachable", "busy", "frozen", "dark")
"""Of interruptions, see `device.protocols.Interruption`: there from the start with 0, so that the first one is a rise."""

LIFETIME_S = 10.0
LIFETIME_INTERVALS = 3
"""How old a figure may grow. A slow meter leaves some intervals without one; a daemon that hangs writes none."""

Labels = tuple[tuple[str, str], ...]
Values = dict[tuple[str, Labels], float]


class _Snapshot(NamedTuple):
    """What one record gave; ``dies_ns`` is None where it has no lifetime."""

    values: Values
    dies_ns: int | None


class SeriesTable:
    """What a scrape finds. Safe to be read from any thread.

    Args:
        clock: that records' timestamps are of.
        interval_s: time between `IntervalRecord`s.
    """

    def __init__(self, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._lifetime_ns = round(max(LIFETIME_S, LIFETIME_INTERVALS * interval_s) * 1e9)
        self._lock = threading.Lock()
        self._run: RunRecord | None = None
        self._counters: Values = {}
        self._snapshots: dict[tuple[str, ...], _Snapshot] = {}

    def take(self, record: Event) -> None:
        """Takes a record; those before the run's own are ignored."""
        with self._lock:
            if isinstance(record, RunRecord):
                self._begin(record)
            elif self._run is None:
                return
            elif isinstance(record, IntervalRecord):
                self._take_interval(record, self._run)
            elif isinstance(record, SourceIntervalRecord):
                self._take_source(record)
            elif isinstance(record, InterruptionRecord):
                self._take_interruption(record)
            elif isinstance(record, MeterRecord):
                self._take_meter(record)

    def read(self) -> list[tuple[Family, list[tuple[dict[str, str], float]]]]:
        """What there is now: families that have a series, each series with its labels."""
        with self._lock:
            now_ns = self._clock.now_ns()
            alive = [held.values for held in self._snapshots.values() if held.dies_ns is None or now_ns < held.dies_ns]
            profile = {"profile": self._run.profile} if self._run else {}
            found: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in FAMILIES}
            for values in (self._counters, *alive):
                for (name, labels), value in values.items():
                    found[name].append((profile | dict(labels), value))
        return [(FAMILIES[name], series) for name, series in found.items() if series]

    def _begin(self, run: RunRecord) -> None:
        self._run = run
        self._counters.clear()
        self._snapshots.clear()
        names = ("run_id", "model", "weights", "runtime", "runtime_version", "source", "board", "machine", "kernel", "python")
        labels = {name: getattr(run, name) for name in names} | {"bundle": run.manifest_sha256[:12], "version": run.version}
        self._keep(("run",), {("ghostwatt_run", _labels(labels | {"threads": str(run.threads)})): 1.0}, None)

    def _take_interval(self, record: IntervalRecord, run: RunRecord) -> None:
        values: Values = {}
        for family in FAMILIES.values():
            if family.interval is None:
                continue
            if family.kind == "counter":
                self._add(family.name, (), family.interval(record) or 0)
            else:
                _put(values, family.name, (), family.interval(record))
        if run.unknown_below is not None:
            self._add("ghostwatt_unknown_frames", (), record.unknown)
        _put_percentiles(values, "ghostwatt_latency_seconds", {}, record.latency_s)
        for stage in ("capture", "preprocess", "inference", "postprocess"):
            _put(values, "ghostwatt_stage_median_seconds", _labels({"stage": stage}), getattr(record, f"{stage}_s"))
        if record.throttled is not None:
            flags = [flag for flag in record.throttled.split(",") if flag]
            _put(values, "ghostwatt_throttled", (), bool(flags))
            for flag in flags:
                _put(values, "ghostwatt_throttle_flag", _labels({"flag": flag}), 1)
        self._keep(("interval",), values, record.timestamp_ns)
        if record.power is not None:
            self._take_power(record.power, record.timestamp_ns)

    def _take_power(self, figure: PowerFigure, timestamp_ns: int) -> None:
        labels = _power_labels(figure)
        self._keep(("power",), {("ghostwatt_power_watts", labels): figure.power_w}, timestamp_ns)
        self._add("ghostwatt_energy_joules", labels, figure.energy_j)
        self._add("ghostwatt_power_covered_seconds", labels, figure.covered_s)

    def _take_source(self, record: SourceIntervalRecord) -> None:
        source = {"source": record.source}
        self._add("ghostwatt_source_frames", _labels(source), record.frames)
        self._add("ghostwatt_source_dropped_frames", _labels(source), record.dropped)
        self._add("ghostwatt_source_bad_frames", _labels(source), record.bad_frames)
        for reason in REASONS:
            self._add("ghostwatt_source_interruptions", _labels(source | {"reason": reason}), 0)
            self._add("ghostwatt_source_interrupted_seconds", _labels(source | {"reason": reason}), 0)
        values: Values = {}
        _put(values, "ghostwatt_source_frames_per_second", _labels(source), record.fps)
        _put_percentiles(values, "ghostwatt_source_latency_seconds", source, record.latency_s)
        _put(values, "ghostwatt_source_capture_median_seconds", _labels(source), record.capture_s)
        _put(values, "ghostwatt_source_interrupted", _labels(source), record.is_interrupted)
        self._keep(("source", record.source), values, record.timestamp_ns)

    def _take_interruption(self, record: InterruptionRecord) -> None:
        labels = _labels({"source": record.source, "reason": record.reason})
        if record.duration_s is None:
            self._add("ghostwatt_source_interruptions", labels, 1)
        else:
            self._add("ghostwatt_source_interrupted_seconds", labels, record.duration_s)

    def _take_meter(self, record: MeterRecord) -> None:
        power = _power_labels(record)
        # Two chips of one kind may measure the same: their place in the profile tells them apart.
        labels = (*power, ("place", str(record.place)))
        values: Values = {}
        if record.energy_j is not None:
            _put(values, "ghostwatt_meter_energy_joules", labels, record.energy_j)
        _put(values, "ghostwatt_meter_covered_seconds", labels, record.covered_s)
        _put(values, "ghostwatt_meter_samples", labels, record.samples)
        _put(values, "ghostwatt_meter_failed_reads", labels, record.failed)
        _put(values, "ghostwatt_meter_resolution_watts", labels, record.resolution_w)
        self._keep(("meter", str(record.place)), values, None)
        self._keep(("sampler",), {("ghostwatt_sampler_cpu_seconds", ()): record.sampler_cpu_s}, None)

    def _keep(self, key: tuple[str, ...], values: Values, timestamp_ns: int | None) -> None:
        self._snapshots[key] = _Snapshot(values, None if timestamp_ns is None else timestamp_ns + self._lifetime_ns)

    def _add(self, name: str, labels: Labels, amount: float) -> None:
        key = (name, labels)
        self._counters[key] = self._counters.get(key, 0.0) + amount


def _labels(values: Mapping[str, str]) -> Labels:
    return tuple(values.items())


def _power_labels(origin: PowerOrigin) -> Labels:
    return (("meter", origin.source), ("scope", origin.scope), ("estimate", "true" if origin.is_estimate else "false"))


def _put(values: Values, name: str, labels: Labels, value: float | None) -> None:
    if value is not None:
        values[name, labels] = float(value)


def _put_percentiles(values: Values, name: str, labels: Mapping[str, str], percentiles: Percentiles | None) -> None:
    if percentiles is None:
        return
    quantiles: Iterable[tuple[str, float]] = (("0.5", percentiles.p50), ("0.9", percentiles.p90), ("0.99", percentiles.p99))
    for quantile, duration_s in quantiles:
        values[name, _labels({**labels, "quantile": quantile})] = duration_s
