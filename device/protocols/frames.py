"""Frames: what a source delivers, and what an open source must do."""

from __future__ import annotations

from typing import Protocol

import msgspec

from device.protocols.base import Closeable, Image


class SourceSpec(msgspec.Struct, frozen=True):
    """What a source delivers.

    Attributes:
        uri: as given, without credentials.
        is_live: frames come at the world's pace, and a slow reader loses some. Otherwise they wait for the reader.
        rate_fps: nominal; None if frames come as fast as they are read, or the source doesn't know.
        is_recorded: frames lie in files; opened again, the source begins again.
    """

    uri: str
    is_live: bool
    rate_fps: float | None = None
    is_recorded: bool = False

    @property
    def is_camera(self) -> bool:
        """True of a live source, except a recording that plays at its own rate."""
        return self.is_live and not self.is_recorded


class Frame(msgspec.Struct, frozen=True):
    """One picture.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, C-contiguous. Owned by whoever holds the frame: a source never writes to it again.
        timestamp_ns: monotonic time at which the sensor captured it; if the source doesn't know, at which it arrived.
        index: counts from 0; dropped frames count too.
        origin: the file that it came from; empty for cameras.
    """

    pixels: Image
    timestamp_ns: int
    index: int
    origin: str = ""


class Interruption(msgspec.Struct, frozen=True):
    """A time in which a camera delivered no good frames, or only frames that show nothing.

    Reported twice: when it is noticed, with ``duration_s`` None, and when good frames come again or the run ends.

    Attributes:
        source: `SourceSpec.uri`.
        reason: `SourceError.reason` of the error that began it (``stalled``, ``ended``, ``missing``), ``frozen`` if the same
            picture came again and again, or ``dark`` if every pixel is black; in the dark, frames keep coming.
        detail: one line for a person.
        started_ns: monotonic time of the last good frame before it.
        duration_s: from then to the next good frame; None while it lasts.
        attempts: how often the source was opened again.
        is_over: False while it lasts, and if the run ended in it.
    """

    source: str
    reason: str
    detail: str
    started_ns: int
    duration_s: float | None = None
    attempts: int = 0
    is_over: bool = False


class FrameSource(Closeable, Protocol):
    """An open source of frames.

    The constructor opens it, or raises. `read` is called any number of times, from one thread at a time. `close` may be called
    at any time, from any thread, twice, and during a `read`, which must then raise ``closed`` soon. After `close`, `read` must
    raise ``closed``; `spec` must still answer.

    A driver or a network that hangs must hang neither `read` nor `close`: `read` must return or raise within about
    ``timeout_s``, and `close` within a few seconds. A source may run threads of its own for that.
    """

    @property
    def spec(self) -> SourceSpec:
        """What this source delivers; constant from the moment that it is open."""

    def read(self, timeout_s: float) -> Frame | None:
        """Waits for the next frame. Its index must be higher than that of any frame before it.

        A live source must return the newest frame, and drop those that nobody read in time. Others return every frame.

        Args:
            timeout_s: how long to wait at most.

        Returns:
            The frame, or None at the end of the stream; then None again on each further call. A camera has no end.

        Raises:
            SourceError: ``stalled``: no frame came within ``timeout_s``; one may come yet. ``decode``: a frame was damaged; the
                next call goes on after it. ``interrupted``: the source is opening itself again; call again. ``closed``. After
                any other reason no frame comes: each further call must raise, or return None.
        """
