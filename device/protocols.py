"""The seams: what a source, a runtime, a meter and a sink must do, may do, and in which order they are called.

Whatever opens is a context manager whose ``close`` may be called twice. Implementations are named in `device.registry`; each
protocol has one conformance suite under ``tests/conformance/`` that every implementation passes.

Times are nanoseconds of the monotonic clock, so that an adjusted wall clock moves nothing.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from device.contract import TensorSpec
from device.contract.profile import Scope

Array = NDArray[np.generic]
Image = NDArray[np.uint8]


class Closeable(Protocol):
    """Something that holds a device, a file or memory until it is closed."""

    def close(self) -> None:
        """Releases everything. May be called twice, and from another thread than the one that reads."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


# --- frames -----------------------------------------------------------------------------------------------------------


class SourceSpec(msgspec.Struct, frozen=True):
    """What a source delivers.

    Attributes:
        uri: as given, without credentials.
        is_live: frames come at the world's pace: a slow reader loses them. A file waits instead.
        rate_fps: nominal; None where frames come as fast as they are read.
        is_recorded: frames lie in files: opened again, it would begin anew.
    """

    uri: str
    is_live: bool
    rate_fps: float | None = None
    is_recorded: bool = False

    @property
    def is_camera(self) -> bool:
        """True of what is live, and no recording that plays at its own rate."""
        return self.is_live and not self.is_recorded


class Frame(msgspec.Struct, frozen=True):
    """One picture.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, C-contiguous. Owned by whoever holds the frame: a source never writes to it again.
        timestamp_ns: when the sensor saw it, or, where the source can't tell, when it arrived.
        index: counts from 0, and counts frames that were dropped too.
        origin: the file it came from; empty for cameras.
    """

    pixels: Image
    timestamp_ns: int
    index: int
    origin: str = ""


class Interruption(msgspec.Struct, frozen=True):
    """A source that gave no good frames for a while, or gave frames that show nothing.

    Told twice: when it is noticed, with ``duration_s`` None, and when good frames flow again, or the run ends before they do.

    Attributes:
        source: `SourceSpec.uri`.
        reason: `SourceError.reason` of what began it (``stalled``, ``ended``, ``missing``), ``frozen`` where the same picture
            came again and again, or ``dark`` where every pixel is black; in the dark, frames go on.
        detail: one line for a person.
        started_ns: when the last good frame came before it, monotonic.
        duration_s: from then to the next good frame; None while it lasts.
        attempts: how often the source was opened again.
        is_over: False where it lasts, or the run ended in it.
    """

    source: str
    reason: str
    detail: str
    started_ns: int
    duration_s: float | None = None
    attempts: int = 0
    is_over: bool = False


