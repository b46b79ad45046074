"""What every listener of the stream must do, see `device.protocols.Listener`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from device.bundle.store import BundleStore
from device.core.clock import ManualClock
from device.daemon.console import Console
from device.daemon.heartbeat import find_service_manager
from device.daemon.instruments import Instruments
from device.daemon.journal import JournalSocket
from device.daemon.journal_log import JournalLog
from device.daemon.recorder import Recorder
from device.daemon.trial import Trial
from device.machine.memory import Memory
from device.protocols import Event, Listener, Note, SourceSpec, ThermalSample, Trouble
from device.sinks.background import BackgroundSink
from device.sinks.base import SinkPlugin
from tests.conformance.test_sinks import EVENTS
from tests.unit.bundles import make_profile
from tests.unit.fakes import FixedThermals

SOON_S = 0.5
"""A frame every fifth of a second and no faster would be a poor daemon; a machine of tests is slow."""


class StuckSink(SinkPlugin):
    """Never comes back from its first event."""

    takes = tuple({type(event) for event in EVENTS})

    def __init__(self) -> None:
        self.release = threading.Event()

    def write(self, event: Event) -> None:
        self.release.wait()


def make_recorder() -> Recorder:
    instruments = Instruments(None, (), FixedThermals(ThermalSample(50.0, None, None)), lambda: Memory(1, 1))
    source = SourceSpec(uri="images:x", is_live=False)
    return Recorder(
        EVENTS[0],  # type: ignore[arg-type]  # the run's
        (source,),
        instruments,
        SimpleQueue(),
        clock=ManualClock(),
        interval_s=1.0,
        emit=lambda _: None,
    )


@pytest.fixture(params=["console", "journal", "service manager", "recorder", "trial", "sink"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    """Each listener, where nobody is at the other end."""
    nobody = str(tmp_path / "nobody")
    stuck = StuckSink()
    makers: dict[str, Callable[[], Listener | None]] = {
        "console": lambda: Console(sys.stderr),
        "journal": lambda: JournalLog(JournalSocket(nobody), "host", Console(sys.stderr)),
        "service manager": lambda: find_service_manager(
            make_profile(), ["images:x"], ManualClock(), lambda _: None, {"NOTIFY_SOCKET": nobody}
        ),
        "recorder": make_recorder,
        "trial": lambda: Trial(BundleStore(tmp_path), "host", lambda _: None),
        "sink": lambda: BackgroundSink(stuck, lambda _: None),
    }
    made = makers[request.param]()
    assert made is not None
    yield made
    stuck.release.set()


def test_takes_every_kind_of_event_that_it_names_at_once(listener: Listener) -> None:
    assert set(listener.takes) <= {type(event) for event in EVENTS}
    for event in EVENTS:
        if isinstance(event, listener.takes):
            started_s = time.monotonic()
            listener.write(event)
            assert time.monotonic() - started_s < SOON_S


def test_takes_notes_and_troubles_from_any_thread(listener: Listener) -> None:
    failures: list[Exception] = []

    def write(event: Event) -> None:
        try:
            for _ in range(200):
                if isinstance(event, listener.takes):
                    listener.write(event)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(event,)) for event in (Note("x"), Trouble("y"), EVENTS[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
