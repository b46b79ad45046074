"""Keeps a camera going: notices that no good frame comes, opens it again, and gives up only when the profile says so.

A camera is interrupted from its last good frame to its next one. It is told of twice, at the beginning and at the end, and
meanwhile `SupervisedSource.read` raises ``interrupted``, so that nobody who waits is kept for long.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from device.contract import Backoff
from device.core.errors import GhostwattError, SourceError
from device.protocols import Clock, Frame, FrameSource, Interruption
from device.sources.base import BaseSource
from device.sources.watch import FrameWatch

CLOSE_TIMEOUT_S = 2.0
"""For a source to close; one that hangs longer is left to a thread of its own."""

JITTER = 0.2
"""Share of a wait that chance adds or takes away."""

# A wait is cut into slices, so that a source that is closed meanwhile doesn't keep its reader; and a reader that means to stop
# is let go after a few of them.
_WAIT_SLICE_S = 0.05
_LONGEST_WAIT_S = 0.25


class Patience(NamedTuple):
    """How long a camera may be without a good frame; see `device.contract.profile.Camera`."""

    stall_timeout_s: float = 5.0
    frozen_timeout_s: float | None = 60.0
    give_up_after_s: float | None = 120.0
    backoff: Backoff = Backoff()


class SupervisedSource(BaseSource):
    """A live source that is opened again whenever it fails.

    The first opening is the caller's.

    Args:
        source: open; closed here.
        opener: opens it again.
        patience: of the profile.
        clock: for every wait.
        on_interruption: told when an interruption begins, and when it ends; from the thread that reads.
        chance: gives numbers from 0 to 1, for the jitter.
        name: what to call it instead of the source's own URI; empty for that.
        may_give_up: asked when the patience is at its end; while it says no, the source is tried on and on.
    """

    def __init__(
        self,
        source: FrameSource,
        opener: Callable[[], FrameSource],
        patience: Patience,
        *,
        clock: Clock,
        on_interruption: Callable[[Interruption], None],
        chance: Callable[[], float] = random.random,
        name: str = "",
        may_give_up: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(msgspec.structs.replace(source.spec, uri=name or source.spec.uri))
        self._source: FrameSource | None = source
        self._opener = opener
        self._patience = patience
        self._clock = clock
        self._on_interruption = on_interruption
        self._may_give_up = may_give_up
        self._waits = _Waits(patience.backoff, chance)
        self._watch = FrameWatch(patience.frozen_timeout_s)
        self._lock = threading.Lock()
        self._good_ns = self._opened_ns = clock.now_ns()
        self._retry_ns = 0
        self._interruption: Interruption | None = None
        self._darkness: Interruption | None = None
        self._first_index = 0
        self._next_index = 0

    @property
    def away_s(self) -> float:
        """How long it has been interrupted; 0 while it is well. May be asked from any thread."""
        interruption = self._interruption
        return 0.0 if interruption is None else (self._clock.now_ns() - interruption.started_ns) / 1e9

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for a good frame, or goes one step towards one. See `FrameSource.read`.

        Raises:
            SourceError: ``interrupted`` while the source is without good frames: read again. ``decode`` for a damaged frame
                among good ones. Any other reason: the profile's patience is at its end.
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
        """Closes the source; an interruption that lasts is told of as it stands."""
        if self._closed.is_set():
            return
        super().close()
        self._let_go()
        for interruption in (self._interruption, self._darkness):
            if interruption is not None:
                self._tell_end(interruption, self._clock.now_ns(), is_over=False)

    # --- frames ---

    def _on_good_frame(self, frame: Frame) -> Frame:
        if self._interruption is not None:
            self._tell_end(self._interruption, frame.timestamp_ns, is_over=True)
            self._interruption = None
        self._good_ns = self._clock.now_ns()
        self._waits.on_good_frame(self._good_ns)
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
            self._tell_end(self._darkness, frame.timestamp_ns, is_over=True)
            self._darkness = None

    # --- trouble ---

    def _on_error(self, error: SourceError) -> None:
        if error.reason == "decode" and self._time_left_s() > 0:
            # A damaged frame here and there is a bad frame; nothing but damaged frames is a stall.
            if self._interruption is None:
                raise error
            return
        self._begin(error, self._good_ns)
        self._give_up_or_wait(error)

    def _on_frozen(self) -> None:
        error = SourceError(
            self._spec.uri,
            "the same picture again and again",
            expected="a camera whose pictures change",
            remedy="where a stream may stand still, set camera.frozen_timeout_s: null",
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
        """Lets go of the source, and settles when it will be opened again."""
        self._let_go()
        assert self._interruption is not None
        now_ns = self._clock.now_ns()
        limit_s, attempts = self._patience.give_up_after_s, self._interruption.attempts
        # Not before it was opened again once: perhaps it is we who were away (Ctrl-Z), or pictures may stand still for longer.
        is_over = limit_s is not None and attempts > 0 and now_ns - self._interruption.started_ns >= limit_s * 1e9
        if is_over and self._may_give_up():
            raise self._give_up(error, now_ns)
        self._retry_ns = now_ns + round(self._waits.next_s() * 1e9)

    def _give_up(self, error: GhostwattError, now_ns: int) -> SourceError:
        interruption = self._interruption
        assert interruption is not None
        away_s = (now_ns - interruption.started_ns) / 1e9
        return SourceError(
            self._spec.uri,
            f"no good frame for {away_s:.0f} s, after {interruption.attempts} attempts to open it again ({error.found})",
            expected="a camera that delivers",
            remedy=error.remedy,
            reason=interruption.reason,
        )

    def _interrupted(self) -> SourceError:
        return SourceError(self._spec.uri, "is being opened again", reason="interrupted")

    def _reopen(self, timeout_s: float) -> FrameSource:
        """Waits until it is time, and opens the source; or raises."""
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
        """Keeps a source that was opened, unless `close` came meanwhile."""
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
        """Until the source counts as stalled: since its last good frame, or since it was opened."""
        since_ns = max(self._good_ns, self._opened_ns)
        return max(0.0, self._patience.stall_timeout_s - (self._clock.now_ns() - since_ns) / 1e9)

    def _wait_for_retry(self, timeout_s: float) -> bool:
        """Waits a moment, ``timeout_s`` at most; True once it is time."""
        deadline_ns = min(self._retry_ns, self._clock.now_ns() + round(min(timeout_s, _LONGEST_WAIT_S) * 1e9))
        while (remaining_ns := deadline_ns - self._clock.now_ns()) > 0:
            self._clock.sleep(min(_WAIT_SLICE_S, remaining_ns / 1e9))
            self._require_open()
        return self._clock.now_ns() >= self._retry_ns

    def _tell_end(self, interruption: Interruption, ended_ns: int, *, is_over: bool) -> None:
        duration_s = max(0, ended_ns - interruption.started_ns) / 1e9
        self._on_interruption(msgspec.structs.replace(interruption, duration_s=duration_s, is_over=is_over))


class _Waits:
    """Waits that grow from failure to failure, and begin small again once the source has been well for longer than the longest.

    So a camera that gives one frame and fails again is not opened twice a second for ever.
    """

    def __init__(self, backoff: Backoff, chance: Callable[[], float]) -> None:
        self._backoff = backoff
        self._chance = chance
        self._failures = 0
        self._recovered_ns: int | None = None

    def on_good_frame(self, now_ns: int) -> None:
        """Notes that the source is well."""
        if self._recovered_ns is None:
            self._recovered_ns = now_ns
        if now_ns - self._recovered_ns >= self._backoff.max_s * 1e9:
            self._failures = 0

    def next_s(self) -> float:
        """The wait after one more failure."""
        wait_s = min(self._backoff.max_s, self._backoff.first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._recovered_ns = None
        return wait_s * (1 - JITTER + 2 * JITTER * self._chance())
