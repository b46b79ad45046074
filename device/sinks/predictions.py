"""A JSON line for every frame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

from device.core.errors import SinkError
from device.protocols import FrameDone, Kinds, SinkContext
from device.sinks.base import SinkPlugin


class PredictionsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile may give it."""

    path: Annotated[str, Meta(description="the file, which is replaced")]


class PredictionsFile(SinkPlugin):
    """A JSON line for every frame.

    The keys are ``source`` (path or index), ``uri`` of the source, ``index``,
    ``timestamp_ns``, ``latency_s``, ``label``, ``is_unknown``, ``labels``, ``scores``.

    ``label`` is what the frame is called: the first of ``labels``, or "unknown" where ``is_unknown``.

    Args:
        path: of the file; replaced.

    Raises:
        SinkError: the file can't be made.
    """

    Options: ClassVar[type[msgspec.Struct]] = PredictionsOptions
    keeps_every_frame: ClassVar[bool] = True
    takes: Kinds = (FrameDone,)
    flush_interval_s = 1.0

    @classmethod
    def open(cls, options: PredictionsOptions, _context: SinkContext) -> Self:
        """Makes the file."""
        return cls(Path(options.path))

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise self._trouble(error) from error

    def write(self, event: FrameDone) -> None:
        """Buffers a line."""
        prediction = event.prediction
        line = {
            "source": prediction.origin if prediction.origin is not None else prediction.index,
            "uri": prediction.source,
            "index": prediction.index,
            "timestamp_ns": prediction.timestamp_ns,
            "latency_s": round(prediction.latency_s, 6),
            "label": prediction.label,
            "is_unknown": prediction.is_unknown,
            "labels": prediction.labels,
            "scores": [round(score, 6) for score in prediction.scores],
        }
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise self._trouble(error) from error

    def flush(self) -> None:
        """Hands the buffered lines to the system."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._trouble(error) from error

    def close(self) -> None:
        """Flushes and closes."""
        try:
            self._file.close()
        except OSError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: OSError) -> SinkError:
        return SinkError(
            f"predictions {self._path}",
            f"can't be written ({error.strerror})",
            remedy="name another place with --predictions",
            reason="write",
        )
