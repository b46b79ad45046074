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

from device.daemon.journal import JournalSocket, PriorityStream, is_journal
from device.daemon.link import INTERRUPTION_ID, SUMMARY_ID, JournalTell
from device.daemon.recorder import Tell
from device.protocols import InterruptionRecord, IntervalRecord, Record

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

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.intervals: list[IntervalRecord] = []
        self.lines: list[str] = []

    def tell(self) -> Tell:
        return Tell(self.records.append, lambda record, _: self.intervals.append(record), self.lines.append, self.lines.append)


@pytest.fixture
def plain() -> Plain:
    return Plain()


@pytest.fixture
def tell(tmp_path: Path, journal: Journal, plain: Plain) -> Tell:
    return JournalTell(plain.tell(), JournalSocket(str(tmp_path / "journal")), "rpi4").as_tell()


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


def test_a_minute_becomes_one_entry(tell: Tell, journal: Journal, plain: Plain) -> None:
    for number in range(60):
        tell.on_interval(interval(power_w=2.0 if number % 2 else 4.0, temperature_c=40.0 + number), None)
    (entry,) = journal.entries()
    assert entry["MESSAGE"] == "10.0 FPS over 60 s | 3.00 W (ina219 (hwmon), board, measured) | dropped 60 | 99 °C at most"
    assert entry["PRIORITY"] == "6"
    assert entry["MESSAGE_ID"] == SUMMARY_ID
    assert (entry["GHOSTWATT_PROFILE"], entry["GHOSTWATT_FPS"], entry["GHOSTWATT_POWER_W"]) == ("rpi4", "10", "3")
    assert entry["GHOSTWATT_POWER_IS_ESTIMATE"] == "0"
    assert entry["GHOSTWATT_FRAMES"] == "600"
    assert "GHOSTWATT_THROTTLED" not in entry
    assert plain.intervals == []


def test_a_mean_weighs_power_by_the_time_that_was_covered(tell: Tell, journal: Journal) -> None:
    for number in range(60):
        tell.on_interval(
            interval(power_w=1.0, power_covered_s=0.9) if number % 2 else interval(power_w=6.0, power_covered_s=0.1), None
        )
    (entry,) = journal.entries()
    assert entry["GHOSTWATT_POWER_W"] == "1.5"


def test_no_figure_is_no_field(tell: Tell, journal: Journal) -> None:
    nothing = interval(power_w=None, power_source=None, power_scope=None, power_is_estimate=None, temperature_c=None)
    for _ in range(60):
        tell.on_interval(nothing, None)
    (entry,) = journal.entries()
    assert "no power figure" in entry["MESSAGE"]
    assert not {name for name in entry if "POWER" in name or "TEMPERATURE" in name}


def test_an_estimate_is_never_averaged_with_what_was_measured(tell: Tell, journal: Journal) -> None:
    for _ in range(30):
        tell.on_interval(interval(power_w=100.0), None)
    for _ in range(30):
        tell.on_interval(interval(power_w=3.0, power_source="model", power_is_estimate=True, throttled="throttled"), None)
    (entry,) = journal.entries()
    assert "3.00 W (model, board, ESTIMATE)" in entry["MESSAGE"]
    assert "THROTTLED (throttled)" in entry["MESSAGE"]
    assert entry["GHOSTWATT_POWER_IS_ESTIMATE"] == "1"


def test_an_interruption_is_told_once_with_fields(tell: Tell, journal: Journal, plain: Plain) -> None:
    tell.write(interruption(None))
    tell.on_trouble("rtsp://camera/: stalled; no frame within 5 s")
    tell.write(interruption(7.25))
    tell.on_recovery("rtsp://camera/: well again after 7.2 s")
    began, ended = journal.entries()
    assert began["MESSAGE"] == "warning: rtsp://camera/: stalled; no frame within 5 s"
    assert (began["PRIORITY"], ended["PRIORITY"]) == ("4", "5")
    assert began["MESSAGE_ID"] == INTERRUPTION_ID
    assert (began["GHOSTWATT_SOURCE"], began["GHOSTWATT_REASON"]) == ("rtsp://camera/", "stalled")
    assert "GHOSTWATT_DURATION_S" not in began
    assert (ended["GHOSTWATT_DURATION_S"], ended["GHOSTWATT_IS_OVER"]) == ("7.25", "1")
    assert plain.lines == []
    assert len(plain.records) == 2


def test_other_troubles_stay_plain_lines(tell: Tell, journal: Journal, plain: Plain) -> None:
    tell.write(interruption(None))
    tell.on_trouble("first")
    tell.on_trouble("second")
    assert [entry["MESSAGE"] for entry in journal.entries()] == ["warning: first"]
    assert plain.lines == ["second"]


def test_where_the_journal_takes_nothing_the_line_goes_the_plain_way(tmp_path: Path, plain: Plain) -> None:
    tell = JournalTell(plain.tell(), JournalSocket(str(tmp_path / "nobody")), "rpi4").as_tell()
    tell.write(interruption(None))
    tell.on_trouble("stalled")
    for _ in range(60):
        tell.on_interval(interval(), None)
    assert plain.lines == ["stalled"]
    assert len(plain.intervals) == 1


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
