"""A stand-in for a camera that couldn't be opened when the run began."""

from __future__ import annotations

from device.core.errors import SourceError
from device.protocols import Frame
from device.sources.base import BaseSource


class AbsentCamera(BaseSource):
    """Raises the error of the failed opening on every read, which makes a `SupervisedSource` over it open the camera again.

    Args:
        uri: without credentials.
        error: the error of the failed opening.
    """

    def __init__(self, uri: str, error: SourceError) -> None:
        super().__init__(uri, is_live=True, rate_fps=None)
        self._error = error

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002  # the protocol's
        """Raises the error of the failed opening. See `FrameSource.read`."""
        self._require_open()
        raise self._error
