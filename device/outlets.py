"""Where records go: the sinks that the flags named, each behind a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from device.contract import Telemetry
from device.protocols import Clock, Prediction, Record
from device.sinks.background import BackgroundSink
from device.sinks.predictions import PredictionsFile

PREDICTIONS_FLUSH_S = 1.0


class Outlets:
    """Hands each record to the sink that keeps its kind.

    Args:
        predictions: file for a line a frame; None for none.
        telemetry: SQLite file for a row an interval; None for none.
        settings: of the profile.
        may_wait: True where the source waits for us, so that no prediction need be lost.
        clock: tells how old rows are.
        on_trouble: told of a sink that fails.
    """

    def __init__(
        self,
        predictions: Path | None,
        telemetry: Path | None,
        settings: Telemetry,
        *,
        may_wait: bool,
        clock: Clock,
        on_trouble: Callable[[str], None],
    ) -> None:
        self._may_wait = may_wait
        self._records: BackgroundSink | None = None
        self._predictions: BackgroundSink | None = None
        if telemetry:
            # Only here: SQLite costs 2 MB, which a board without telemetry need not give.
            from device.sinks.telemetry import TelemetryStore

            store = TelemetryStore(
                telemetry,
                settings=settings,
                on_trouble=on_trouble,
                wall_time_s=lambda: clock.wall_time_s() if clock.wall_is_synchronised() else None,
            )
            self._records = BackgroundSink(store, flush_interval_s=settings.flush_interval_s, on_trouble=on_trouble)
        if predictions:
            lines = PredictionsFile(predictions)
            self._predictions = BackgroundSink(lines, flush_interval_s=PREDICTIONS_FLUSH_S, on_trouble=on_trouble)

    def write(self, record: Record) -> None:
        """Hands a record to the sink that keeps its kind."""
        if isinstance(record, Prediction):
            if self._predictions:
                self._predictions.write(record, may_wait=self._may_wait)
        elif self._records:
            self._records.write(record, may_wait=False)

    def close(self) -> int:
        """Flushes and closes; returns how many records were lost on the way."""
        outlets = [outlet for outlet in (self._records, self._predictions) if outlet]
        for outlet in outlets:
            outlet.close()
        return sum(outlet.lost for outlet in outlets)
