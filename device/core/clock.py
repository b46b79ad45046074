"""Clocks: the system's, and one that tests advance by hand."""

from __future__ import annotations

import ctypes
import time

_TIME_ERROR = 5


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""
        return time.monotonic_ns()

    def wall_time_s(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def wall_is_synchronised(self) -> bool:
        """Whether, according to the kernel, the wall clock is synchronised with a time server.

        References:
            adjtimex(2): with ``modes`` 0 it only queries, and returns TIME_ERROR (5) for a clock that isn't synchronised. ntpd,
            chrony and systemd-timesyncd all inform the kernel.
        """
        # struct timex has 208 bytes on 64-bit Linux; its modes, zeroed, request no change.
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(256))
        return 0 <= state < _TIME_ERROR

    def sleep(self, duration_s: float) -> None:
        """Waits; returns at once for a duration of 0 or less."""
        if duration_s > 0:
            time.sleep(duration_s)


class ManualClock:
    """A clock that moves only when `advance` or `sleep` is called."""

    def __init__(self, start_ns: int = 0, wall_time_s: float = 0.0) -> None:
        self._now_ns = start_ns
        self._wall_offset_s = wall_time_s - start_ns / 1e9
        self.is_synchronised = True

    def now_ns(self) -> int:
        """Monotonic nanoseconds."""
        return self._now_ns

    def wall_time_s(self) -> float:
        """Seconds since 1970."""
        return self._wall_offset_s + self._now_ns / 1e9

    def wall_is_synchronised(self) -> bool:
        """As ``is_synchronised`` was set."""
        return self.is_synchronised

    def sleep(self, duration_s: float) -> None:
        """Moves the clock by ``duration_s``."""
        self.advance(max(0.0, duration_s))

    def advance(self, duration_s: float) -> None:
        """Moves the clock forward."""
        self._now_ns += round(duration_s * 1e9)
