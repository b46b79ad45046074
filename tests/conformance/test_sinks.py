"""What every sink must do, see `device.protocols.Sink`; and that its class declares what it should."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device.core.clock import SystemClock
from device.core.errors import ProfileError, SinkError
from device.protocols import (
    Event,
    FrameDamaged,
    FrameDone,
    Note,
    PowerFigure,
    RunEnded,
    RunStopping,
    Sink,
    SinkContext,
    Tick,
    Trouble,
)
from device.sinks.opening import read_options
from device.sinks.registry import SINKS
from tests.unit.bundles import make_profile
from tests.unit.processes import free_port
from tests.unit.records import frame, interruption, interval, meter, run_record, run_summary, source_interval

FIGURE = PowerFigure(power_w=2.5, energy_j=2.5, covered_s=1.0, source="estimate", scope="board", is_estimate=True)

EVENTS: tuple[Event, ...] = (
    run_record(),
    interval(1, power_w=None),
    interval(2, power=FIGURE),
    source_interval(2),
    interruption(),
    interruption(duration_s=1.0, is_over=True),
    meter(),
    frame(0),
    FrameDamaged("images:x", SinkError("x", "y", reason="write")),  # type: ignore[arg-type]  # no sink looks at its kind
    Tick({"images:x": 1}),
    Note("a note"),
    Trouble("a trouble"),
    RunStopping(None),
    RunEnded(run_summary()),
)


def options_of(kind: str, folder: Path) -> dict[str, Any]:
    """Options that open a sink here. Brokers and servers are away: a sink must bear that."""
    options: dict[str, dict[str, Any]] = {
        "telemetry": {"path": str(folder / "telemetry.sqlite")},
        "predictions": {"path": str(folder / "predictions.jsonl")},
        "prometheus": {"listen": str(free_port())},
        "mqtt": {"uri": f"mqtt://127.0.0.1:{free_port()}", "labels": True},
        "webhook": {"url": f"http://127.0.0.1:{free_port()}/hook", "retries": 0},
    }
    return options[kind]


@pytest.fixture(params=SINKS.own_names())
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def opener(kind: str, tmp_path: Path) -> Callable[[], Sink]:
    def open_sink() -> Sink:
        loaded = SINKS.load(kind)
        options = read_options(kind, loaded, options_of(kind, tmp_path), lambda key: key)
        sink: Sink = loaded.open(options, SinkContext(make_profile(), SystemClock(), lambda _: None))
        return sink

    return open_sink


def flush(sink: Sink) -> None:
    """Flushes; what can't be kept is reported by `SinkError` alone."""
    with contextlib.suppress(SinkError):
        sink.flush()


def test_takes_every_kind_of_event_that_it_names(opener: Callable[[], Sink]) -> None:
    with opener() as sink:
        taken = [event for event in EVENTS if isinstance(event, sink.takes)]
        assert taken
        for event in taken:
            with contextlib.suppress(SinkError):
                sink.write(sink.prepare(event))
            flush(sink)


def test_names_kinds_of_events_that_there_are(opener: Callable[[], Sink]) -> None:
    with opener() as sink:
        assert set(sink.takes) <= {type(event) for event in EVENTS}
        assert sink.flush_interval_s > 0
        assert not sink.keeps_every_frame or FrameDone in sink.takes


def test_may_be_closed_twice_and_with_nothing_written(opener: Callable[[], Sink]) -> None:
    sink = opener()
    flush(sink)
    sink.close()
    sink.close()


def test_can_be_opened_again_after_it_was_closed(opener: Callable[[], Sink]) -> None:
    for _ in range(2):
        with opener() as sink:
            for event in (run_record(), interval(1)):
                if isinstance(event, sink.takes):
                    with contextlib.suppress(SinkError):
                        sink.write(sink.prepare(event))
            flush(sink)


def test_refuses_options_that_it_does_not_declare(kind: str, tmp_path: Path) -> None:
    sink = SINKS.load(kind)
    with pytest.raises(ProfileError) as caught:
        read_options(kind, sink, {**options_of(kind, tmp_path), "novelty": 1}, lambda key: key)
    assert caught.value.reason == "unknown_key"
    for name, value in options_of(kind, tmp_path).items():
        with pytest.raises(ProfileError) as caught:
            read_options(kind, sink, {**options_of(kind, tmp_path), name: [value]}, lambda key: key)
        assert (caught.value.where, caught.value.reason) == (name, "invalid")


def test_describes_itself(kind: str) -> None:
    sink = SINKS.load(kind)
    assert sink.summary().endswith(".")
    for field in msgspec.structs.fields(sink.Options):
        assert msgspec.json.schema(sink.Options)["$defs"][sink.Options.__name__]["properties"][field.name]["description"]
