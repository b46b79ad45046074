"""Where records go: the sinks that the flags named, each behind a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from device.contract import Telemetry
from device.protocols import Clock, Prediction, Record, Sink
from device.sinks.background import BackgroundSink
from device.sinks.predictions import PredictionsFile
from device.sinks.registry import SINKS

PREDICTIONS_FLUSH_S = 1.0
IDLE_FLUSH_S = 60.0
"""Of a sink that has nothing to flush."""


class MqttWish(NamedTuple):
    """What the flags say of the broker.

    Attributes:
        uri: see `device.sinks.mqtt.parse_broker`; may hold a password.
        interval_s: between two states.
        with_labels: tells also what the camera sees.
    """

    uri: str
    interval_s: float
    with_labels: bool = False


class Outlets:
    """Hands each record to the sinks that keep its kind.

    Args:
        predictions: file for a line a frame; None for none.
        telemetry: SQLite file for a row an interval; None for none.
        settings: of the profile.
        may_wait: True where the source waits for us, so that no prediction need be lost.
        clock: tells how old rows are.
        on_trouble: told of a sink that fails.
        prometheus: where to serve a page for Prometheus, see `device.sinks.prometheus.parse_listen`; None for nowhere.
        mqtt: which broker to tell; None for none.

    Raises:
        UsageError: an address that can't be read.
        MissingDependencyError: a sink's package isn't installed.
        SinkError: a file or a port that can't be had.
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
        prometheus: str | None = None,
        mqtt: MqttWish | None = None,
    ) -> None:
        self._may_wait = may_wait
        self._clock = clock
        self._on_trouble = on_trouble
        self._outlets: list[BackgroundSink] = []
        self._records: list[BackgroundSink] = []
        self._predictions: list[BackgroundSink] = []
        self._labels: list[BackgroundSink] = []
        try:
            if telemetry:
                self._open_telemetry(telemetry, settings)
            if predictions:
                self._predictions.append(self._drive(PredictionsFile(predictions), PREDICTIONS_FLUSH_S))
            if prometheus:
                page = SINKS.load("prometheus")(prometheus, clock=clock, interval_s=settings.interval_s)
                self._records.append(self._drive(page, IDLE_FLUSH_S))
            if mqtt:
                self._open_mqtt(mqtt)
        except BaseException:
            self.close()
            raise

    def _drive(self, sink: Sink, flush_interval_s: float) -> BackgroundSink:
        outlet = BackgroundSink(sink, flush_interval_s=flush_interval_s, on_trouble=self._on_trouble)
        self._outlets.append(outlet)
        return outlet

    def _open_telemetry(self, path: Path, settings: Telemetry) -> None:
        # Only here: SQLite costs 2 MB, which a board without telemetry need not give.
        from device.sinks.telemetry import TelemetryStore

        clock = self._clock
        store = TelemetryStore(
            path,
            settings=settings,
            on_trouble=self._on_trouble,
            wall_time_s=lambda: clock.wall_time_s() if clock.wall_is_synchronised() else None,
        )
        self._records.append(self._drive(store, settings.flush_interval_s))

    def _open_mqtt(self, wish: MqttWish) -> None:
        outlet = self._drive(SINKS.load("mqtt")(wish.uri, interval_s=wish.interval_s), wish.interval_s)
        self._records.append(outlet)
        if wish.with_labels:
            self._labels.append(outlet)

    def write(self, record: Record) -> None:
        """Hands a record to the sinks that keep its kind."""
        if not isinstance(record, Prediction):
            for outlet in self._records:
                outlet.write(record, may_wait=False)
            return
        for outlet in self._predictions:
            outlet.write(record, may_wait=self._may_wait)
        for outlet in self._labels:
            outlet.write(record, may_wait=False)

    def close(self) -> int:
        """Flushes and closes; returns how many records were lost on the way."""
        for outlet in self._outlets:
            outlet.close()
        return sum(outlet.lost for outlet in self._outlets)
