"""A test pattern for runs without a camera. Needs numpy only."""

from __future__ import annotations

import re
from typing import Self

import numpy as np

from device.core.errors import UsageError
from device.protocols import Frame, Image
from device.sources.base import BaseSource, SourceOptions
from device.sources.pace import MAX_RATE_FPS, Pace

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
"""R, G and B come first, to make swapped channels obvious."""

MARK_COLOUR = (255, 128, 0)
"""Colour of the top left corner, which reveals a flipped or rotated picture."""

DEFAULT_SIZE_PX = (640, 480)
MAX_SIDE_PX = 8192

_GRAMMAR = re.compile(r"(?:([0-9]{1,6})x([0-9]{1,6}))?(?:@([0-9]{1,6}(?:\.[0-9]{1,6})?))?(?:#([0-9]{1,9}))?")


class SyntheticSource(BaseSource):
    """A test pattern for runs without a camera.

    Vertical colour bars, a grey ramp across them below the middle, a mark in the top left corner, and a moving square.

    The pattern reveals what was done to the picture: the bars show swapped channels and mirroring, and the ramp shows which
    side is up after a crop has cut the mark off. The grey square moves one step per frame.

    With a rate the source is live: frames fall due on the clock from the first `read` on, and those that a slow reader misses
    count in `Frame.index`. Without a rate, every `read` gets the next frame at once.

    Args:
        width_px: width of the frames.
        height_px: height of the frames.
        rate_fps: makes the source live; None for frames as fast as they are read.
        frame_count: number of frames; None for no end.
        options: ``clock`` is used.

    Raises:
        UsageError: a size or a rate is out of range.
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
        super().__init__(uri, is_live=rate_fps is not None, rate_fps=rate_fps)
        _check_range(uri, width_px, height_px, rate_fps)
        self._clock = (options or SourceOptions()).clock
        self._frame_count = frame_count
        self._background = _render_background(width_px, height_px)
        self._pace = None if rate_fps is None else Pace(uri, rate_fps, self._clock, self._require_open)
        self._next = 0

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``synthetic:[WIDTHxHEIGHT][@RATE][#FRAMES]``.

        The options give the size if the URI doesn't, and with ``realtime`` the rate, too.
        """
        match = _GRAMMAR.fullmatch(rest)
        if match is None:
            raise UsageError(
                "source",
                f"'synthetic:{rest}' is malformed",
                expected="synthetic:[WIDTHxHEIGHT][@RATE][#FRAMES], such as synthetic:640x480@30",
                reason="malformed_uri",
            )
        width, height, rate, frame_count = match.groups()
        return cls(
            int(width) if width else options.width_px or DEFAULT_SIZE_PX[0],
            int(height) if height else options.height_px or DEFAULT_SIZE_PX[1],
            float(rate) if rate else options.rate_fps if options.realtime else None,
            frame_count=int(frame_count) if frame_count else None,
            options=options,
        )

    def read(self, timeout_s: float) -> Frame | None:
        """Draws the next frame, once it is due. See `FrameSource.read`."""
        self._require_open()
        if self._is_over():
            return None
        timestamp_ns = self._clock.now_ns()
        if self._pace is not None:
            self._next, timestamp_ns = self._pace.wait(self._next, timeout_s)
            if self._is_over():
                return None
        frame = Frame(pixels=self._draw(self._next), timestamp_ns=timestamp_ns, index=self._next)
        self._next += 1
        return frame

    def _is_over(self) -> bool:
        return self._frame_count is not None and self._next >= self._frame_count

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
    ramp = np.arange(width_px) * 255 // max(1, width_px - 1)
    image[height_px * 5 // 8 : height_px * 6 // 8] = ramp[:, np.newaxis]
    side = max(1, min(height_px, width_px) // 16)
    image[:side, :side] = MARK_COLOUR
    return image
