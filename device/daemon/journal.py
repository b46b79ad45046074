"""Writes to systemd's journal: lines with a priority on stderr, and entries with fields on the journal's own socket.

References:
    sd-daemon(3): a line that begins ``<4>`` has that syslog priority. systemd.exec(5): ``JOURNAL_STREAM``.
    systemd's "Native Journal Protocol": ``NAME=value`` lines in one datagram; a value with a line break comes after its name,
    alone on a line, as its length (64 bits, low byte first) and its bytes.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
from collections.abc import Mapping
from typing import TextIO

SOCKET = "/run/systemd/journal/socket"
SEND_TIMEOUT_S = 0.5

# syslog(3).
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
_PRIORITIES = {"error:": ERROR, "warning:": WARNING, "note:": NOTICE}


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """True where a stream of this process ends in the journal and hasn't been redirected."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def mark_journal_lines(environment: Mapping[str, str] | None = None) -> None:
    """Gives lines on stderr their priority where they end in the journal."""
    if is_journal(sys.stderr, os.environ if environment is None else environment):
        sys.stderr = PriorityStream(sys.stderr)


class PriorityStream(io.TextIOBase):
    """Writes to a stream, and marks lines that begin with ``error:``, ``warning:`` or ``note:`` with their priority.

    Args:
        stream: ends in the journal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_line_start = True

    def write(self, text: str) -> int:
        """Writes; returns the length of ``text``."""
        marked = []
        for line in text.splitlines(keepends=True):
            marked.append(self._mark(line) if self._is_line_start else line)
            self._is_line_start = line.endswith("\n")
        self._stream.write("".join(marked))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """A journal is no terminal."""
        return False

    def fileno(self) -> int:
        """The stream's own."""
        return self._stream.fileno()

    def _mark(self, line: str) -> str:
        priority = _PRIORITIES.get(line.partition(" ")[0])
        return line if priority is None else f"<{priority}>{line}"


class JournalSocket:
    """Sends entries with fields.

    Args:
        address: of the journal's socket.
    """

    def __init__(self, address: str = SOCKET) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_TIMEOUT_S)

    def send(self, message: str, priority: int, fields: Mapping[str, object]) -> bool:
        """Sends one entry; False where the journal rejected it.

        Args:
            message: for people.
            priority: as syslog(3) numbers them.
            fields: for programs; names in capitals. Those that are None are left out.
        """
        entry: dict[str, object] = {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "ghostwatt", **fields}
        datagram = b"".join(_encode(name, value) for name, value in entry.items() if value is not None)
        try:
            self._socket.sendto(datagram, self._address)
        except OSError:
            return False
        return True


def _encode(name: str, value: object) -> bytes:
    data = _text(value).encode()
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
