"""Frames of a video file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from device.core.errors import SourceError, UsageError
from device.image.opencv import VideoFile
from device.protocols import Frame, SourceSpec
from device.sources.base import BaseSource, SourceOptions
from device.sources.pace import Pace, choose_rate_fps

COUNT_TOLERANCE = 0.01
"""Share of its frames that a whole video may lack. Matroska and WebM hold no count: OpenCV derives it from the duration."""

Taken = TypeVar("Taken")


class VideoSource(BaseSource):
    """Reads a video file from its first frame to its last: as fast as it is asked for, or at the video's own rate.

    At its own rate it is live: frames fall due on the clock from the first `read` on, and those that a slow reader missed are
    decoded, but not converted, and count in `Frame.index`. The rate is the mean that the container tells: a video whose frames
    stand unevenly in time plays evenly.

    Args:
        path: the file.
        options: ``realtime``, ``loop`` and ``clock`` are taken, and ``rate_fps`` where the file tells no rate.

    Raises:
        SourceError: ``missing`` where the file isn't there, ``decode`` where it is no video.
        UsageError: it is to play at its own rate, but tells none, and the options neither.
    """

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        uri = f"video:{path}"
        file = VideoFile(path)
        rate_fps = choose_rate_fps(uri, file.rate_fps, options.rate_fps) if options.realtime else None
        super().__init__(SourceSpec(uri=uri, is_live=options.realtime, rate_fps=rate_fps, is_recorded=True))
        self._path = path
        self._clock = options.clock
        self._loop = options.loop
        self._pace = None if rate_fps is None else Pace(uri, rate_fps, self._clock, self._require_open)
        # `close` comes from any thread, and OpenCV crashes when a file is released under a read.
        self._lock = threading.Lock()
        self._file: VideoFile | None = file
        self._position = 0
        self._round_length = 0
        self._index = 0

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``video:REST``."""
        if not rest:
            raise UsageError("source", "video: names no file", expected="video:FILE")
        return cls(Path(rest), options)

    def read(self, timeout_s: float) -> Frame | None:
        """Decodes the next frame, once it is due. See `FrameSource.read`.

        Raises:
            SourceError: also ``ended``, once, where the file breaks off before its last frame; then None follows. ``stalled``
                too where frames that were missed can't be passed over in time; the next call goes on from there.
        """
        deadline_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        self._require_open()
        # Not under the lock: `close` must end a wait.
        due = self._pace.wait(self._index, timeout_s) if self._pace is not None and self._file is not None else None
        with self._lock:
            self._require_open()
            if due is not None and not self._pass_over(due.frame_index, deadline_ns):
                raise SourceError(
                    self._spec.uri,
                    f"no frame within {timeout_s:.3g} s: {due.frame_index - self._index} were missed and must be decoded first",
                    expected="a processor that decodes faster than the video plays",
                    remedy="scale the video down, or read it without real time",
                    reason="stalled",
                )
            pixels = self._take(VideoFile.read)
            if pixels is None:
                return None
            stamp_ns = self._clock.now_ns() if due is None else due.timestamp_ns
            return Frame(pixels=pixels, timestamp_ns=stamp_ns, index=self._index - 1, origin=str(self._path))

    def close(self) -> None:
        """Releases the file."""
        super().close()
        with self._lock:
            self._release()

    def _pass_over(self, index: int, deadline_ns: int) -> bool:
        """Goes to the frame of this index, or to the end; False where the time is over before."""
        if self._round_length:
            # Whole rounds of a loop, missed by a machine that slept, need no decoding.
            self._index += (index - self._index) // self._round_length * self._round_length
        while self._index < index and self._take(lambda file: file.skip() or None):
            self._require_open()
            if self._clock.now_ns() >= deadline_ns:
                return self._index == index
        return True

    def _take(self, take: Callable[[VideoFile], Taken | None]) -> Taken | None:
        """Takes the file's next frame, and begins again at its end where it is looped; None at the end."""
        while self._file is not None:
            taken = take(self._file)
            if taken is not None:
                self._position += 1
                self._index += 1
                return taken
            self._end(self._file)
        return None

    def _end(self, file: VideoFile) -> None:
        """Says whether the file was whole; opens it again where it is to be looped."""
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
        if self._loop:
            self._file = VideoFile(self._path)
            self._position = 0
            self._round_length = decoded

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
