"""Tells a camera that is well from one that only seems so: the same picture again and again, or nothing but black."""

from __future__ import annotations

import zlib

from device.protocols import Frame, Image

DARK_LEVEL = 16
"""A picture whose every pixel is at most this is dark: black in video's limited range, ITU-R BT.601, is 16."""

DARK_TIMEOUT_S = 10.0
"""Dark for this long is told of. It is no fault of the camera's: rooms are dark at night, and lenses have caps."""

# Rows and columns that are looked at: a sixteenth of a 640x480 picture costs 0.05 ms on the machine that converts.
_STRIDE = 4


def digest(pixels: Image) -> int:
    """A number that two pictures share only if they are the same, in all likelihood: a camera's noise makes each its own."""
    return zlib.crc32(pixels[::_STRIDE, ::_STRIDE].tobytes())


def is_dark(pixels: Image) -> bool:
    """True where no pixel that is looked at is brighter than `DARK_LEVEL`."""
    return int(pixels[::_STRIDE, ::_STRIDE].max()) <= DARK_LEVEL


class FrameWatch:
    """Looks at each frame of one source.

    Args:
        frozen_timeout_s: the same picture for this long is no picture; None for ever.
    """

    def __init__(self, frozen_timeout_s: float | None) -> None:
        self._frozen_timeout_ns = None if frozen_timeout_s is None else frozen_timeout_s * 1e9
        self._digest: int | None = None
        self._changed_ns = 0
        self._dark_ns: int | None = None
        self._dark_since_ns: int | None = None

    @property
    def changed_ns(self) -> int:
        """When the first of the pictures that are the same came."""
        return self._changed_ns

    @property
    def dark_since_ns(self) -> int | None:
        """When the first of the dark pictures came, once they have lasted for `DARK_TIMEOUT_S`; None in the light."""
        return self._dark_since_ns

    def is_frozen(self, frame: Frame) -> bool:
        """Takes a frame; True where the same picture has come for too long. Stays so until another comes.

        A dark one never is: without light, and with its noise filtered out, a camera that is well gives black to the last bit.
        """
        seen = digest(frame.pixels)
        if seen != self._digest:
            self._digest, self._changed_ns = seen, frame.timestamp_ns
            return False
        is_long = self._frozen_timeout_ns is not None and frame.timestamp_ns - self._changed_ns >= self._frozen_timeout_ns
        return is_long and not is_dark(frame.pixels)

    def look_for_light(self, frame: Frame) -> None:
        """Takes a frame; see `dark_since_ns`."""
        if not is_dark(frame.pixels):
            self._dark_ns, self._dark_since_ns = None, None
        elif self._dark_ns is None:
            self._dark_ns = frame.timestamp_ns
        elif frame.timestamp_ns - self._dark_ns >= DARK_TIMEOUT_S * 1e9:
            self._dark_since_ns = self._dark_ns
