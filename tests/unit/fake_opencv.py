"""Stands in for OpenCV's ``VideoCapture`` on a network's stream, and for FFmpeg and the camera behind it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_FPS = 100.0
"""That the camera sends."""


class Stream:
    """What comes from the camera. A test changes it as it likes.

    Args:
        picture: ``(H, W, 3)`` uint8, RGB.

    Attributes:
        delivers: cleared, no frame comes.
        is_gone: nothing more comes.
        is_garbled: what comes can't be converted.
        held: captures that weren't released.
    """

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        self.picture = picture
        self.delivers = threading.Event()
        self.delivers.set()
        self.is_gone = False
        self.is_garbled = False
        self.held: list[FakeVideoCapture] = []

    def capture(self, url: str, api: int, parameters: list[int]) -> FakeVideoCapture:
        """``cv2.VideoCapture``; each counts its own frames."""
        assert url.startswith(("rtsp://", "rtsps://"))
        return FakeVideoCapture(self)


class FakeVideoCapture:
    """``cv2.VideoCapture``, on a `Stream`. FFmpeg has read the first frame when it is open."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._number = -1
        stream.held.append(self)

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return self in self._stream.held

    def get(self, which: int) -> float:
        import cv2

        return {cv2.CAP_PROP_FPS: RATE_FPS, cv2.CAP_PROP_POS_MSEC: self._number * 1e3 / RATE_FPS}[which]

    def grab(self) -> bool:
        time.sleep(1.0 / RATE_FPS)
        self._stream.delivers.wait()
        self._number += 1
        return not self._stream.is_gone

    def retrieve(self) -> tuple[bool, Any]:
        if self._stream.is_garbled:
            return False, None
        # OpenCV's order.
        return True, np.ascontiguousarray(self._stream.picture[..., ::-1])

    def release(self) -> None:
        if self in self._stream.held:
            self._stream.held.remove(self)
