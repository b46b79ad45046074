"""Keeps a rate, for sources that are no camera: which frame is due, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from device.core.errors import SourceError, UsageError
from device.protocols import Clock

MAX_RATE_FPS = 1000.0

# A wait is cut into slices, so that a source that is closed meanwhile doesn't keep its reader.
_WAIT_SLICE_S = 0.05


class Due(NamedTuple):
    """A frame that fell due: its index, and the moment, in nanoseconds of the clock."""

    frame_index: int
    timestamp_ns: int


class Pace:
    """Lets frames fall due at a steady rate, from the first `wait` on, whether anyone waits or not.

    Moments are counted from the first, so that none drifts from the rate.

    Args:
        where: the source's URI, for errors.
        rate_fps: above 0, at most `MAX_RATE_FPS`.
        clock: that they fall due on.
        require_open: raises once the source is closed; asked while waiting.
    """

    def __init__(self, where: str, rate_fps: float, clock: Clock, require_open: Callable[[], None]) -> None:
        self._where = where
        self._rate_fps = rate_fps
        self._clock = clock
        self._require_open = require_open
        self._start_ns: int | None = None

    def wait(self, next_index: int, timeout_s: float) -> Due:
        """Skips what was missed, and waits for what is next.

        Args:
            next_index: the first that was not given yet.
            timeout_s: how long to wait at most.

        Returns:
            The newest frame that is due, which may have fallen due long ago; or ``next_index``, once it is due.

        Raises:
            SourceError: ``stalled`` where nothing falls due in time, or what ``require_open`` raises.
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
    """Takes the first rate that can be kept.

    Args:
        where: the source's URI, for errors.
        candidates: in order; None, 0 and NaN say nothing. Neither does `MAX_RATE_FPS`: a container that knows no rate gives
            its time base, a millisecond or less, in its place.

    Raises:
        UsageError: none of them can.
    """
    for rate_fps in candidates:
        if rate_fps is not None and 0 < rate_fps < MAX_RATE_FPS:
            return rate_fps
    raise UsageError(
        where,
        "has no frame rate of its own, and none was asked for",
        expected=f"a rate above 0, under {MAX_RATE_FPS:g} frames a second, to play it in real time",
        reason="no_rate",
    )
