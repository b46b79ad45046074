"""Frames: what a source must do, may do, and in which order it is called."""

from __future__ import annotations

from typing import Protocol

import msgspec

from device.protocols.base import Closeable, Image


class SourceSpec(msgspec.Struct, frozen=True):
    """What a source delivers.

    Attributes:
        uri: as given, without credentials.
        is_live: frames come at the world's pace: a slow reader loses them. A file waits instead.
        rate_fps: nominal; None where frames come as fast as they are read.
        is_recorded: frames lie in files: opened again, it would begin anew.
    """

    uri: str
    is_live: bool
    rate_fps: float | None = None
    is_recorded: bool = False

    @property
    def is_camera(self) -> bool:
        """True of what is live, and no recording that plays at its own rate."""
        return self.is_live and not self.is_recorded


class Frame(msgspec.Struct, frozen=True):
    """One picture.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, C-contiguous. Owned by whoever holds the frame: a source never writes to it again.
        timestamp_ns: when the sensor saw it, or, where the source can't tell, when it arrived.
        index: counts from 0, and counts frames that were dropped too.
        origin: the file it came from; empty for cameras.
    """

    pixels: Image
    timestamp_ns: int
    index: int
    origin: str = ""


class Interruption(msgspec.Struct, frozen=True):
    """A source that gave no good frames for a while, or gave frames that show nothing.

    Told twice: when it is noticed, with ``duration_s`` None, and when good frames flow again, or the run ends before they do.

    Attributes:
        source: `SourceSpec.uri`.
        reason: `SourceError.reason` of what began it (``stalled``, ``ended``, ``missing``), ``frozen`` where the same picture
            came again and again, or ``dark`` where every pixel is black; in the dark, frames go on.
        detail: one line for a person.
        started_ns: when the last good frame came before it, monotonic.
        duration_s: from then to the next good frame; None while it lasts.
        attempts: how often the source was opened again.
        is_over: False where it lasts, or the run ended in it.
    """

    source: str
    reason: str
    detail: str
    started_ns: int
    duration_s: float | None = None
    attempts: int = 0
    is_over: bool = False


class FrameSource(Closeable, Protocol):
    """Gives frames in order. Opened by its constructor; used from one thread, but closed from any.

    ``read`` must give up after ``timeout_s``: a driver that hangs must not hang the caller.
    """

    @property
    def spec(self) -> SourceSpec:
        """What this source delivers; constant."""

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for the next frame.

        Returns:
            The frame, or None at the end of the stream; then again None at each further call.

        Raises:
            SourceError: ``stalled`` after ``timeout_s`` without a frame, ``decode`` for a frame that is damaged. The source
                stays usable after ``decode``, and the next ``read`` goes on behind it; and after ``interrupted``, which a
                source that mends itself raises meanwhile.
        """
