"""Plays recorded and generated frames at a steady rate: which frame is due, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from device.core.errors import SourceError, UsageError
from device.protocols import Clock

MAX_RATE_FPS = 1000.0

# A wait is cut into slices: a reader must return soon after its source is closed.
_WAIT_SLICE_S = 0.05


class Due(NamedTuple):
    """A frame that is due: its index, and when it fell due, in nanoseconds of the clock."""

    frame_index: int
    timestamp_ns: int


class Pace:
    """A steady rate at which frames fall due from the first `wait` on, whether anyone waits or not.

    All times are computed from the first, without drift.

    Args:
        where: the source's URI, for errors.
        rate_fps: above 0, at most `MAX_RATE_FPS`.
        clock: the clock of the due times.
        require_open: raises once the source is closed; called while waiting.
    """

    def __init__(self, where: str, rate_fps: float, clock: Clock, require_open: Callable[[], None]) -> None:
        self._where = where
        self._rate_fps = rate_fps
        self._clock = clock
        self._require_open = require_open
        self._start_ns: int | None = None

    def wait(self, next_index: int, timeout_s: float) -> Due:
        """Skips missed frames, and waits for the next one.

        Args:
            next_index: index of the first frame that hasn't been delivered.
            timeout_s: longest wait.

        Returns:
            The newest frame that is due, which may have fallen due long ago; or else ``next_index``, once it is due.

        Raises:
            SourceError: ``stalled`` if no frame falls due in time, or whatever ``require_open`` raises.
        """
        now_ns = self._clock.now_ns()
        if self._start_ns is None:
            self._start_ns = now_ns
        index = max(next_index, int((now_ns - self._start_ns) * self._rate_fps / 1e9))
        due_ns = self._start_ns + round(index * 1e9 / self._rate_fps)
        deadline_ns = now_ns + round(timeout_s * 1e9)
        while (now_ns := self._clock.now_ns()) < due_ns:
            if now_ns >= deadline_ns:
                raise SourceError(
                    self._where, f"no frame within {timeout_s:.3g} s", expected="a longer timeout", reason="stalled"
                )
            self._clock.sleep(min(_WAIT_SLICE_S, (min(due_ns, deadline_ns) - now_ns) / 1e9))
            self._require_open()
        return Due(index, due_ns)


def choose_rate_fps(where: str, *candidates: float | None) -> float:
    """Takes the first usable rate.

    Args:
        where: the source's URI, for errors.
        candidates: in order of preference. None, 0 and NaN stand for an unknown rate; so do `MAX_RATE_FPS` and above, because a
            container without a rate reports its time base, a millisecond or less, instead.

    Raises:
        UsageError: none is usable.
    """
    for rate_fps in candidates:
        if rate_fps is not None and 0 < rate_fps < MAX_RATE_FPS:
            return rate_fps
    raise UsageError(
        where,
        "has no frame rate of its own, and none was given",
        expected=f"a rate above 0 and below {MAX_RATE_FPS:g} frames a second, to play it in real time",
        reason="no_rate",
    )
