"""What the broker is told: one JSON object for all records since the last one.

Latency's p50 is a mean that weighs each interval by its frames, power one as in `device.telemetry.power_mean`. Percentiles
can't be merged: p99 is the largest of any interval. Measured and estimated watts have keys of their own, so that nothing
mixes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from device.protocols import InterruptionRecord, IntervalRecord, Prediction, Record, SourceIntervalRecord
from device.telemetry.power_mean import PowerMean

HARMLESS = ("dark",)
"""Reasons that are no trouble of the camera: rooms are dark at night."""


class Shown(NamedTuple):
    """What this run has figures for: what it has not gets no entity.

    Attributes:
        measured_scope: what a measured power covers; None where none was seen.
        estimated_scope: likewise of an estimate.
        has_temperature: the board has such a sensor.
        tells_throttling: the board can tell whether it is throttled.
        has_label: predictions come.
    """

    measured_scope: str | None = None
    estimated_scope: str | None = None
    has_temperature: bool = False
    tells_throttling: bool = False
    has_label: bool = False


class _Window:
    """Since the last state."""

    def __init__(self) -> None:
        self.span_s = 0.0
        self.frames = self.dropped = self.unknown = self.bad_frames = 0
        self.latency_p99_s: float | None = None
        self.measured, self.estimated = PowerMean(), PowerMean()
        self.newest: IntervalRecord | None = None
        self.powered: IntervalRecord | None = None
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
        power = self.measured if record.power_is_estimate is False else self.estimated
        power.add(record)
        self.powered = record if power.newest is record else self.powered

    @property
    def latency_p50_s(self) -> float | None:
        return self._p50_sum_s / self._p50_frames if self._p50_frames else None


class MqttState:
    """Sums records up. Used by one thread."""

    def __init__(self) -> None:
        self.shown = Shown()
        self._window = _Window()
        self._frames_total = self._dropped_total = self._bad_total = 0
        self._troubles: dict[tuple[str, str, int], str] = {}
        self._label: str | None = None

    @property
    def span_s(self) -> float:
        """Time that the state to come covers so far."""
        return self._window.span_s

    def add(self, record: Record) -> bool:
        """Takes a record; true where it shouldn't wait for its turn."""
        if isinstance(record, IntervalRecord):
            self._add_interval(record)
        elif isinstance(record, SourceIntervalRecord):
            self._bad_total += record.bad_frames
        elif isinstance(record, Prediction):
            self._label = record.label
            self.shown = self.shown._replace(has_label=True)
        elif isinstance(record, InterruptionRecord) and record.reason not in HARMLESS:
            self._note_trouble(record)
            return True
        return False

    def take(self) -> dict[str, Any] | None:
        """The state, and begins the next; None where no interval has ended, and nothing is known."""
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
            "power_measured_w": _rounded(window.measured.power_w),
            "power_estimated_w": _rounded(window.estimated.power_w),
            "power_source": window.powered.power_source if window.powered else None,
            "power_scope": window.powered.power_scope if window.powered else None,
            "temperature_c": _rounded(newest.temperature_c, 1),
            "throttled": newest.throttled,
            "heat_limit_fps": newest.heat_limit_fps,
            "rss_bytes": newest.rss_bytes,
            **self.trouble(),
            **({"label": self._label} if self.shown.has_label else {}),
        }

    def trouble(self) -> dict[str, Any]:
        """Of the cameras, now."""
        return {"camera_problem": bool(self._troubles), "camera_problem_detail": "; ".join(self._troubles.values())}

    def _add_interval(self, record: IntervalRecord) -> None:
        self._window.add(record)
        self._frames_total += record.frames
        self._dropped_total += record.dropped
        shown = self.shown
        if record.power_w is not None:
            scope = record.power_scope or "unknown"
            is_measured = record.power_is_estimate is False
            shown = shown._replace(measured_scope=scope) if is_measured else shown._replace(estimated_scope=scope)
        self.shown = shown._replace(
            has_temperature=shown.has_temperature or record.temperature_c is not None,
            tells_throttling=shown.tells_throttling or record.throttled is not None,
        )

    def _note_trouble(self, record: InterruptionRecord) -> None:
        key = (record.source, record.reason, record.started_ns)
        if record.is_over:
            self._troubles.pop(key, None)
        else:
            self._troubles[key] = f"{record.source}: {record.reason}"


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
