"""Frames of a video file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from device.core.errors import SourceError, UsageError
from device.core.plugin import Needs, import_package
from device.protocols import Frame
from device.sources.base import OPENCV, BaseSource, SourceOptions
from device.sources.pace import Pace, choose_rate_fps

if TYPE_CHECKING:
    from device.image.opencv import VideoFile

COUNT_TOLERANCE = 0.01
"""Share of the frames that a complete video may lack: for Matroska and WebM, which store no count, OpenCV derives it from the
duration."""

Taken = TypeVar("Taken")


class VideoSource(BaseSource):
    """A video file from its first frame to its last, read as fast as it is asked for or at the video's own rate.

    At its own rate the source is live: frames fall due on the clock from the first `read` on, and those that a slow reader
    misses are decoded but not converted, and count in `Frame.index`. The rate is the mean that the container states; a video
    with a variable frame rate plays evenly.

    Args:
        path: the file.
        options: ``realtime``, ``loop`` and ``clock`` are used, and ``rate_fps`` if the file states no rate.

    Raises:
        SourceError: ``missing`` if the file doesn't exist, ``decode`` if it isn't a video.
        UsageError: ``realtime`` is set, but neither the file nor the options state a rate.
    """

    needs: ClassVar[Needs] = OPENCV
    is_recorded: ClassVar[bool] = True

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        uri = f"video:{path}"
        file = _open_file(path)
        rate_fps = choose_rate_fps(uri, file.rate_fps, options.rate_fps) if options.realtime else None
        super().__init__(uri, is_live=options.realtime, rate_fps=rate_fps)
        self._path = path
        self._clock = options.clock
        self._loop = options.loop
        self._pace = None if rate_fps is None else Pace(uri, rate_fps, self._clock, self._require_open)
        # `close` may be called from any thread, and OpenCV crashes if a file is released during a read.
        self._lock = threading.Lock()
        self._file: VideoFile | None = file
        self._position = 0
        self._round_length = 0
        self._index = 0

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``video:REST``."""
        if not rest:
            raise UsageError("source", "video: names no file", expected="video:FILE", reason="malformed_uri")
        return cls(Path(rest), options)

    def read(self, timeout_s: float) -> Frame | None:
        """Decodes the next frame, once it is due. See `FrameSource.read`.

        Raises:
            SourceError: also ``ended``, once, if the file is truncated; further calls return None. ``stalled`` also if missed
                frames can't be skipped in time; the next call continues from there.
        """
        deadline_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        self._require_open()
        # Outside the lock, because `close` must be able to end the wait.
        due = self._pace.wait(self._index, timeout_s) if self._pace is not None and self._file is not None else None
        with self._lock:
            self._require_open()
            if due is not None and not self._pass_over(due.frame_index, deadline_ns):
                raise SourceError(
                    self._spec.uri,
                    f"no frame within {timeout_s:.3g} s: {due.frame_index - self._index} missed frames must be decoded first",
                    expected="a processor that decodes faster than the video plays",
                    remedy="scale the video down, or don't play it in real time",
                    reason="stalled",
                )
            pixels = self._take(lambda file: file.read())
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
        """Skips to the frame of this index, or to the end; returns False if the deadline passes first."""
        if self._round_length:
            # Whole rounds of a loop, missed while the machine was suspended, needn't be decoded.
            self._index += (index - self._index) // self._round_length * self._round_length
        while self._index < index and self._take(lambda file: file.skip() or None):
            self._require_open()
            if self._clock.now_ns() >= deadline_ns:
                return self._index == index
        return True

    def _take(self, take: Callable[[VideoFile], Taken | None]) -> Taken | None:
        """Takes the file's next frame; at the end, starts again if looped, or else returns None."""
        while self._file is not None:
            taken = take(self._file)
            if taken is not None:
                self._position += 1
                self._index += 1
                return taken
            self._end(self._file)
        return None

    def _end(self, file: VideoFile) -> None:
        """Checks that the file was complete, and opens it again if looped."""
        promised, decoded = file.frame_count, self._position
        self._release()
        if decoded == 0 or promised - decoded > max(1, promised * COUNT_TOLERANCE):
            raise SourceError(
                str(self._path),
                f"the video ends early, at frame {decoded}",
                expected=f"{promised} frames" if promised else "at least one frame",
                remedy="copy or record the file again",
                reason="ended",
            )
        if self._loop:
            self._file = _open_file(self._path)
            self._position = 0
            self._round_length = decoded

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def _open_file(path: Path) -> VideoFile:
    import_package("device.image.opencv", VideoSource.needs, "source video")
    from device.image.opencv import VideoFile

    return VideoFile(path)
