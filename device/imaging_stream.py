"""Wraps OpenCV's FFmpeg for streams. With `device.imaging`, these two files wrap OpenCV.

References:
    OpenCV, modules/videoio/src/cap_ffmpeg_impl.hpp: both timeouts reach FFmpeg as a callback that interrupts it; its other
    options come from the environment (``OPENCV_FFMPEG_CAPTURE_OPTIONS``), which is the whole process's.
"""

from __future__ import annotations

# First, since it says in the environment what OpenCV may print.
from device.imaging import Image  # isort: skip

import cv2
import numpy as np

# A failed open prints the whole URL, password and all, as a warning, whatever level the environment asks for.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

HIGHEST_RATE_FPS = 240.0
"""FFmpeg guesses a stream's rate; where it has nothing to guess by, it gives the ticks of the stream's clock."""


class StreamCapture:
    """A stream that FFmpeg reads and decodes, on the caller's thread. Used from one thread.

    Args:
        url: with user and password.
        open_timeout_s: for the server to answer, and for enough of the stream to come to tell what it is.
        read_timeout_s: for each frame.
    """

    def __init__(self, url: str, *, open_timeout_s: float, read_timeout_s: float) -> None:
        self._capture = cv2.VideoCapture(
            url,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_timeout_s * 1e3),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout_s * 1e3),
                cv2.CAP_PROP_N_THREADS, 1,
            ],
        )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """False where the stream couldn't be opened; FFmpeg doesn't say why."""
        return bool(self._capture.isOpened())

    @property
    def rate_fps(self) -> float | None:
        """That FFmpeg takes the stream to have; None where it doesn't know."""
        rate_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate_fps if 0 < rate_fps <= HIGHEST_RATE_FPS else None

    @property
    def position_s(self) -> float:
        """By the stream's own clock, of the frame that `grab` decoded; 0 where the stream has none."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3

    def grab(self) -> bool:
        """Waits for the next frame and decodes it; False where none came in time, or the stream has ended."""
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def retrieve(self) -> Image | None:
        """Gives the frame that `grab` decoded; None where it can't be converted."""
        try:
            is_given, frame = self._capture.retrieve()
        except cv2.error:
            return None
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if is_given else None

    def close(self) -> None:
        """Closes the connection; may be called twice."""
        self._capture.release()
