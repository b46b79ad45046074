"""The profile's limit on heat: when to slow down, and when to return to full rate. A state machine without a clock."""

from __future__ import annotations

from collections.abc import Callable

from device.contract import RateLimits

MIN_SLOW_S = 10.0
"""Least time at the lower rate: a sensor that flickers about the threshold must not make the rate flicker."""


class ThermalLimit:
    """Decides at which rate the loop may run, and sets it.

    It slows down at the first temperature above ``slow_above_c``, at once. It returns to full rate when it is
    ``slow_hysteresis_c`` cooler than that, and has been slow for `MIN_SLOW_S`.

    A temperature that can't be read changes nothing: the rate stays as it is, and that the limit can't act is reported once.

    Args:
        limits: of the profile; without ``slow_above_c`` the limit never acts.
        report: takes one line at each change.
        set_rate_fps: is given each new rate; None for no limit.
    """

    def __init__(
        self,
        limits: RateLimits,
        report: Callable[[str], None],
        set_rate_fps: Callable[[float | None], None] = lambda _: None,
    ) -> None:
        self._limits = limits
        self._report = report
        self._set_rate_fps = set_rate_fps
        self._slow_since_ns: int | None = None
        self._has_reported_blind = False
        self.spells = 0

    @property
    def is_slow(self) -> bool:
        """True while the limit holds the rate down."""
        return self._slow_since_ns is not None

    def update(self, temperature_c: float | None, now_ns: int) -> float | None:
        """Takes a reading.

        Args:
            temperature_c: of the processor; None where it can't be read.
            now_ns: monotonic.

        Returns:
            Inferences a second, at most, from now on; None where the heat sets no limit.
        """
        threshold_c, rate_fps = self._limits.slow_above_c, self._limits.slow_rate_fps
        if threshold_c is None or rate_fps is None:
            return None
        if temperature_c is None:
            self._report_blind(threshold_c)
        elif self._slow_since_ns is None:
            if temperature_c > threshold_c:
                self._slow_since_ns = now_ns
                self.spells += 1
                self._set_rate_fps(rate_fps)
                self._report(f"{temperature_c:.0f} °C, above {threshold_c:g} °C: slowed down to {rate_fps:g} a second")
        elif self._may_speed_up(temperature_c, threshold_c, now_ns - self._slow_since_ns):
            self._slow_since_ns = None
            self._set_rate_fps(None)
            self._report(f"{temperature_c:.0f} °C: back to full rate")
        return rate_fps if self.is_slow else None

    def _may_speed_up(self, temperature_c: float, threshold_c: float, slow_ns: int) -> bool:
        return temperature_c <= threshold_c - self._limits.slow_hysteresis_c and slow_ns >= MIN_SLOW_S * 1e9

    def _report_blind(self, threshold_c: float) -> None:
        if not self._has_reported_blind:
            self._has_reported_blind = True
            self._report(f"limits.slow_above_c: {threshold_c:g} can't act: the processor's temperature can't be read")
