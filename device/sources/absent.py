"""Stands in for a camera that couldn't be opened when the run began."""

from __future__ import annotations

from device.core.errors import SourceError
from device.protocols import Frame, SourceSpec
from device.sources.base import BaseSource


class AbsentCamera(BaseSource):
    """Has no frames, and says why: a `SupervisedSource` over it tries to open the camera as it does after any failure.

    Args:
        uri: without credentials.
        error: raised when the camera was to be opened.
    """

    def __init__(self, uri: str, error: SourceError) -> None:
        super().__init__(SourceSpec(uri=uri, is_live=True, rate_fps=None))
        self._error = error

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002  # the protocol's
        """Raises what the opening raised. See `FrameSource.read`."""
        self._require_open()
        raise self._error
