"""Events: what happens in a run, told once, in one stream; and the sinks that take it.

============================  ==========================  =============================================================
event                         emitted by                  when
============================  ==========================  =============================================================
`RunRecord`                   the wiring                  first, before any frame
`FrameDone`                   the pipeline                after each inference
`FrameDamaged`                the pipeline                for each frame that could not be decoded and was left out
`Tick`                        the pipeline                after each frame, and at least ten times a second
`InterruptionRecord`          the recorder, at a tick     when a source fails, and again when it is back or the run ends
`IntervalRecord`              the recorder, at a tick     once an interval, and for the rest at the end
`SourceIntervalRecord`        the recorder                one a source, right after the interval that it is a part of
`MeterRecord`                 the recorder                one a meter, once a minute and at the end
`Note`, `Trouble`             anyone, from any thread     when a person should know
`RunStopping`                 the wiring                  once the loop has ended
`RunEnded`                    the recorder                last, but for the trouble that sinks have while they close
============================  ==========================  =============================================================

All but `Note` and `Trouble` come from the loop's thread, one at a time and in order. An event that a sink emits while it takes
another is handed to everyone before that other goes to the next sink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import msgspec

from device.contract import Profile
from device.core.errors import SourceError
from device.core.plugin import Needs
from device.protocols.base import Closeable
from device.protocols.records import (
    InterruptionRecord,
    IntervalRecord,
    MeterRecord,
    Prediction,
    RunRecord,
    RunSummary,
    SourceIntervalRecord,
)
from device.protocols.time import Clock


class StageTimes(NamedTuple):
    """Where the time of one frame went, in seconds. ``capture_s`` is the reader's wait for the source."""

    capture_s: float
    preprocess_s: float
    inference_s: float
    postprocess_s: float


class FrameDone(msgspec.Struct, frozen=True):
    """A frame went through the network."""

    prediction: Prediction
    times: StageTimes


class FrameDamaged(msgspec.Struct, frozen=True):
    """A frame could not be decoded and was left out.

    Attributes:
        source: `SourceSpec.uri`.
        error: ``decode``.
    """

    source: str
    error: SourceError


class Tick(msgspec.Struct, frozen=True):
    """Time passed.

    Attributes:
        dropped: frames that were overtaken since the start, by `SourceSpec.uri`.
    """

    dropped: Mapping[str, int]


class Note(msgspec.Struct, frozen=True):
    """Something that a person may like to know, in one line."""

    line: str


class Trouble(msgspec.Struct, frozen=True):
    """Something that is wrong, in one line; the run continues."""

    line: str


class RunStopping(msgspec.Struct, frozen=True):
    """The loop has ended; sources and sinks are being closed.

    Attributes:
        error: what ended it, in one line; None where nothing went wrong.
    """

    error: str | None = None


class RunEnded(msgspec.Struct, frozen=True):
    """The run is over."""

    summary: RunSummary


Event = (
    RunRecord
    | FrameDone
    | FrameDamaged
    | Tick
    | InterruptionRecord
    | IntervalRecord
    | SourceIntervalRecord
    | MeterRecord
    | Note
    | Trouble
    | RunStopping
    | RunEnded
)

Emit = Callable[[Event], None]

Kinds = tuple[type[Any], ...]
"""Classes of events."""

RECORDS: Kinds = (RunRecord, IntervalRecord, SourceIntervalRecord, InterruptionRecord, MeterRecord)
"""What is worth keeping for months."""


class Listener(Protocol):
    """Takes events where they are emitted: the console, the journal, the watchdog. Must return quickly.

    `Note` and `Trouble` may come from any thread, also while another event is taken; the others come from the loop's. An error
    that `write` raises is reported once and hurts nobody else.
    """

    @property
    def takes(self) -> Kinds:
        """Which events it is given; constant."""

    def write(self, event: Any) -> None:
        """Takes one event, of a kind that ``takes`` names."""


class SinkContext(NamedTuple):
    """What a sink may know of the run.

    Attributes:
        profile: that runs.
        clock: that events' timestamps are of.
        report: takes one line about something that is wrong; from any thread.
    """

    profile: Profile
    clock: Clock
    report: Callable[[str], None]


class Sink(Closeable, Protocol):
    """Takes events that leave the process: a file, a broker, a page. A plug-in: the table is `device.sinks.registry`.

    `open` makes it, in the caller's thread; from then on one thread of its own calls nearly everything: `RunRecord` first, then
    the others in order. It may block: `device.sinks.background` keeps it away from the loop by a bounded queue. Importing its
    module needs no third-party package; `open` imports what it wraps.

    Attributes:
        Options: what a profile may give it under ``sinks:``, by the names and types of the fields.
        needs: what it needs of the machine.
        keeps_every_frame: sources that can wait do so rather than have it lose a frame's result.
    """

    Options: ClassVar[type[msgspec.Struct]]
    needs: ClassVar[Needs]
    keeps_every_frame: ClassVar[bool]

    @classmethod
    def open(cls, options: Any, context: SinkContext) -> Self:
        """Opens it.

        Args:
            options: of the type ``Options``.
            context: of the run.

        Raises:
            UsageError: options that can't be read.
            MissingDependencyError: its package isn't installed.
            SinkError: a file or a port that can't be had.
        """

    @property
    def takes(self) -> Kinds:
        """Which events it is given; constant."""

    @property
    def flush_interval_s(self) -> float:
        """Time between two calls of `flush`; constant."""

    @property
    def queue_capacity(self) -> int:
        """Events that may wait for it; constant. The newest is lost where there are more."""

    def prepare(self, event: Any) -> Any:
        """Gives what `write` is to get for an event. Called where the event is emitted, from any thread: must be quick."""

    def write(self, event: Any) -> None:
        """Takes what `prepare` gave for one event, of a kind that ``takes`` names; may buffer it.

        Raises:
            SinkError: it could not be kept. The sink stays usable: a later write may succeed.
        """

    def flush(self) -> None:
        """Makes durable what was written.

        Raises:
            SinkError: it could not be kept; nothing that was flushed before is lost.
        """

    def hurry(self) -> None:
        """The run ends, and `close` follows what is queued: called from another thread, perhaps in the middle of a `write`."""