class FrameSource(Closeable, Protocol):
    """Gives frames in order. Opened by its constructor; used from one thread, but closed from any.

    ``read`` must give up after ``timeout_s``: a driver that hangs must not hang the caller.
    """

    @property
    def spec(self) -> SourceSpec:
        """What this source delivers; constant."""

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for the next frame.

        Returns:
            The frame, or None at the end of the stream; then again None at each further call.

        Raises:
            SourceError: ``stalled`` after ``timeout_s`` without a frame, ``decode`` for a frame that is damaged. The source
                stays usable after ``decode``, and the next ``read`` goes on behind it; and after ``interrupted``, which a
                source that mends itself raises meanwhile.
        """


# --- inference --------------------------------------------------------------------------------------------------------


class Session(Closeable, Protocol):
    """A loaded network. Used from one thread at a time.

    The input is always raw pixels, ``(1, H, W, 3)`` uint8, RGB: normalisation is inside the artefact, and what a runtime's
    boundary needs beyond that is the session's own business.
    """

    @property
    def input(self) -> TensorSpec:
        """What `run` takes."""

    @property
    def output(self) -> TensorSpec:
        """What `run` gives: ``(1, C)``; real score = ``(value - zero_point) * scale``."""

    @property
    def threads(self) -> int:
        """Threads that the runtime really uses."""

    def run(self, pixels: Image) -> Array:
        """Runs the network once.

        Args:
            pixels: of `input`'s shape and dtype, C-contiguous.

        Returns:
            An array of `output`'s shape and dtype, valid until the next `run` or `close`.

        Raises:
            InferenceError: wrong shape, dtype or layout; the runtime failed; or the session is closed.
        """


class Runtime(Protocol):
    """Opens models. Constructing one is cheap; `open` imports and loads what is needed."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def version(self) -> str:
        """Of the library that runs the network, with its name (``ai-edge-litert 2.3.0``)."""

    def open(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> Session:
        """Loads a model wholly delegated to XNNPACK.

        Args:
            model: the artefact's file.
            input: what the manifest promises of the session's input; checked against the file.
            output: likewise.
            threads: for inference; the delegate's own pool, not Python's.

        Raises:
            MissingDependencyError: the runtime's library isn't installed; says what to install.
            ModelLoadError: ``malformed`` file, ``version`` too new, ``signature`` other than promised, or ``undelegated``:
                the delegate did not take the graph.
        """


# --- power and heat ---------------------------------------------------------------------------------------------------


class PowerSample(msgspec.Struct, frozen=True):
    """Power at one moment, or its mean since the previous sample where the meter counts energy.

    Attributes:
        timestamp_ns: monotonic.
        power_w: watts, positive when consumed.
        energy_j: energy since the previous sample, where the meter counts it itself; None: integrate ``power_w``.
        period_s: time between the meter's own readings, where that is longer than between `PowerMeter.read`s: samples so far
            apart still follow each other. 0 where each read tells something new.
    """

    timestamp_ns: int
    power_w: float
    energy_j: float | None = None
    period_s: float = 0.0


class PowerMeter(Closeable, Protocol):
    """Reads power. The constructor opens it, and raises `MeterError` where it isn't there.

    Every figure keeps ``source``, ``scope`` and ``is_estimate`` all the way to the plot.
    """

    @property
    def source(self) -> str:
        """What gives the figure (``ina219 (hwmon)``, ``rapl``)."""

    @property
    def scope(self) -> Scope:
        """What the figure covers."""

    @property
    def is_estimate(self) -> bool:
        """True where a model, not a sensor, gives the figure."""

    @property
    def resolution_w(self) -> float | None:
        """Least step between two of its figures, in watts; no figure is better than that, and most are worse.

        With the settings of now; where it depends on the voltage or on the time between two reads, of the latest reading. None
        where nobody can tell.
        """

    def read(self) -> PowerSample | None:
        """Reads once.

        A sensor on the board answers within milliseconds. One that is asked over a network or through a program may take
        seconds, but gives up by itself: who reads several at once gives each a thread, as `PowerSampler` does.

        Returns:
            The sample, or None where there is nothing new: a counter was read for the first time, or a slow meter isn't due.

        Raises:
            MeterError: the sensor is gone, or gave something that is no power. The next `read` may succeed.
        """


class PowerFigure(msgspec.Struct, frozen=True):
    """Power over a span of time, with everything that must be said beside it.

    Attributes:
        power_w: mean over the part of the span that the meter covered.
        energy_j: over that part.
        covered_s: length of that part; shorter than the span where the meter had gaps.
        source: see `PowerMeter`.
        scope: see `PowerMeter`.
        is_estimate: see `PowerMeter`.
    """

    power_w: float
    energy_j: float
    covered_s: float
    source: str
    scope: Scope
    is_estimate: bool


class MeterTotal(msgspec.Struct, frozen=True):
    """What one meter gave since the start of a run. What it could not give is None, never 0.

    Attributes:
        source: see `PowerMeter`.
        scope: see `PowerMeter`.
        is_estimate: see `PowerMeter`.
        resolution_w: see `PowerMeter`.
        power_w: mean over ``covered_s``.
        energy_j: likewise.
        covered_s: see `PowerFigure`; 0 where it gave no figure.
        sample_rate_hz: really reached, over ``covered_s``.
        samples: that it gave.
        failed: reads that failed.
        error: of the latest read that failed, in one line; it stays when the meter comes back. A meter that hangs says so.
    """

    source: str
    scope: Scope
    is_estimate: bool
    resolution_w: float | None
    power_w: float | None
    energy_j: float | None
    covered_s: float
    sample_rate_hz: float | None
    samples: int
    failed: int
    error: str | None


class PowerReader(Protocol):
    """Samples meters all the time, and sums up."""

    def take(self) -> PowerFigure | None:
        """The headline meter's figure since the last call; None where it gave no sample."""

    def total(self) -> PowerFigure | None:
        """The headline meter's figure since the start; None where it gave no sample."""

    def figures(self) -> tuple[MeterTotal, ...]:
        """What every meter has seen since the start, the headline's first."""

    def error(self) -> str | None:
        """Why the headline meter gives nothing now; None where it does."""

    @property
    def overhead_cpu_s(self) -> float:
        """Processor time that reading the meters has taken."""


ThrottleFlag = Literal["under_voltage", "frequency_capped", "throttled", "soft_temperature_limit"]


class ThermalSample(msgspec.Struct, frozen=True):
    """Heat and speed of the processor; None where the board has no such sensor.

    Attributes:
        temperature_c: of the hottest zone that belongs to the processor.
        frequency_hz: of the fastest core.
        throttled: flags that hold now; None where the board can't tell ("unsupported", which isn't "ok").
        throttled_since_start: flags that held at any time since the reader was made; None where the board never could tell.
        unsupported: flags that the board can't tell, now or ever: their absence above says nothing.
        governor: of cpufreq; several, joined by commas, where cores differ.
    """

    temperature_c: float | None
    frequency_hz: float | None
    throttled: tuple[ThrottleFlag, ...] | None
    throttled_since_start: tuple[ThrottleFlag, ...] | None = None
    unsupported: tuple[ThrottleFlag, ...] = ()
    governor: str | None = None


class Thermals(Protocol):
    """Reads heat and speed. Never raises: what can't be read is None."""

    def read(self) -> ThermalSample:
        """Reads once."""


# --- records ----------------------------------------------------------------------------------------------------------


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


class MeterRecord(MeterTotal, frozen=True):
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


# --- time -------------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time as a parameter, so that tests need not wait."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""

    def wall_time_s(self) -> float:
        """Seconds since 1970, by a clock that may jump."""

    def wall_is_synchronised(self) -> bool:
        """True where the wall clock has been set by a time server since the boot."""

    def sleep(self, duration_s: float) -> None:
        """Waits; returns at once for a duration of 0 or less."""
