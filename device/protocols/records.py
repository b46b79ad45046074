"""Records: what a run leaves behind. Each is an event too, see `device.protocols.events`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from device.protocols.columns import Column, Columns
from device.protocols.frames import Interruption
from device.protocols.power import MeterTotal, PowerFigure, PowerOrigin, ThrottleFlag


class RunRecord(msgspec.Struct, frozen=True):
    """What was run, where. A run begins with it.

    ``unknown_below`` is the least score that named a class; None where every frame was named.
    """

    run_id: str
    started_at_utc: str
    profile: str
    model: str
    weights: str
    manifest_sha256: str
    runtime: str
    runtime_version: str
    threads: int
    source: str
    board: str
    machine: str
    kernel: str
    python: str
    governor: str | None
    version: str
    unknown_below: float | None


class Percentiles(msgspec.Struct, frozen=True):
    """Of a set of durations, in seconds."""

    p50: float
    p90: float
    p99: float


# Percentiles can't be merged: the mean of medians is an approximation, the largest of the others an upper bound.
_LATENCY = Columns(
    Column("latency_p50_s", part="p50", merge="mean", weight="frames"),
    Column("latency_p90_s", part="p90", merge="max"),
    Column("latency_p99_s", part="p99", merge="max"),
)

_POWER = Columns(
    Column("power_w", part="power_w", merge="mean", weight="power_covered_s"),
    Column("energy_j", part="energy_j", merge="sum"),
    Column("power_source", part="source"),
    Column("power_scope", part="scope"),
    Column("power_is_estimate", part="is_estimate"),
    Column("power_covered_s", part="covered_s", merge="sum", after="heat_limit_fps"),
)

_SUM = Column(merge="sum")
_MAX = Column(merge="max")
_MIN = Column(merge="min")
_RATE = Column(merge="rate")
_MEDIAN = Column(merge="mean", weight="frames")


class IntervalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one interval (a second, usually).

    A figure that could not be had is None, never 0.

    Attributes:
        timestamp_ns: end of the interval, monotonic.
        wall_time_s: the same moment by the wall clock, seconds since 1970.
        duration_s: length of the interval.
        frames: inferences that ended in it.
        dropped: frames that came and were never looked at.
        fps: ``frames / duration_s``.
        latency_s: frame's timestamp to result.
        capture_s .. postprocess_s: median of each stage.
        power: of the headline meter, over the part of the interval that it covered; a slow meter leaves some intervals without.
        throttled: flags that held at its end, or came and went in it, joined by commas; empty for none, None where the board
            can't tell.
        unknown: those of ``frames`` that were not named; 0 where the run has no threshold, see `RunRecord.unknown_below`.
        wall_is_synchronised: the wall clock had been set by a time server then. A Pi has no clock of its own: until it has
            heard from one, its wall clock continues from where the last boot ended.
        heat_limit_fps: the rate that the profile's limit on heat held the daemon to at its end; None where it held it to none.
    """

    timestamp_ns: Annotated[int, _MAX]
    wall_time_s: Annotated[float, _MAX]
    duration_s: Annotated[float, _SUM]
    frames: Annotated[int, _SUM]
    dropped: Annotated[int, _SUM]
    fps: Annotated[float, _RATE]
    latency_s: Annotated[Percentiles | None, _LATENCY]
    capture_s: Annotated[float | None, _MEDIAN]
    preprocess_s: Annotated[float | None, _MEDIAN]
    inference_s: Annotated[float | None, _MEDIAN]
    postprocess_s: Annotated[float | None, _MEDIAN]
    power: Annotated[PowerFigure | None, _POWER]
    temperature_c: Annotated[float | None, _MAX]
    frequency_hz: Annotated[float | None, Column(merge="mean", weight="duration_s")]
    throttled: Annotated[str | None, Column(merge="words")]
    rss_bytes: Annotated[int, _MAX]
    unknown: Annotated[int, Column(merge="sum", is_nullable=True)]
    wall_is_synchronised: Annotated[bool, Column(merge="min", is_nullable=True)]
    heat_limit_fps: Annotated[float | None, _MIN]


