"""A reader's account of a source."""

from __future__ import annotations

from device.core.errors import SourceError
from device.protocols import FrameSource


class Tally:
    """Reads a source and counts: each picture that the device gave, up to the last frame, should be one of three things.

    Attributes:
        looked_at: frames.
        dropped: gaps in their indices.
        damaged: `SourceError` with ``decode``.
        reason: of the last error.
    """

    def __init__(self) -> None:
        self.looked_at = self.dropped = self.damaged = 0
        self.reason = ""
        self._next_index = 0

    @property
    def total(self) -> int:
        return self.looked_at + self.dropped + self.damaged

    def read(self, source: FrameSource, timeout_s: float = 0.0) -> None:
        try:
            frame = source.read(timeout_s)
        except SourceError as error:
            self.reason = error.reason
            self.damaged += error.reason == "decode"
            return
        assert frame is not None
        self.looked_at += 1
        self.dropped += frame.index - self._next_index
        self._next_index = frame.index + 1
