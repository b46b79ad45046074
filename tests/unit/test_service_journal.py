from __future__ import annotations

import io
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.daemon.console import Console
from device.daemon.journal import JournalSocket, PriorityStream, is_journal
from device.daemon.journal_log import INTERRUPTION_ID, SUMMARY_ID, JournalLog
from device.protocols import Event, InterruptionRecord, IntervalRecord, Note, Trouble

from . import records


def read_entry(datagram: bytes) -> dict[str, str]:
    """Reads an entry as the protocol's description has it."""
    entry = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, is_plain, value = head.partition(b"=")
        if not is_plain:
            (length,) = struct.unpack("<Q", rest[:8])
            value, end, rest = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert end == b"\n"
        entry[name.decode()] = value.decode()
        datagram = rest
    return entry


class Journal:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def entries(self) -> list[dict[str, str]]:
        found = []
        while True:
            try:
                found.append(read_entry(self._socket.recv(65536)))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "journal")
    yield found
    found.close()


class Plain:
    """What would have gone to stderr."""

    takes = Console.takes

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def plain() -> Plain:
    return Plain()


@pytest.fixture
def log(tmp_path: Path, journal: Journal, plain: Plain) -> JournalLog:
    return JournalLog(JournalSocket(str(tmp_path / "journal")), "rpi4", plain)


def interval(**changes: Any) -> IntervalRecord:
    """A second at 10 FPS and 2 W."""
    power = {"power_w": 2.0, "power_source": "ina219 (hwmon)", "power_scope": "board", "power_is_estimate": False}
    values = {"frames": 10, "fps": 10.0, "dropped": 1, "power_covered_s": 1.0, **power, **changes}
    power_w, covered_s = values["power_w"], values["power_covered_s"]
    energy_j = None if power_w is None else power_w * covered_s
    return records.interval(0, **values | {"energy_j": energy_j, "power_covered_s": None if power_w is None else covered_s})


def interruption(duration_s: float | None) -> InterruptionRecord:
    is_over = duration_s is not None
    return InterruptionRecord("rtsp://camera/", "stalled", "no frame within 5 s", 1, duration_s, 3, is_over, wall_time_s=2.0)


def test_a_minute_becomes_one_entry(log: JournalLog, journal: Journal, plain: Plain) -> None:
    for number in range(60):
        log.write(interval(power_w=2.0 if number % 2 else 4.0, temperature_c=40.0 + number))
    (entry,) = journal.entries()
    assert entry["MESSAGE"] == "10.0 FPS over 60 s | 3.00 W (ina219 (hwmon), board, measured) | dropped 60 | 99 °C at most"
    assert entry["PRIORITY"] == "6"
    assert entry["MESSAGE_ID"] == SUMMARY_ID
    assert (entry["GHOSTWATT_PROFILE"], entry["GHOSTWATT_FPS"], entry["GHOSTWATT_POWER_W"]) == ("rpi4", "10", "3")
    assert entry["GHOSTWATT_POWER_IS_ESTIMATE"] == "0"
    assert entry["GHOSTWATT_FRAMES"] == "600"
    assert "GHOSTWATT_THROTTLED" not in entry
    assert plain.events == []


def test_a_mean_weighs_power_by_the_time_that_was_covered(log: JournalLog, journal: Journal) -> None:
    for number in range(60):
        log.write(interval(power_w=1.0, power_covered_s=0.9) if number % 2 else interval(power_w=6.0, power_covered_s=0.1))
    (entry,) = journal.entries()
    assert entry["GHOSTWATT_POWER_W"] == "1.5"


def test_no_figure_is_no_field(log: JournalLog, journal: Journal) -> None:
    nothing = interval(power_w=None, power_source=None, power_scope=None, power_is_estimate=None, temperature_c=None)
    for _ in range(60):
        log.write(nothing)
    (entry,) = journal.entries()
    assert "no power figure" in entry["MESSAGE"]
    assert not {name for name in entry if "POWER" in name or "TEMPERATURE" in name}


def test_an_estimate_is_never_averaged_with_what_was_measured(log: JournalLog, journal: Journal) -> None:
    for _ in range(30):
        log.write(interval(power_w=100.0))
    for _ in range(30):
        log.write(interval(power_w=3.0, power_source="model", power_is_estimate=True, throttled="throttled"))
    (entry,) = journal.entries()
    assert "3.00 W (model, board, ESTIMATE)" in entry["MESSAGE"]
    assert "THROTTLED (throttled)" in entry["MESSAGE"]
    assert entry["GHOSTWATT_POWER_IS_ESTIMATE"] == "1"


def test_an_interruption_is_told_once_with_fields(log: JournalLog, journal: Journal, plain: Plain) -> None:
    log.write(interruption(None))
    log.write(interruption(7.25))
    began, ended = journal.entries()
    assert began["MESSAGE"] == "warning: rtsp://camera/: stalled; no frame within 5 s"
    assert (began["PRIORITY"], ended["PRIORITY"]) == ("4", "5")
    assert began["MESSAGE_ID"] == INTERRUPTION_ID
    assert (began["GHOSTWATT_SOURCE"], began["GHOSTWATT_REASON"]) == ("rtsp://camera/", "stalled")
    assert "GHOSTWATT_DURATION_S" not in began
    assert (ended["GHOSTWATT_DURATION_S"], ended["GHOSTWATT_IS_OVER"]) == ("7.25", "1")
    assert ended["MESSAGE"] == "note: rtsp://camera/: well again after 7.2 s (stalled, attempts to open it again: 3)"
    assert plain.events == []


def test_other_troubles_stay_plain_lines(log: JournalLog, journal: Journal, plain: Plain) -> None:
    others: list[Event] = [Trouble("first"), Note("second"), records.frame(0)]
    for event in others:
        log.write(event)
    assert journal.entries() == []
    assert plain.events == others


def test_where_the_journal_takes_nothing_the_line_goes_the_plain_way(tmp_path: Path, plain: Plain) -> None:
    log = JournalLog(JournalSocket(str(tmp_path / "nobody")), "rpi4", plain)
    log.write(interruption(None))
    for _ in range(60):
        log.write(interval())
    assert plain.events == [interruption(None), interval()]


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()), st.text())
def test_any_text_comes_back_as_it_was(fields: dict[str, str], message: str) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        sender = JournalSocket("unused")
        sender._socket = _Redirected(here)  # type: ignore[assignment]
        assert sender.send(message, 6, {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()})
        entry = read_entry(there.recv(1 << 20))
    for name, value in fields.items():
        assert entry[name] == value
    assert fields.get("MESSAGE", message) == entry["MESSAGE"]


class _Redirected:
    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def sendto(self, data: bytes, _address: str) -> int:
        return self._end.send(data)


def test_lines_get_the_priority_of_what_they_say() -> None:
    stream = io.StringIO()
    marked = PriorityStream(stream)
    print("warning: full", file=marked)
    print("error: gone", "for ever", file=marked)
    print("profile  rpi4", file=marked)
    marked.write("note: a\nnote: b\n")
    marked.write("half ")
    marked.write("warning: a line\n")
    assert stream.getvalue() == (
        "<4>warning: full\n<3>error: gone for ever\nprofile  rpi4\n<5>note: a\n<5>note: b\nhalf warning: a line\n"
    )
    assert not marked.isatty()


def test_a_stream_is_the_journals_only_where_systemd_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
