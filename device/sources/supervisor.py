"""Keeps a camera running: detects that no good frame arrives, opens it again, and gives up only when the profile says so.

A camera is interrupted from its last good frame to its next one. The interruption is reported when it begins and when it ends;
meanwhile `SupervisedSource.read` raises ``interrupted``, which lets the reader attend to other things.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import NamedTuple, cast

import msgspec

from device.contract import Backoff
from device.contract.profile import JITTER
from device.core.errors import GhostwattError, SourceError, SourceReason
from device.protocols import Clock, Frame, FrameSource, Interruption
from device.sources.base import BaseSource
from device.sources.watch import FrameWatch

CLOSE_TIMEOUT_S = 2.0
"""Time for a source to close; one that hangs longer is left to a thread of its own."""

# A wait is cut into slices: a reader must return soon after its source is closed. It is also short, for a reader that means to
# stop.
_WAIT_SLICE_S = 0.05
_LONGEST_WAIT_S = 0.25


class RetryPolicy(NamedTuple):
    """When a camera counts as interrupted, and how it is retried; see `device.contract.profile.Camera`."""

    stall_timeout_s: float = 5.0
    frozen_timeout_s: float | None = 60.0
    give_up_after_s: float | None = 120.0
    backoff: Backoff = Backoff()


class SupervisedSource(BaseSource):
    """A live source that is opened again whenever it fails.

    Args:
        source: the open source, which this one closes.
        opener: opens it again.
        policy: timeouts and retries, from the profile.
        clock: for every wait.
        on_interruption: called when an interruption begins and when it ends, from the thread that reads.
        chance: returns random numbers from 0 to 1, for the jitter.
        name: name to use instead of the source's own URI; empty for that URI.
        may_give_up: called once ``give_up_after_s`` has passed; while it returns False, the source is retried.
    """

    def __init__(
        self,
        source: FrameSource,
        opener: Callable[[], FrameSource],
        policy: RetryPolicy,
        *,
        clock: Clock,
        on_interruption: Callable[[Interruption], None],
        chance: Callable[[], float] = random.random,
        name: str = "",
        may_give_up: Callable[[], bool] = lambda: True,
    ) -> None:
        spec = source.spec
        super().__init__(name or spec.uri, is_live=spec.is_live, rate_fps=spec.rate_fps)
        self._source: FrameSource | None = source
        self._opener = opener
        self._policy = policy
        self._clock = clock
        self._on_interruption = on_interruption
        self._may_give_up = may_give_up
        self._delays = _BackoffDelays(policy.backoff, chance)
        self._watch = FrameWatch(policy.frozen_timeout_s)
        self._lock = threading.Lock()
        self._good_ns = self._opened_ns = clock.now_ns()
        self._retry_ns = 0
        self._interruption: Interruption | None = None
        self._darkness: Interruption | None = None
        self._first_index = 0
        self._next_index = 0

    @property
    def away_s(self) -> float:
        """How long it has been interrupted; 0 while it works. May be read from any thread."""
        interruption = self._interruption
        return 0.0 if interruption is None else (self._clock.now_ns() - interruption.started_ns) / 1e9

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for a good frame, or takes one step towards getting one. See `FrameSource.read`.

        Raises:
            SourceError: ``interrupted`` while the source delivers no good frames; call again. ``decode`` for a damaged frame
                among good ones. Any other reason means that the source has given up.
        """
        self._require_open()
        source = self._source
        if source is None:
            source = self._reopen(timeout_s)
        try:
            frame = source.read(min(timeout_s, self._time_left_s()))
        except SourceError as error:
            self._require_open()
            self._on_error(error)
            raise self._interrupted() from error
        if frame is None:
            return None
        if self._watch.is_frozen(frame):
            self._on_frozen()
            raise self._interrupted()
        return self._on_good_frame(frame)

    def close(self) -> None:
        """Closes the source; a current interruption is reported as still lasting."""
        if self._closed.is_set():
            return
        super().close()
        self._let_go()
        for interruption in (self._interruption, self._darkness):
            if interruption is not None:
                self._report_end(interruption, self._clock.now_ns(), is_over=False)

    # --- frames ---

    def _on_good_frame(self, frame: Frame) -> Frame:
        if self._interruption is not None:
            self._report_end(self._interruption, frame.timestamp_ns, is_over=True)
            self._interruption = None
        self._good_ns = self._clock.now_ns()
        self._delays.on_good_frame(self._good_ns)
        self._watch_light(frame)
        index = self._first_index + frame.index
        self._next_index = index + 1
        return msgspec.structs.replace(frame, index=index) if self._first_index else frame

    def _watch_light(self, frame: Frame) -> None:
        self._watch.look_for_light(frame)
        since_ns = self._watch.dark_since_ns
        if since_ns is not None and self._darkness is None:
            self._darkness = Interruption(
                self._spec.uri, "dark", "every pixel is black: is the lens covered, or the room dark?", since_ns
            )
            self._on_interruption(self._darkness)
        elif since_ns is None and self._darkness is not None:
            self._report_end(self._darkness, frame.timestamp_ns, is_over=True)
            self._darkness = None

    # --- failures ---

    def _on_error(self, error: SourceError) -> None:
        if error.reason == "decode" and self._time_left_s() > 0:
            # An occasional damaged frame is passed to the reader; nothing but damaged frames is a stall.
            if self._interruption is None:
                raise error
            return
        self._begin(error, self._good_ns)
        self._give_up_or_wait(error)

    def _on_frozen(self) -> None:
        error = SourceError(
            self._spec.uri,
            "keeps repeating the same picture",
            expected="a camera whose pictures change",
            remedy="for a stream that may stand still, set camera.frozen_timeout_s: null",
            reason="frozen",
        )
        self._begin(error, self._watch.changed_ns)
        self._give_up_or_wait(error)

    def _begin(self, error: SourceError, started_ns: int) -> None:
        if self._interruption is None:
            detail = "; ".join(part for part in (error.found, error.remedy) if part)
            self._interruption = Interruption(self._spec.uri, error.reason, detail, started_ns)
            self._on_interruption(self._interruption)

    def _give_up_or_wait(self, error: GhostwattError) -> None:
        """Closes the source, and decides when to open it again."""
        self._let_go()
        assert self._interruption is not None
        now_ns = self._clock.now_ns()
        limit_s, attempts = self._policy.give_up_after_s, self._interruption.attempts
        # At least one attempt to reopen comes first: this process may have been suspended itself (Ctrl-Z), or
        # `frozen_timeout_s` may be longer than `give_up_after_s`.
        is_over = limit_s is not None and attempts > 0 and now_ns - self._interruption.started_ns >= limit_s * 1e9
        if is_over and self._may_give_up():
            raise self._give_up(error, now_ns)
        self._retry_ns = now_ns + round(self._delays.next_s() * 1e9)

    def _give_up(self, error: GhostwattError, now_ns: int) -> SourceError:
        interruption = self._interruption
        assert interruption is not None
        away_s = (now_ns - interruption.started_ns) / 1e9
        return SourceError(
            self._spec.uri,
            f"no good frame for {away_s:.0f} s, despite {interruption.attempts} attempts to open it again ({error.found})",
            expected="a camera that delivers",
            remedy=error.remedy,
            reason=cast("SourceReason", interruption.reason),  # it began with an error
        )

    def _interrupted(self) -> SourceError:
        return SourceError(self._spec.uri, "is being opened again", reason="interrupted")

    def _reopen(self, timeout_s: float) -> FrameSource:
        """Waits until the next attempt is due and opens the source; raises if it isn't due yet or fails."""
        if not self._wait_for_retry(timeout_s):
            raise self._interrupted()
        assert self._interruption is not None
        self._interruption = msgspec.structs.replace(self._interruption, attempts=self._interruption.attempts + 1)
        try:
            source = self._opener()
        except GhostwattError as error:
            self._require_open()
            self._give_up_or_wait(error)
            raise self._interrupted() from error
        self._take(source)
        self._opened_ns = self._clock.now_ns()
        self._first_index = self._next_index
        return source

    def _take(self, source: FrameSource) -> None:
        """Keeps a source that was opened, unless `close` was called meanwhile."""
        with self._lock:
            if not self._closed.is_set():
                self._source = source
                return
        source.close()
        self._require_open()

    def _let_go(self) -> None:
        with self._lock:
            source, self._source = self._source, None
        if source is not None:
            closer = threading.Thread(target=source.close, name=f"close {self._spec.uri}", daemon=True)
            closer.start()
            closer.join(CLOSE_TIMEOUT_S)

    # --- time ---

    def _time_left_s(self) -> float:
        """Time until the source counts as stalled, counted from its last good frame or from its opening."""
        since_ns = max(self._good_ns, self._opened_ns)
        return max(0.0, self._policy.stall_timeout_s - (self._clock.now_ns() - since_ns) / 1e9)

    def _wait_for_retry(self, timeout_s: float) -> bool:
        """Waits briefly, ``timeout_s`` at most; returns True once the next attempt is due."""
        deadline_ns = min(self._retry_ns, self._clock.now_ns() + round(min(timeout_s, _LONGEST_WAIT_S) * 1e9))
        while (remaining_ns := deadline_ns - self._clock.now_ns()) > 0:
            self._clock.sleep(min(_WAIT_SLICE_S, remaining_ns / 1e9))
            self._require_open()
        return self._clock.now_ns() >= self._retry_ns

    def _report_end(self, interruption: Interruption, ended_ns: int, *, is_over: bool) -> None:
        duration_s = max(0, ended_ns - interruption.started_ns) / 1e9
        self._on_interruption(msgspec.structs.replace(interruption, duration_s=duration_s, is_over=is_over))


class _BackoffDelays:
    """Delays that grow with each failure, and start over once the source has worked for longer than the longest delay.

    A camera that delivers one frame and fails again is thus not reopened twice a second for ever.
    """

    def __init__(self, backoff: Backoff, chance: Callable[[], float]) -> None:
        self._backoff = backoff
        self._chance = chance
        self._failures = 0
        self._recovered_ns: int | None = None

    def on_good_frame(self, now_ns: int) -> None:
        """Records that the source works."""
        if self._recovered_ns is None:
            self._recovered_ns = now_ns
        if now_ns - self._recovered_ns >= self._backoff.max_s * 1e9:
            self._failures = 0

    def next_s(self) -> float:
        """The delay after one more failure."""
        wait_s = min(self._backoff.max_s, self._backoff.first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._recovered_ns = None
        return wait_s * (1 - JITTER + 2 * JITTER * self._chance())
