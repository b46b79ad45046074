"""What all cameras and streams share: a thread that owns the device and keeps the newest frame for the reader.

A call into a driver or a network library may never return. Only the device's thread makes such calls: `read` and `close`
return in time whatever the device does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from device.core.errors import SourceError
from device.protocols import Frame, Image
from device.sources.base import BaseSource, SourceOptions

OPEN_TIMEOUT_S = 10.0
"""Time for a device to open and to agree on a format, or for a server to answer."""

CLOSE_TIMEOUT_S = 1.0
"""Time for the thread to close the device; one that hangs longer is left to the thread."""

OLDEST_STAMP_S = 5.0
"""A device's timestamp older than this is from another clock, and is replaced by the time of arrival."""

MAX_DAMAGES = 32
"""Damaged pictures that are kept for a busy reader: about one second of a camera's."""

# A device whose reads fail at once must not keep a core busy.
_RETRY_S = 0.05


class Picture(NamedTuple):
    """A picture from a device.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, C-contiguous, and never written to again.
        timestamp_ns: monotonic time at which the sensor captured it; None if the device doesn't say.
        skipped: number of pictures between the previous one and this that were replaced by newer ones unread.
    """

    pixels: Image
    timestamp_ns: int | None = None
    skipped: int = 0


class Damage(NamedTuple):
    """A damaged picture from a device.

    Attributes:
        error: its reason is ``decode``; describes the damage.
        skipped: see `Picture`.
    """

    error: SourceError
    skipped: int = 0


def picture_or_damage(convert: Callable[[], Image], timestamp_ns: int | None, skipped: int) -> Picture | Damage:
    """Converts a device's data to a `Picture`, or to a `Damage` if it can't be decoded.

    Args:
        convert: returns the pixels of a `Picture`.
        timestamp_ns: see `Picture`.
        skipped: see `Picture`.

    Raises:
        SourceError: whatever ``convert`` raised, except ``decode``.
    """
    try:
        return Picture(convert(), timestamp_ns, skipped)
    except SourceError as error:
        if error.reason != "decode":
            raise
        return Damage(error, skipped)


class Capture(Protocol):
    """An open device. Used from one thread, which may hang in any call.

    The constructor opens the device, and raises `SourceError` if it can't.
    """

    @property
    def rate_fps(self) -> float | None:
        """Rate that the device promises; None if it doesn't say."""

    def read(self) -> Picture | Damage | None:
        """Waits for the next picture.

        Returns:
            The picture, or how it is damaged; None if none came and the caller should try again.

        Raises:
            SourceError: ``decode`` for a damaged picture before which none was skipped. Any other reason ends the source, such
                as ``ended`` if the device or the connection is gone.
        """

    def close(self) -> None:
        """Closes the device. Called once, from the thread that reads."""


class LiveSource(BaseSource):
    """Keeps the newest frame of a device.

    Every picture from the device is either read, damaged (`read` raises once for each), or dropped. Only dropped ones leave
    gaps in `Frame.index`: pictures that the device or the capture skipped, frames that nobody read in time, and damaged ones
    that `MAX_DAMAGES` newer ones pushed out unread.

    Args:
        uri: without credentials.
        open_capture: opens the device; called once, in the thread that owns it.
        options: ``clock`` and ``rate_fps`` are used.
        open_timeout_s: time limit of ``open_capture``.
        remedy: what to do about a device that stalls.

    Raises:
        SourceError: whatever ``open_capture`` raised; ``stalled`` if it didn't return in time.
    """

    is_live: ClassVar[bool] = True

    def __init__(
        self,
        uri: str,
        open_capture: Callable[[], Capture],
        options: SourceOptions,
        *,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        remedy: str = "",
    ) -> None:
        super().__init__(uri, is_live=True, rate_fps=options.rate_fps)
        self._open_capture = open_capture
        self._clock = options.clock
        self._remedy = remedy
        self._changed = threading.Condition()
        self._is_open = False
        self._newest: Frame | None = None
        self._damages: deque[SourceError] = deque()
        self._is_damages_turn = False
        self._index = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"source {uri}", daemon=True)
        self._thread.start()
        self._wait_until_open(open_timeout_s)

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for a new frame, or for a damaged one. See `FrameSource.read`.

        If there are both, they take turns: a slow reader gets both.

        Raises:
            SourceError: also ``ended`` if the device is gone, or whatever else ended it, once everything else was read.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, timeout_s)
            self._require_open()
            if self._damages and (self._is_damages_turn or self._newest is None):
                self._is_damages_turn = False
                raise self._damages.popleft()
            frame, self._newest = self._newest, None
            if frame is not None:
                self._is_damages_turn = True
                return frame
            if self._failure is not None:
                raise self._failure
        raise SourceError(
            self._spec.uri,
            f"no frame within {timeout_s:.3g} s",
            expected="a camera that delivers",
            remedy=self._remedy,
            reason="stalled",
        )

    def close(self) -> None:
        """Closes the device, or after `CLOSE_TIMEOUT_S` leaves one that hangs to its thread."""
        super().close()
        with self._changed:
            # A failure's traceback refers to this source, and so to its picture. Dropping both breaks the cycle, and frees the
            # memory at once instead of when the garbage collector runs.
            self._newest = self._failure = None
            self._damages.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)

    def _has_news(self) -> bool:
        return bool(self._newest or self._damages or self._failure or self._closed.is_set())

    def _wait_until_open(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._failure, timeout_s)
            if self._is_open:
                return
            failure = self._failure
        self.close()
        raise failure or SourceError(
            self._spec.uri, f"did not open within {timeout_s:.3g} s", expected="a device that answers", reason="stalled"
        )

    def _work(self) -> None:
        try:
            capture = self._open_capture()
            try:
                with self._changed:
                    self._is_open = True
                    self._spec = msgspec.structs.replace(self._spec, rate_fps=capture.rate_fps)
                    self._changed.notify_all()
                self._read_all(capture)
            finally:
                capture.close()
        except BaseException as error:  # handed to the reader's thread, which raises it
            with self._changed:
                self._failure = None if self._closed.is_set() else error
                self._changed.notify_all()

    def _read_all(self, capture: Capture) -> None:
        while not self._closed.is_set():
            given = _read_one(capture)
            if given is None:
                time.sleep(_RETRY_S)
            else:
                self._take(given)

    def _take(self, given: Picture | Damage) -> None:
        """Counts a picture, and keeps it for the reader."""
        with self._changed:
            if self._closed.is_set():
                return
            self._index += given.skipped
            if isinstance(given, Damage):
                self._keep_damage(given.error)
            else:
                stamp_ns = choose_timestamp_ns(given.timestamp_ns, self._clock.now_ns())
                self._newest = Frame(pixels=given.pixels, timestamp_ns=stamp_ns, index=self._index)
                self._index += 1
            self._changed.notify_all()

    def _keep_damage(self, error: SourceError) -> None:
        if len(self._damages) == MAX_DAMAGES:
            self._damages.popleft()
            self._index += 1
        # The traceback would keep the picture's bytes in memory.
        self._damages.append(error.with_traceback(None))


def _read_one(capture: Capture) -> Picture | Damage | None:
    try:
        return capture.read()
    except SourceError as error:
        if error.reason != "decode":
            raise
        return Damage(error)


def choose_timestamp_ns(stamp_ns: int | None, now_ns: int) -> int:
    """Takes the device's timestamp if it is plausible by our clock, else the time of arrival."""
    return stamp_ns if stamp_ns is not None and 0 <= now_ns - stamp_ns <= OLDEST_STAMP_S * 1e9 else now_ns
