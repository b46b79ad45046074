"""What the broker gets: one JSON object for all records since the last one.

Latency's p50 is the mean of the intervals', weighted by their frames; power is a mean as in `device.telemetry.power_mean`.
Percentiles can't be merged: p99 is the largest of any interval. Measured and estimated watts have keys of their own, and are
never mixed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from device.protocols import Event, FrameDone, InterruptionRecord, IntervalRecord, PowerFigure, SourceIntervalRecord
from device.telemetry.power_mean import PowerMean

HARMLESS = ("dark",)
"""Reasons that are no problem of the camera: rooms are dark at night."""


class Shown(NamedTuple):
    """What this run has figures for: a figure that it doesn't have gets no entity.

    Attributes:
        measured_scope: what measured power covers; None where no power was measured.
        estimated_scope: what estimated power covers; None where no power was estimated.
        has_temperature: the board has such a sensor.
        knows_throttling: the board can tell whether it is throttled.
        has_label: predictions come.
    """

    measured_scope: str | None = None
    estimated_scope: str | None = None
    has_temperature: bool = False
    knows_throttling: bool = False
    has_label: bool = False


class _Window:
    """Since the last state."""

    def __init__(self) -> None:
        self.span_s = 0.0
        self.frames = self.dropped = self.unknown = self.bad_frames = 0
        self.latency_p99_s: float | None = None
        self.measured, self.estimated = PowerMean(), PowerMean()
        self.newest: IntervalRecord | None = None
        self.powered: PowerFigure | None = None
        self._p50_sum_s, self._p50_frames = 0.0, 0

    def add(self, record: IntervalRecord) -> None:
        self.newest = record
        self.span_s += record.duration_s
        self.frames += record.frames
        self.dropped += record.dropped
        self.unknown += record.unknown
        if record.latency_s:
            self._p50_sum_s += record.latency_s.p50 * record.frames
            self._p50_frames += record.frames
            self.latency_p99_s = max(self.latency_p99_s or 0.0, record.latency_s.p99)
        if record.power is not None and record.power.covered_s:
            (self.estimated if record.power.is_estimate else self.measured).add(record.power)
            self.powered = record.power

    @property
    def latency_p50_s(self) -> float | None:
        return self._p50_sum_s / self._p50_frames if self._p50_frames else None


class MqttState:
    """Sums records up. Used by one thread."""

    def __init__(self) -> None:
        self.shown = Shown()
        self._window = _Window()
        self._frames_total = self._dropped_total = self._bad_total = 0
        self._problems: dict[tuple[str, str, int], str] = {}
        self._label: str | None = None

    @property
    def span_s(self) -> float:
        """Time that the next state covers so far."""
        return self._window.span_s

    def add(self, record: Event) -> bool:
        """Takes an event; true where the state should be sent at once."""
        if isinstance(record, IntervalRecord):
            self._add_interval(record)
        elif isinstance(record, SourceIntervalRecord):
            self._bad_total += record.bad_frames
        elif isinstance(record, FrameDone):
            self._label = record.prediction.label
            self.shown = self.shown._replace(has_label=True)
        elif isinstance(record, InterruptionRecord) and record.reason not in HARMLESS:
            self._note_problem(record)
            return True
        return False

    def take(self) -> dict[str, Any] | None:
        """Gives the state and begins the next; None where no interval has ended."""
        window, self._window = self._window, _Window()
        newest = window.newest
        if newest is None:
            return None
        return {
            "span_s": round(window.span_s, 3),
            "fps": _rounded(window.frames / window.span_s if window.span_s > 0 else None),
            "frames_total": self._frames_total,
            "dropped_total": self._dropped_total,
            "bad_frames_total": self._bad_total,
            "unknown": window.unknown,
            "latency_p50_s": _rounded(window.latency_p50_s, 6),
            "latency_p99_s": _rounded(window.latency_p99_s, 6),
            "power_measured_w": _watts(window.measured),
            "power_estimated_w": _watts(window.estimated),
            "power_source": window.powered.source if window.powered else None,
            "power_scope": window.powered.scope if window.powered else None,
            "temperature_c": _rounded(newest.temperature_c, 1),
            "throttled": newest.throttled,
            "heat_limit_fps": newest.heat_limit_fps,
            "rss_bytes": newest.rss_bytes,
            **self.camera_problem(),
            **({"label": self._label} if self.shown.has_label else {}),
        }

    def camera_problem(self) -> dict[str, Any]:
        """The part of the state about the cameras, as of now."""
        return {"camera_problem": bool(self._problems), "camera_problem_detail": "; ".join(self._problems.values())}

    def _add_interval(self, record: IntervalRecord) -> None:
        self._window.add(record)
        self._frames_total += record.frames
        self._dropped_total += record.dropped
        shown = self.shown
        if (power := record.power) is not None:
            scope = power.scope
            shown = shown._replace(estimated_scope=scope) if power.is_estimate else shown._replace(measured_scope=scope)
        self.shown = shown._replace(
            has_temperature=shown.has_temperature or record.temperature_c is not None,
            knows_throttling=shown.knows_throttling or record.throttled is not None,
        )

    def _note_problem(self, record: InterruptionRecord) -> None:
        key = (record.source, record.reason, record.started_ns)
        if record.is_over:
            self._problems.pop(key, None)
        else:
            self._problems[key] = f"{record.source}: {record.reason}"


def _watts(mean: PowerMean) -> float | None:
    return None if mean.figure is None else _rounded(mean.figure.power_w)


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
