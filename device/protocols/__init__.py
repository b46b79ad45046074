"""The seams: what a source, a runtime, a meter and a sink must do, may do, and in which order they are called; and the events.

Whatever opens is a context manager whose ``close`` may be called twice. Implementations are listed in the ``registry`` of their
room; each protocol has one conformance suite under ``tests/conformance/`` that every implementation passes.

Times are nanoseconds of the monotonic clock, so that an adjusted wall clock moves nothing.
"""

from device.protocols.base import Array, Closeable, Image
from device.protocols.events import (
    RECORDS,
    Emit,
    Event,
    FrameDamaged,
    FrameDone,
    Kinds,
    Listener,
    Note,
    RunEnded,
    RunStopping,
    Sink,
    SinkContext,
    StageTimes,
    Tick,
    Trouble,
)
from device.protocols.frames import Frame, FrameSource, Interruption, SourceSpec
from device.protocols.inference import Runtime, Session
from device.protocols.power import (
    MeterTotal,
    PowerFigure,
    PowerMeter,
    PowerOrigin,
    PowerReader,
    PowerSample,
    Thermals,
    ThermalSample,
    ThrottleFlag,
)
from device.protocols.records import (
    UNKNOWN_LABEL,
    InterruptionRecord,
    IntervalRecord,
    MeterRecord,
    Percentiles,
    PowerSummary,
    Prediction,
    RunRecord,
    RunSummary,
    SourceIntervalRecord,
    SourceSummary,
    StageSummary,
)
from device.protocols.time import Clock

__all__ = [
    "RECORDS",
    "UNKNOWN_LABEL",
    "Array",
    "Clock",
    "Closeable",
    "Emit",
    "Event",
    "Frame",
    "FrameDamaged",
    "FrameDone",
    "FrameSource",
    "Image",
    "Interruption",
    "InterruptionRecord",
    "IntervalRecord",
    "Kinds",
    "Listener",
    "MeterRecord",
    "MeterTotal",
    "Note",
    "Percentiles",
    "PowerFigure",
    "PowerMeter",
    "PowerOrigin",
    "PowerReader",
    "PowerSample",
    "PowerSummary",
    "Prediction",
    "RunEnded",
    "RunRecord",
    "RunStopping",
    "RunSummary",
    "Runtime",
    "Session",
    "Sink",
    "SinkContext",
    "SourceIntervalRecord",
    "SourceSpec",
    "SourceSummary",
    "StageSummary",
    "StageTimes",
    "ThermalSample",
    "Thermals",
    "ThrottleFlag",
    "Tick",
    "Trouble",
]
