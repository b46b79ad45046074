"""The stream of events: order, and listeners that fail."""

from __future__ import annotations

import pytest

from device.daemon.stream import EventStream
from device.protocols import Event, IntervalRecord, Kinds, Note, Tick, Trouble
from tests.unit.records import frame, interval


class Log:
    """Notes what it is given, under its name."""

    def __init__(self, name: str, log: list[tuple[str, Event]], *takes: type[Event]) -> None:
        self.takes: Kinds = takes
        self._name = name
        self._log = log

    def write(self, event: Event) -> None:
        self._log.append((self._name, event))


class Broken:
    takes: Kinds = (Tick, Trouble)

    def write(self, event: Event) -> None:
        raise OSError("broken")


class Deriving:
    """Emits an interval at each tick."""

    takes: Kinds = (Tick,)

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    def write(self, event: Event) -> None:
        self._stream.emit(interval(1))


def test_each_listener_gets_the_kinds_that_it_takes_in_the_order_of_their_adding() -> None:
    log: list[tuple[str, Event]] = []
    stream = EventStream()
    stream.add(Log("a", log, Tick, Note))
    stream.add(Log("b", log, Tick))
    for event in (Tick({}), Note("x"), frame(0)):
        stream.emit(event)
    assert log == [("a", Tick({})), ("b", Tick({})), ("a", Note("x"))]


def test_what_a_listener_emits_is_through_before_the_next_gets_the_first_event() -> None:
    # So the watchdog, which is the last, beats only after everything that a frame has brought about.
    log: list[tuple[str, Event]] = []
    stream = EventStream()
    stream.add(Log("records", log, IntervalRecord))
    stream.add(Deriving(stream))
    stream.add(Log("watchdog", log, Tick))
    stream.emit(Tick({}))
    assert log == [("records", interval(1)), ("watchdog", Tick({}))]


def test_a_listener_that_fails_hurts_nobody_and_is_reported_once() -> None:
    log: list[tuple[str, Event]] = []
    stream = EventStream()
    stream.add(Broken())
    stream.add(Log("after", log, Tick, Trouble))
    for _ in range(3):
        stream.emit(Tick({}))
    assert [event for _, event in log if isinstance(event, Tick)] == [Tick({})] * 3
    (trouble,) = (event for _, event in log if isinstance(event, Trouble))
    assert trouble.line == "Broken failed (OSError('broken')); the run continues"


def test_an_essential_listener_that_fails_ends_the_run() -> None:
    stream = EventStream()
    stream.add(Broken(), is_essential=True)
    with pytest.raises(OSError, match="broken"):
        stream.emit(Tick({}))
