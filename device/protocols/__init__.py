"""The seams: what a source, a runtime, a meter and a sink must do, may do, and in which order they are called.

Whatever opens is a context manager whose ``close`` may be called twice. Implementations are listed in the ``registry`` of their
room; each protocol has one conformance suite under ``tests/conformance/`` that every implementation passes.

Times are nanoseconds of the monotonic clock, so that an adjusted wall clock moves nothing.
"""

from device.protocols.base import Array, Closeable, Image
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
    Prediction,
    Record,
    RunRecord,
    Sink,
    SourceIntervalRecord,
)
from device.protocols.time import Clock

__all__ = [
    "UNKNOWN_LABEL",
    "Array",
    "Clock",
    "Closeable",
    "Frame",
    "FrameSource",
    "Image",
    "Interruption",
    "InterruptionRecord",
    "IntervalRecord",
    "MeterRecord",
    "MeterTotal",
    "Percentiles",
    "PowerFigure",
    "PowerMeter",
    "PowerOrigin",
    "PowerReader",
    "PowerSample",
    "Prediction",
    "Record",
    "RunRecord",
    "Runtime",
    "Session",
    "Sink",
    "SourceIntervalRecord",
    "SourceSpec",
    "ThermalSample",
    "Thermals",
    "ThrottleFlag",
]
