"""Frames of a video file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from device.errors import SourceError, UsageError
from device.imaging import VideoFile
from device.protocols import Frame, Image, SourceSpec
from device.sources.base import BaseSource, SourceOptions

COUNT_TOLERANCE = 0.01
"""Share of its frames that a whole video may lack. Matroska and WebM hold no count: OpenCV derives it from the duration."""


class VideoSource(BaseSource):
    """Reads a video file from its first frame to its last, as fast as it is asked for.

    Args:
        path: the file.
        options: ``loop`` and ``clock`` are taken.

    Raises:
        SourceError: ``missing`` where the file isn't there, ``decode`` where it is no video.
    """

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        super().__init__(SourceSpec(uri=f"video:{path}", is_live=False))
        options = options or SourceOptions()
        self._path = path
        self._clock = options.clock
        self._loop = options.loop
        # `close` comes from any thread, and OpenCV crashes when a file is released under a read.
        self._lock = threading.Lock()
        self._file: VideoFile | None = VideoFile(path)
        self._position = 0
        self._index = 0

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``video:REST``."""
        if not rest:
            raise UsageError("source", "video: names no file", expected="video:FILE")
        return cls(Path(rest), options)

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - a file doesn't make one wait
        """Decodes the next frame. See `FrameSource.read`.

        Raises:
            SourceError: also ``ended``, once, where the file breaks off before its last frame; then None follows.
        """
        with self._lock:
            self._require_open()
            if self._file is None:
                return None
            pixels = self._file.read()
            if pixels is None:
                pixels = self._end(self._file)
            if pixels is None:
                return None
            frame = Frame(pixels=pixels, timestamp_ns=self._clock.now_ns(), index=self._index, origin=str(self._path))
            self._index += 1
            self._position += 1
            return frame

    def close(self) -> None:
        """Releases the file."""
        super().close()
        with self._lock:
            self._release()

    def _end(self, file: VideoFile) -> Image | None:
        """Says whether the file was whole; gives the first frame again where it is to be looped."""
        promised, decoded = file.frame_count, self._position
        self._release()
        if decoded == 0 or promised - decoded > max(1, promised * COUNT_TOLERANCE):
            raise SourceError(
                str(self._path),
                f"the video breaks off at frame {decoded}",
                expected=f"{promised} frames" if promised else "at least one frame",
                remedy="copy or record the file again",
                reason="ended",
            )
        if not self._loop:
            return None
        self._file = VideoFile(self._path)
        self._position = 0
        return self._file.read()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
