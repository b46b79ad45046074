"""What every camera and stream shares: a thread that owns the device, and the newest frame kept for whoever reads.

No call into a driver or a network library can be trusted to return. Here none is made from `read` or `close`: those keep
their time whatever the device does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from device.errors import SourceError
from device.protocols import Frame, Image, SourceSpec
from device.sources.base import BaseSource, SourceOptions

OPEN_TIMEOUT_S = 10.0
"""For a device to open and to agree on a format, or for a server to answer."""

CLOSE_TIMEOUT_S = 1.0
"""For the thread to let go of the device; one that hangs longer is left to its thread."""

OLDEST_STAMP_S = 5.0
"""A device's stamp further back than this is of another clock: the time of arrival is taken instead."""

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


class Capture(Protocol):
    """An open device. Used from one thread, which may hang in any call for as long as the device likes.

    Making one opens the device, and raises `SourceError` where it can't be opened.
    """

    @property
    def rate_fps(self) -> float | None:
        """That the device promises; None where it says nothing."""

    def read(self) -> Picture | None:
        """Waits for the next picture.

        Returns:
            The picture, or None where none came and it is worth asking again.

        Raises:
            SourceError: ``decode`` for a picture that is damaged: the next call goes on behind it. Any other reason ends the
                source: ``ended`` where the device or the connection is gone.
        """

    def close(self) -> None:
        """Lets go of the device. Called once, from the thread that reads."""


class LiveSource(BaseSource):
    """Keeps the newest frame of a device.

    Frames that nobody read in time are dropped, and count in `Frame.index`.

    Args:
        uri: without credentials.
        open_capture: opens the device; called once, in the thread that owns it.
        options: ``clock`` and ``rate_fps`` are taken.
        open_timeout_s: for ``open_capture``.
        remedy: what to do about a device that stalls.

    Raises:
        SourceError: whatever ``open_capture`` raised; ``stalled`` where it didn't return in time.
    """

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
        self._damage: SourceError | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"source {uri}", daemon=True)
        self._thread.start()
        self._wait_until_open(open_timeout_s)

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for a frame that wasn't read before. See `FrameSource.read`.

        Raises:
            SourceError: also ``ended`` where the device is gone, or whatever else ended it.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, timeout_s)
            self._require_open()
            frame, self._newest = self._newest, None
            damage, self._damage = self._damage, None
            if frame is not None:
                return frame
            if damage is not None:
                raise damage
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
            self._newest = self._damage = self._failure = None
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)

    def _has_news(self) -> bool:
        return bool(self._newest or self._damage or self._failure or self._closed.is_set())

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
        index = 0
        while not self._closed.is_set():
            try:
                picture = capture.read()
            except SourceError as error:
                if error.reason != "decode":
                    raise
                self._tell(damage=error)
                continue
            if picture is None:
                time.sleep(_RETRY_S)
                continue
            stamp_ns = choose_timestamp_ns(picture.timestamp_ns, self._clock.now_ns())
            index += picture.skipped
            self._tell(frame=Frame(pixels=picture.pixels, timestamp_ns=stamp_ns, index=index))
            index += 1

    def _tell(self, *, frame: Frame | None = None, damage: SourceError | None = None) -> None:
        with self._changed:
            if self._closed.is_set():
                return
            self._newest = frame or self._newest
            self._damage = damage or self._damage
            self._changed.notify_all()


def choose_timestamp_ns(stamp_ns: int | None, now_ns: int) -> int:
    """Takes the device's stamp where it is of our clock, else the time of arrival."""
    return stamp_ns if stamp_ns is not None and 0 <= now_ns - stamp_ns <= OLDEST_STAMP_S * 1e9 else now_ns
