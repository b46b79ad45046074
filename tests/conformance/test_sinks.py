"""What every sink must do, see `device.protocols.Sink`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from device.core.clock import SystemClock
from device.core.errors import SinkError
from device.protocols import Record, Sink
from device.sinks.predictions import PredictionsFile
from device.sinks.registry import SINKS
from device.sinks.telemetry import TelemetryStore
from tests.unit.processes import free_port
from tests.unit.records import interruption, interval, meter, prediction, run_record, source_interval

RECORDS: tuple[Record, ...] = (
    run_record(),
    interval(1, power_w=None),
    interval(2, power_w=2.5, power_is_estimate=True, power_source="estimate", power_scope="board"),
    source_interval(2),
    interruption(),
    interruption(duration_s=1.0, is_over=True),
    meter(),
    prediction(0),
)


def open_prometheus(_: Path) -> Sink:
    sink: Sink = SINKS.load("prometheus")(str(free_port()), clock=SystemClock(), interval_s=1.0)
    return sink


def open_mqtt(_: Path) -> Sink:
    """One whose broker is away: a sink must bear that."""
    sink: Sink = SINKS.load("mqtt")(f"mqtt://127.0.0.1:{free_port()}", interval_s=1.0)
    return sink


OPENERS: dict[str, Callable[[Path], Sink]] = {
    "predictions": lambda folder: PredictionsFile(folder / "predictions.jsonl"),
    "telemetry": lambda folder: TelemetryStore(folder / "telemetry.sqlite"),
    "prometheus": open_prometheus,
    "mqtt": open_mqtt,
}


def test_every_sink_of_the_registry_is_here() -> None:
    assert set(SINKS.own_names()) <= set(OPENERS)


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Sink]:
    return lambda: OPENERS[request.param](tmp_path)


def flush(sink: Sink) -> None:
    """Flushes; what can't be kept is said by `SinkError` alone."""
    with contextlib.suppress(SinkError):
        sink.flush()


def test_takes_every_kind_of_record(opener: Callable[[], Sink]) -> None:
    with opener() as sink:
        for record in RECORDS:
            sink.write(record)
            flush(sink)


def test_may_be_closed_twice_and_with_nothing_written(opener: Callable[[], Sink]) -> None:
    sink = opener()
    flush(sink)
    sink.close()
    sink.close()


def test_can_be_opened_again_after_it_was_closed(opener: Callable[[], Sink]) -> None:
    for _ in range(2):
        with opener() as sink:
            sink.write(run_record())
            sink.write(interval(1))
            flush(sink)