class SourceIntervalRecord(msgspec.Struct, frozen=True):
    """The part of one source in an `IntervalRecord`, which has the same ``timestamp_ns``.

    Attributes:
        timestamp_ns: end of the interval, monotonic.
        source: `SourceSpec.uri`.
        frames: inferences on its frames.
        dropped: its frames that were never looked at.
        bad_frames: that came damaged.
        fps: ``frames`` a second.
        latency_s: frame's timestamp to result.
        capture_s: median wait for a frame.
        is_interrupted: no good frame came at the interval's end.
    """

    timestamp_ns: Annotated[int, _MAX]
    source: str
    frames: Annotated[int, _SUM]
    dropped: Annotated[int, _SUM]
    bad_frames: Annotated[int, _SUM]
    fps: Annotated[float, _RATE]
    latency_s: Annotated[Percentiles | None, _LATENCY]
    capture_s: Annotated[float | None, _MEDIAN]
    is_interrupted: Annotated[bool, _MAX]


class InterruptionRecord(Interruption, frozen=True, kw_only=True):
    """An `Interruption` as it is kept: written when it begins, and again, in place of the first, when it ends.

    ``source``, ``reason`` and ``started_ns`` together name the record.

    Attributes:
        wall_time_s: the moment of ``started_ns`` by the wall clock, seconds since 1970.
    """

    wall_time_s: Annotated[float, Column(after="started_ns")]


class MeterRecord(MeterTotal, frozen=True, kw_only=True):
    """A `MeterTotal` as it is kept: written now and then, each time in place of the one before.

    Attributes:
        place: in the profile's order of those that are there; 0 is the headline's.
        sampler_cpu_s: processor time that reading all the meters has taken.
    """

    place: Annotated[int, Column(after="run_id")]
    sampler_cpu_s: float


UNKNOWN_LABEL = "unknown"


class Prediction(msgspec.Struct, frozen=True):
    """The result of one frame: labels with their scores (softmax by the weights' temperature, 0..1), best first.

    Attributes:
        source: `SourceSpec.uri`.
        origin: the frame's file; None for cameras.
        index: the frame's.
        timestamp_ns: the frame's.
        latency_s: frame's timestamp to result.
        labels: of the best classes.
        scores: in the order of ``labels``.
        is_unknown: the best score is too low to name a class. This tells it apart from a class that is itself called "unknown".
    """

    source: str
    origin: str | None
    index: int
    timestamp_ns: int
    latency_s: float
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    is_unknown: bool = False

    @property
    def label(self) -> str:
        """What the frame is called: the best class, or `UNKNOWN_LABEL`."""
        return UNKNOWN_LABEL if self.is_unknown else self.labels[0]


class StageSummary(msgspec.Struct, frozen=True):
    """Percentiles of each stage, in seconds."""

    capture: Percentiles | None
    preprocess: Percentiles | None
    inference: Percentiles | None
    postprocess: Percentiles | None


class PowerSummary(PowerOrigin, frozen=True, kw_only=True):
    """Mean power of the run, by its headline meter, over the part of it that the meter covered."""

    w: float
    covered_s: float


class SourceSummary(msgspec.Struct, frozen=True):
    """What one source gave.

    Attributes:
        interruptions: times without good frames.
        interrupted_s: their length together.
    """

    uri: str
    frames: int
    dropped: int
    bad_frames: int
    fps: float
    latency_s: Percentiles | None
    interruptions: int
    interrupted_s: float


class RunSummary(msgspec.Struct, frozen=True):
    """What ``--json`` prints. A figure that could not be had is null, and for power the reason stands beside it.

    ``throttled`` are the flags that held at any time of the run, null where the board can't tell at all;
    ``throttling_unsupported`` are those that it can't tell.

    ``labels`` counts the frames that were named, ``unknown`` those that weren't because their best score was under
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
    interruptions: int
    fps: float
    latency_s: Percentiles | None
    stage_s: StageSummary
    sources: tuple[SourceSummary, ...]
    power: PowerSummary | None
    power_missing_reason: str | None
    power_meters_missing: tuple[str, ...]
    power_meters: tuple[MeterTotal, ...]
    sampler_cpu_s: float | None
    energy_per_inference_j: float | None
    rss_bytes: int
    peak_rss_bytes: int
    temperature_c: float | None
    throttled: tuple[ThrottleFlag, ...] | None
    throttling_unsupported: tuple[ThrottleFlag, ...]
    labels: dict[str, int]
    unknown: int
