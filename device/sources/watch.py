"""Detects a camera that delivers frames but isn't working: a frozen picture, or nothing but black."""

from __future__ import annotations

import zlib

from device.protocols import Frame, Image

DARK_LEVEL = 16
"""A picture is dark if no pixel exceeds this: black in video's limited range, ITU-R BT.601, is 16."""

DARK_TIMEOUT_S = 10.0
"""Darkness is reported after this time. It isn't a failure of the camera: rooms are dark at night, and lenses have caps."""

# Every fourth row and column is examined: a sixteenth of a 640x480 picture takes 0.05 ms on the converter's machine.
_STRIDE = 4


def digest(pixels: Image) -> int:
    """A checksum that practically only identical pictures share: a camera's noise makes each picture different."""
    return zlib.crc32(pixels[::_STRIDE, ::_STRIDE].tobytes())


def is_dark(pixels: Image) -> bool:
    """Whether no examined pixel is brighter than `DARK_LEVEL`."""
    return int(pixels[::_STRIDE, ::_STRIDE].max()) <= DARK_LEVEL


class FrameWatch:
    """Examines each frame of one source.

    Args:
        frozen_timeout_s: the source counts as frozen once it has repeated a picture for this long; None for never.
    """

    def __init__(self, frozen_timeout_s: float | None) -> None:
        self._frozen_timeout_ns = None if frozen_timeout_s is None else frozen_timeout_s * 1e9
        self._digest: int | None = None
        self._changed_ns = 0
        self._dark_ns: int | None = None
        self._dark_since_ns: int | None = None

    @property
    def changed_ns(self) -> int:
        """When the picture last changed."""
        return self._changed_ns

    @property
    def dark_since_ns(self) -> int | None:
        """When darkness began, once it has lasted for `DARK_TIMEOUT_S`; otherwise None."""
        return self._dark_since_ns

    def is_frozen(self, frame: Frame) -> bool:
        """Takes a frame; returns True if the same picture has been repeated for too long, until a different one comes.

        A dark picture never counts as frozen: without light, and with noise reduction, a working camera delivers exact black.
        """
        seen = digest(frame.pixels)
        if seen != self._digest:
            self._digest, self._changed_ns = seen, frame.timestamp_ns
            return False
        is_long = self._frozen_timeout_ns is not None and frame.timestamp_ns - self._changed_ns >= self._frozen_timeout_ns
        return is_long and not is_dark(frame.pixels)

    def look_for_light(self, frame: Frame) -> None:
        """Takes a frame, and updates `dark_since_ns`."""
        if not is_dark(frame.pixels):
            self._dark_ns, self._dark_since_ns = None, None
        elif self._dark_ns is None:
            self._dark_ns = frame.timestamp_ns
        elif frame.timestamp_ns - self._dark_ns >= DARK_TIMEOUT_S * 1e9:
            self._dark_since_ns = self._dark_ns
