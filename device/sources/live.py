"""What every camera and stream shares: a thread that owns the device, and the newest frame kept for whoever reads.

No call into a driver or a network library can be trusted to return. Here none is made from `read` or `close`: those keep
their time whatever the device does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from device.core.errors import SourceError
from device.protocols import Frame, Image, SourceSpec
from device.sources.base import BaseSource, SourceOptions

OPEN_TIMEOUT_S = 10.0
"""For a device to open and to agree on a format, or for a server to answer."""

CLOSE_TIMEOUT_S = 1.0
"""For the thread to let go of the device; one that hangs longer is left to its thread."""

OLDEST_STAMP_S = 5.0
"""A device's stamp further back than this is of another clock: the time of arrival is taken instead."""

MAX_DAMAGES = 32
"""Damaged pictures that wait to be told of: a second of a camera's, for a reader that is busy."""

# A device that fails at once must not keep a core busy.
_RETRY_S = 0.05


class Picture(NamedTuple):
    """What a device gave.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, C-contiguous, and never written to again.
        timestamp_ns: monotonic, when the sensor saw it; None where the device doesn't tell.
        skipped: pictures that came between the one before and this, and were overtaken before anyone looked at them.
    """

    pixels: Image
    timestamp_ns: int | None = None
    skipped: int = 0


class Damage(NamedTuple):
    """What a device gave instead of a `Picture`.

    Attributes:
        error: ``decode``; says how it is damaged.
        skipped: see `Picture`.
    """

    error: SourceError
    skipped: int = 0


def picture_or_damage(convert: Callable[[], Image], timestamp_ns: int | None, skipped: int) -> Picture | Damage:
    """Converts what came to a picture, or tells how it is damaged; counts what was skipped before it either way.

    Args:
        convert: gives the pixels of a `Picture`.
        timestamp_ns: see `Picture`.
        skipped: likewise.

    Raises:
        SourceError: whatever ``convert`` raised but ``decode``.
    """
    try:
        return Picture(convert(), timestamp_ns, skipped)
    except SourceError as error:
        if error.reason != "decode":
            raise
        return Damage(error, skipped)


class Capture(Protocol):
    """An open device. Used from one thread, which may hang in any call for as long as the device likes.

    Making one opens the device, and raises `SourceError` where it can't be opened.
    """

    @property
    def rate_fps(self) -> float | None:
        """That the device promises; None where it says nothing."""

    def read(self) -> Picture | Damage | None:
        """Waits for the next picture.

        Returns:
            The picture, or what is wrong with it; None where none came and it is worth asking again.

        Raises:
            SourceError: ``decode`` for a damaged picture before which none was skipped. Any other reason ends the source:
                ``ended`` where the device or the connection is gone.
        """

    def close(self) -> None:
        """Lets go of the device. Called once, from the thread that reads."""


class LiveSource(BaseSource):
    """Keeps the newest frame of a device.

    Every picture that the device gave, up to the last frame, is one of three things: read, damaged, which `read` tells of once
    each, or dropped. Dropped ones alone leave gaps in `Frame.index`: pictures that the device or the capture skipped, frames
    that nobody read in time, and damaged ones that `MAX_DAMAGES` newer ones pushed out before anyone read.

    Args:
        uri: without credentials.
        open_capture: opens the device; called once, in the thread that owns it.
        options: ``clock`` and ``rate_fps`` are taken.
        open_timeout_s: for ``open_capture``.
        remedy: what to do about a device that stalls.

    Raises:
        SourceError: whatever ``open_capture`` raised; ``stalled`` where it didn't return in time.
    """

    is_camera = True

    def __init__(
        self,
        uri: str,
        open_capture: Callable[[], Capture],
        options: SourceOptions,
        *,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        remedy: str = "",
    ) -> None:
        super().__init__(SourceSpec(uri=uri, is_live=True, rate_fps=options.rate_fps))
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
        """Waits for a frame that wasn't read before, or for a damaged one. See `FrameSource.read`.

        Where both are there, they take turns: neither keeps a slow reader from the other.

        Raises:
            SourceError: also ``ended`` where the device is gone, or whatever else ended it, once all else was read.
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
        """Lets go of the device, or leaves one that hangs to its thread after `CLOSE_TIMEOUT_S`."""
        super().close()
        with self._changed:
            # A failure knows the frames that it went through, and so this source, and this source's picture with it: dropped
            # here, all of it is free at once, and need not wait for Python's collector, which seldom comes.
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
                    self._spec = SourceSpec(uri=self._spec.uri, is_live=True, rate_fps=capture.rate_fps)
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
        """Counts what a device gave, and keeps it for the reader."""
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
        # Its traceback would keep the picture's bytes with it.
        self._damages.append(error.with_traceback(None))


def _read_one(capture: Capture) -> Picture | Damage | None:
    try:
        return capture.read()
    except SourceError as error:
        if error.reason != "decode":
            raise
        return Damage(error)


def choose_timestamp_ns(stamp_ns: int | None, now_ns: int) -> int:
    """Takes the device's stamp where it is of our clock, else the time of arrival."""
    return stamp_ns if stamp_ns is not None and 0 <= now_ns - stamp_ns <= OLDEST_STAMP_S * 1e9 else now_ns
