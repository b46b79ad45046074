"""A test pattern, for runs without a camera: numpy only."""

from __future__ import annotations

import re
from typing import Self

import numpy as np

from device.errors import SourceError, UsageError
from device.protocols import Frame, Image, SourceSpec
from device.sources.base import BaseSource, SourceOptions

BAR_COLOURS = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)
"""R, G, B first, so that a picture with swapped channels is seen at once."""

MARK_COLOUR = (255, 128, 0)
"""Of the top left corner: a picture that is flipped or turned has it elsewhere."""

DEFAULT_SIZE_PX = (640, 480)
MAX_SIDE_PX = 8192
MAX_RATE_FPS = 1000.0

# A wait is cut into slices, so that a source that is closed meanwhile doesn't keep its reader.
_WAIT_SLICE_S = 0.05

_GRAMMAR = re.compile(r"(?:([0-9]{1,6})x([0-9]{1,6}))?(?:@([0-9]{1,6}(?:\.[0-9]{1,6})?))?(?:#([0-9]{1,9}))?")


class SyntheticSource(BaseSource):
    """Vertical colour bars, a mark in the top left corner, and a grey square that walks one step a frame.

    With a rate it is live: frames fall due on the clock from the first `read` on, and those that a slow reader misses count
    in `Frame.index`. Without one, a frame is there whenever it is asked for.

    Args:
        width_px: of the frames.
        height_px: likewise.
        rate_fps: makes the source live; None for frames as fast as they are read.
        frame_count: ends the stream before this index; None for no end.
        options: ``clock`` is taken.

    Raises:
        UsageError: a size or a rate out of range.
    """

    def __init__(
        self,
        width_px: int,
        height_px: int,
        rate_fps: float | None = None,
        *,
        frame_count: int | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        rate = "" if rate_fps is None else f"@{rate_fps:g}"
        end = "" if frame_count is None else f"#{frame_count}"
        uri = f"synthetic:{width_px}x{height_px}{rate}{end}"
        super().__init__(SourceSpec(uri=uri, is_live=rate_fps is not None, rate_fps=rate_fps))
        _check_range(uri, width_px, height_px, rate_fps)
        self._clock = (options or SourceOptions()).clock
        self._frame_count = frame_count
        self._background = _render_background(width_px, height_px)
        self._start_ns: int | None = None
        self._next = 0

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``synthetic:[WIDTHxHEIGHT][@RATE][#FRAMES]``; a size that isn't there is the options'."""
        match = _GRAMMAR.fullmatch(rest)
        if match is None:
            raise UsageError(
                "source",
                f"'synthetic:{rest}' can't be read",
                expected="synthetic:[WIDTHxHEIGHT][@RATE][#FRAMES], such as synthetic:640x480@30",
                reason="malformed_uri",
            )
        width, height, rate, frame_count = match.groups()
        return cls(
            int(width) if width else options.width_px or DEFAULT_SIZE_PX[0],
            int(height) if height else options.height_px or DEFAULT_SIZE_PX[1],
            float(rate) if rate else None,
            frame_count=int(frame_count) if frame_count else None,
            options=options,
        )

    def read(self, timeout_s: float) -> Frame | None:
        """Draws the next frame, once it is due. See `FrameSource.read`."""
        self._require_open()
        if self._is_over():
            return None
        timestamp_ns = self._clock.now_ns()
        if self._spec.rate_fps is not None:
            timestamp_ns = self._wait_for_frame(self._spec.rate_fps, timestamp_ns, timeout_s)
            if self._is_over():
                return None
        frame = Frame(pixels=self._draw(self._next), timestamp_ns=timestamp_ns, index=self._next)
        self._next += 1
        return frame

    def _is_over(self) -> bool:
        return self._frame_count is not None and self._next >= self._frame_count

    def _wait_for_frame(self, rate_fps: float, now_ns: int, timeout_s: float) -> int:
        """Skips what was missed, waits for what is next, and returns when it fell due."""
        if self._start_ns is None:
            self._start_ns = now_ns
        newest = int((now_ns - self._start_ns) * rate_fps / 1e9)
        self._next = max(self._next, newest)
        due_ns = self._start_ns + round(self._next * 1e9 / rate_fps)
        deadline_ns = now_ns + round(timeout_s * 1e9)
        while (now_ns := self._clock.now_ns()) < due_ns:
            if now_ns >= deadline_ns:
                raise SourceError(
                    self._spec.uri, f"no frame within {timeout_s:g} s", expected="a longer timeout", reason="stalled"
                )
            self._clock.sleep(min(_WAIT_SLICE_S, (min(due_ns, deadline_ns) - now_ns) / 1e9))
            self._require_open()
        return due_ns

    def _draw(self, index: int) -> Image:
        pixels = self._background.copy()
        height, width = pixels.shape[:2]
        side = max(1, min(height, width) // 8)
        top = (height - side) // 2
        left = index * side // 4 % max(1, width - side)
        pixels[top : top + side, left : left + side] = 128
        return pixels


def _check_range(uri: str, width_px: int, height_px: int, rate_fps: float | None) -> None:
    if not (1 <= width_px <= MAX_SIDE_PX and 1 <= height_px <= MAX_SIDE_PX):
        raise UsageError(uri, f"{width_px}x{height_px} pixels", expected=f"1 to {MAX_SIDE_PX} each", reason="malformed_uri")
    if rate_fps is not None and not 0 < rate_fps <= MAX_RATE_FPS:
        raise UsageError(
            uri, f"{rate_fps:g} frames a second", expected=f"above 0, at most {MAX_RATE_FPS:g}", reason="malformed_uri"
        )


def _render_background(width_px: int, height_px: int) -> Image:
    bars = np.array(BAR_COLOURS, np.uint8)
    row = bars[np.arange(width_px) * len(bars) // width_px]
    image = np.repeat(row[np.newaxis], height_px, axis=0)
    side = max(1, min(height_px, width_px) // 16)
    image[:side, :side] = MARK_COLOUR
    return image
