"""Records: what a run leaves behind, and the sinks that take it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from device.contract.profile import Scope
from device.protocols.base import Closeable
from device.protocols.frames import Interruption
from device.protocols.power import MeterTotal


class RunRecord(msgspec.Struct, frozen=True):
    """What was run, where: written once, first.

    ``unknown_below`` is the least score that named a class; None where one was named always.
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


class IntervalRecord(msgspec.Struct, frozen=True):
    """What happened in one interval (a second, usually).

    A figure that could not be had is None, never 0.

    Attributes:
        timestamp_ns: end of the interval, monotonic.
        wall_time_s: the same moment by the wall clock, seconds since 1970.
        wall_is_synchronised: the wall clock had been set by a time server then. A Pi has no clock of its own: until it has
            heard from one, its wall clock goes on from where the last boot ended.
        duration_s: length of the interval.
        frames: inferences that ended in it.
        dropped: frames that came and were never looked at.
        unknown: those of ``frames`` that were not named; 0 where the run has no threshold, see `RunRecord.unknown_below`.
        fps: ``frames / duration_s``.
        latency_s: frame's timestamp to result.
        capture_s .. postprocess_s: median of each stage.
        power_w: mean, of the headline meter.
        energy_j: likewise, over ``power_covered_s``.
        power_covered_s: the part of the interval that the meter covered; a slow meter covers some intervals not at all.
        throttled: flags that held at its end, or came and went in it, joined by commas; empty for none, None where the board
            can't tell.
        heat_limit_fps: the rate that the profile's limit on heat held the daemon to at its end; None where it held it to none.
    """

    timestamp_ns: int
    wall_time_s: float
    duration_s: float
    frames: int
    dropped: int
    unknown: int
    fps: float
    latency_s: Percentiles | None
    capture_s: float | None
    preprocess_s: float | None
    inference_s: float | None
    postprocess_s: float | None
    power_w: float | None
    energy_j: float | None
    power_covered_s: float | None
    power_source: str | None
    power_scope: Scope | None
    power_is_estimate: bool | None
    temperature_c: float | None
    frequency_hz: float | None
    throttled: str | None
    rss_bytes: int
    wall_is_synchronised: bool
    heat_limit_fps: float | None


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

    timestamp_ns: int
    source: str
    frames: int
    dropped: int
    bad_frames: int
    fps: float
    latency_s: Percentiles | None
    capture_s: float | None
    is_interrupted: bool


class InterruptionRecord(Interruption, frozen=True, kw_only=True):
    """An `Interruption` as it is kept: written when it begins, and again, in place of the first, when it ends.

    ``source``, ``reason`` and ``started_ns`` together name the record.

    Attributes:
        wall_time_s: the moment of ``started_ns`` by the wall clock, seconds since 1970.
    """

    wall_time_s: float


class MeterRecord(MeterTotal, frozen=True, kw_only=True):
    """A `MeterTotal` as it is kept: written now and then, each time in place of the one before.

    Attributes:
        place: in the profile's order of those that are there; 0 is the headline's.
        sampler_cpu_s: processor time that reading all the meters has taken.
    """

    place: int
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


Record = RunRecord | IntervalRecord | SourceIntervalRecord | InterruptionRecord | MeterRecord | Prediction


class Sink(Closeable, Protocol):
    """Takes records, in order, from one thread: `RunRecord` first, then the others. Ignores kinds that it has no use for.

    May block: it is always driven through `device.sinks.background`, which keeps it away from the frame loop.
    """

    def write(self, record: Record) -> None:
        """Takes one record; may buffer it.

        Raises:
            SinkError: it could not be kept. The sink stays usable: a later write may succeed.
        """

    def flush(self) -> None:
        """Makes durable what was written.

        Raises:
            SinkError: it could not be kept; nothing that was flushed before is lost.
        """
