"""A JSON line for every frame."""

from __future__ import annotations

from pathlib import Path

import msgspec

from device.core.errors import SinkError
from device.core.resources import Resource
from device.protocols import Prediction, Record


class PredictionsFile(Resource):
    """Writes each `Prediction` as a line: ``source`` (path or index), ``uri`` of the source, ``index``,
    ``timestamp_ns``, ``latency_s``, ``label``, ``is_unknown``, ``labels``, ``scores``.

    ``label`` is what the frame is called: the first of ``labels``, or "unknown" where ``is_unknown``.

    Args:
        path: of the file; replaced.

    Raises:
        SinkError: the file can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise self._trouble(error) from error

    def write(self, record: Record) -> None:
        """Buffers a line."""
        if not isinstance(record, Prediction):
            return
        line = {
            "source": record.origin if record.origin is not None else record.index,
            "uri": record.source,
            "index": record.index,
            "timestamp_ns": record.timestamp_ns,
            "latency_s": round(record.latency_s, 6),
            "label": record.label,
            "is_unknown": record.is_unknown,
            "labels": record.labels,
            "scores": [round(score, 6) for score in record.scores],
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
