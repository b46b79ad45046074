"""Frames of a V4L2 camera: USB cameras, and whatever else has a ``/dev/video*`` node.

References:
    Linux kernel, Documentation/userspace-api/media/v4l/buffer.rst: buffers are stamped with the monotonic clock by drivers
    that set ``V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC``, as uvcvideo does.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Self

from device.errors import SourceError, UsageError
from device.imaging import CaptureDevice
from device.protocols import Clock, Frame, SourceSpec
from device.sources.base import BaseSource, SourceOptions

OPEN_TIMEOUT_S = 10.0
"""For the camera to open and to agree on a format."""

CLOSE_TIMEOUT_S = 1.0
"""For the reader to let go of the camera; a driver that hangs longer is left to its thread."""

OLDEST_STAMP_S = 5.0
"""A driver's stamp further back than this is of another clock: the time of arrival is taken instead."""

# A driver that fails at once must not keep a core busy.
_RETRY_S = 0.05

_GRAMMAR = re.compile(r"(?P<number>[0-9]{1,3})?(?P<path>/[^#]+)?(?:#(?P<fourcc>[0-9A-Za-z]{4}))?")


class V4l2Source(BaseSource):
    """Keeps the newest frame of a camera.

    A thread of its own owns the camera, since no call into a driver can be trusted to return: `read` and `close` keep their
    time whatever the driver does. Frames that nobody read in time are dropped, and count in `Frame.index`.

    Args:
        path: the device's node.
        fourcc: pixel format to insist on (``YUYV``, ``MJPG``); None for the driver's choice.
        options: ``width_px``, ``height_px``, ``rate_fps`` and ``clock`` are taken.

    Raises:
        SourceError: ``missing`` where there is no such camera, ``format`` where it lacks the pixel format, ``stalled`` where
            it doesn't open within `OPEN_TIMEOUT_S`.
    """

    def __init__(self, path: Path, fourcc: str | None = None, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        uri = f"v4l2:{path}" + (f"#{fourcc}" if fourcc else "")
        super().__init__(SourceSpec(uri=uri, is_live=True, rate_fps=options.rate_fps))
        self._path = path
        self._fourcc = fourcc
        self._options = options
        self._clock: Clock = options.clock
        self._changed = threading.Condition()
        self._camera: CaptureDevice | None = None
        self._newest: Frame | None = None
        self._failure: SourceError | None = None
        _require_node(path)
        self._thread = threading.Thread(target=self._work, name=f"v4l2 {path}", daemon=True)
        self._thread.start()
        rate_fps = self._wait_until_open().rate_fps
        self._spec = SourceSpec(uri=uri, is_live=True, rate_fps=rate_fps)

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``v4l2:DEVICE[#FORMAT]``; a number N stands for ``/dev/videoN``."""
        match = _GRAMMAR.fullmatch(rest)
        if match is None or (match["number"] is None) == (match["path"] is None):
            raise UsageError(
                "source",
                f"'v4l2:{rest}' can't be read",
                expected="v4l2:DEVICE[#FORMAT], such as v4l2:/dev/video0 or v4l2:0#MJPG",
                reason="malformed_uri",
            )
        path = Path(match["path"] or f"/dev/video{match['number']}")
        return cls(path, match["fourcc"], options)

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for a frame that wasn't read before. See `FrameSource.read`.

        Raises:
            SourceError: also ``ended`` where the camera was unplugged.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._failure or self._closed.is_set(), timeout_s)
            self._require_open()
            frame, self._newest = self._newest, None
            if frame is not None:
                return frame
            if self._failure is not None:
                raise self._failure
        raise SourceError(
            self._spec.uri,
            f"no frame within {timeout_s:g} s",
            expected="a camera that delivers",
            remedy="unplug it and plug it in again",
            reason="stalled",
        )

    def close(self) -> None:
        """Lets go of the camera, or leaves a driver that hangs to its thread after `CLOSE_TIMEOUT_S`."""
        super().close()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)

    def _wait_until_open(self) -> CaptureDevice:
        with self._changed:
            self._changed.wait_for(lambda: self._camera or self._failure, OPEN_TIMEOUT_S)
            camera, failure = self._camera, self._failure
        if camera is not None:
            return camera
        self.close()
        raise failure or SourceError(
            self._spec.uri, f"did not open within {OPEN_TIMEOUT_S:g} s", expected="a driver that answers", reason="stalled"
        )

    def _work(self) -> None:
        try:
            options = self._options
            camera = CaptureDevice(self._path, options.width_px, options.height_px, options.rate_fps, self._fourcc)
        except SourceError as error:
            self._tell(failure=error)
            return
        try:
            with self._changed:
                self._camera = camera
                self._changed.notify_all()
            self._read_all(camera)
        finally:
            camera.close()

    def _read_all(self, camera: CaptureDevice) -> None:
        index = 0
        while not self._closed.is_set():
            pixels = camera.read()
            if pixels is not None:
                stamp_ns = _choose_timestamp_ns(camera.timestamp_ns, self._clock.now_ns())
                self._tell(frame=Frame(pixels=pixels, timestamp_ns=stamp_ns, index=index))
                index += 1
            elif not self._path.exists():
                self._tell(failure=SourceError(self._spec.uri, "the camera is gone", remedy="plug it in again", reason="ended"))
                return
            else:
                time.sleep(_RETRY_S)

    def _tell(self, *, frame: Frame | None = None, failure: SourceError | None = None) -> None:
        with self._changed:
            self._newest = frame or self._newest
            self._failure = failure
            self._changed.notify_all()


def _require_node(path: Path) -> None:
    if not path.is_char_device():
        raise SourceError(
            str(path),
            "no such camera" if not path.exists() else "not a device",
            expected="a V4L2 capture device",
            remedy="v4l2-ctl --list-devices shows which nodes are cameras; who reads them must be in the group video",
            reason="missing",
        )


def _choose_timestamp_ns(stamp_ns: int, now_ns: int) -> int:
    """Takes the driver's stamp where it is of our clock."""
    return stamp_ns if 0 <= now_ns - stamp_ns <= OLDEST_STAMP_S * 1e9 else now_ns
