"""Time as a parameter."""

from __future__ import annotations

from typing import Protocol


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
