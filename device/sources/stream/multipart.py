"""Parses ``multipart/x-mixed-replace`` streams, including the many deviations that cameras send.

References:
    RFC 2046 (1996), section 5.1: the syntax. ``x-mixed-replace`` was never standardised: each part replaces the previous one.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

from device.core.errors import SourceError

MAX_PART_BYTES = 16 * 2**20
"""Largest part: no camera sends a larger picture, which would have 50 megapixels or more."""

MAX_HEADER_BYTES = 8192
"""Largest header of a part, and most data before the first part."""

_NO_PART = f"no part begins within {MAX_HEADER_BYTES} bytes"

# A delimiter's line ends within this many bytes after the boundary.
_TAIL_BYTES = 64
_TAIL = re.compile(rb"-*[ \t]*\r?\n")
_NUMBER = re.compile(r"[0-9]{1,12}")


class Part(NamedTuple):
    """A part of a multipart stream.

    Attributes:
        headers: values by name, in lower case.
        body: the content.
    """

    headers: dict[str, str]
    body: bytes


class _State(Enum):
    BEFORE = auto()
    HEADERS = auto()
    BODY = auto()
    AFTER = auto()


class _Delimiter(NamedTuple):
    """Start and end of a delimiter's line, including the line break before it."""

    start: int
    end: int


class MultipartParser:
    """Takes data as it arrives, and returns completed parts.

    A part ends where its ``Content-Length`` says, without waiting for the next one, or at an earlier delimiter. If anything but
    a delimiter follows it, lengths are ignored from then on, and only delimiters end parts. Lines may end in CRLF or LF. The
    delimiter may have any number of dashes; with two or more, it needn't begin a line.

    Args:
        boundary: as stated in the response's header, with or without dashes. If it is None or empty or doesn't occur, the
            stream's first line that begins with two dashes is used.
        where: the stream's address, for errors.
        max_part_bytes: largest part.
    """

    def __init__(self, boundary: str | None, where: str, *, max_part_bytes: int = MAX_PART_BYTES) -> None:
        self._core = (boundary or "").strip().strip("-").encode("latin-1", "replace")
        self._where = where
        self._max_part_bytes = max_part_bytes
        self._buffer = bytearray()
        self._state = _State.BEFORE
        # Whether the buffer begins at the start of a line.
        self._at_line_start = True
        # The buffer has no delimiter before this position.
        self._searched = 0
        self._headers: dict[str, str] = {}
        self._length: int | None = None
        self._is_length_believed = True

    def feed(self, data: bytes) -> list[Part]:
        """Takes the next bytes; returns the parts that they complete, in order.

        Raises:
            SourceError: ``malformed`` if a part or its headers are too long, or if no part begins.
        """
        self._buffer += data
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Advances to the next state; returns False if that needs more data."""
        if self._state is _State.HEADERS:
            return self._read_headers()
        if self._state is _State.BODY:
            return self._read_body(parts)
        return self._find_part()

    def _find_part(self) -> bool:
        """Skips past the next delimiter."""
        if not self._core and not self._learn_boundary():
            return False
        found = self._find(len(self._buffer))
        if found:
            self._skip(found.start)
            self._drop(found.end - found.start)
            self._enter(_State.HEADERS)
            return True
        if self._state is _State.BEFORE:
            # Some cameras announce a different boundary from the one they send.
            return len(self._buffer) > MAX_HEADER_BYTES and self._learn_boundary()
        if self._searched > _TAIL_BYTES:
            # Keep enough for the dashes and the line break before a boundary.
            self._skip(self._searched - _TAIL_BYTES)
            self._searched = _TAIL_BYTES
        return False

    def _skip(self, count: int) -> None:
        """Drops the data between a part and the next delimiter. If there is any, the part was longer than its stated length."""
        if self._state is _State.AFTER and self._buffer[:count].strip():
            self._is_length_believed = False
        self._drop(count)

    def _learn_boundary(self) -> bool:
        """Takes the first line that begins with two dashes as the delimiter, once."""
        start = 0
        while (end := self._buffer.find(b"\n", start)) >= 0:
            line = bytes(self._buffer[start:end]).strip()
            core = line.strip(b"-").strip()
            if line.startswith(b"--") and core:
                self._require(core != self._core, _NO_PART)
                self._core, self._searched = core, 0
                return True
            start = end + 1
        self._require(len(self._buffer) <= MAX_HEADER_BYTES, _NO_PART)
        return False

    def _read_headers(self) -> bool:
        """Reads lines up to an empty one."""
        start = 0
        headers: dict[str, str] = {}
        while (end := self._buffer.find(b"\n", start)) >= 0:
            line = self._buffer[start:end].decode("latin-1").strip()
            start = end + 1
            self._require(start <= MAX_HEADER_BYTES, f"a part's headers are longer than {MAX_HEADER_BYTES} bytes")
            if not line:
                self._begin_body(headers, start)
                return True
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self._require(len(self._buffer) <= MAX_HEADER_BYTES, f"a part's headers are longer than {MAX_HEADER_BYTES} bytes")
        return False

    def _begin_body(self, headers: dict[str, str], start: int) -> None:
        self._headers = headers
        text = headers.get("content-length", "")
        self._length = int(text) if self._is_length_believed and _NUMBER.fullmatch(text) else None
        self._require_size(self._length or 0)
        self._drop(start)
        self._enter(_State.BODY)

    def _read_body(self, parts: list[Part]) -> bool:
        length = self._length
        # Only a delimiter that lies entirely within the length counts: the result mustn't depend on how the data was split.
        found = self._find(len(self._buffer) if length is None else min(length, len(self._buffer)))
        if found:
            self._finish(parts, found.start, found.end, _State.HEADERS)
        elif length is not None and len(self._buffer) >= length:
            self._finish(parts, length, length, _State.AFTER)
        else:
            # Allow for the delimiter after a body of the largest size.
            self._require_size(len(self._buffer) - len(self._core) - 2 * _TAIL_BYTES)
            return False
        return True

    def _finish(self, parts: list[Part], body_end: int, end: int, state: _State) -> None:
        self._require_size(body_end)
        parts.append(Part(self._headers, bytes(self._buffer[:body_end])))
        self._drop(end)
        self._enter(state)

    def _find(self, end: int) -> _Delimiter | None:
        """Finds the first delimiter that ends at or before ``end``, from where the last search stopped."""
        core, buffer = self._core, self._buffer
        at = buffer.find(core, self._searched, end)
        while at >= 0:
            behind = at + len(core)
            tail = _TAIL.match(buffer, behind, min(end, behind + _TAIL_BYTES))
            start = self._start_of_line(at)
            if tail and start is not None:
                return _Delimiter(start, tail.end())
            if start is not None and end - behind < _TAIL_BYTES and buffer.find(b"\n", behind, end) < 0:
                # The delimiter's line is incomplete.
                self._searched = at
                return None
            at = buffer.find(core, at + 1, end)
        self._searched = max(self._searched, end - len(core) + 1)
        return None

    def _start_of_line(self, at: int) -> int | None:
        """Start of the delimiter whose boundary is at ``at``, with its dashes and line break; None if it isn't a delimiter."""
        start = at
        while start > max(0, at - _TAIL_BYTES + 2) and self._buffer[start - 1 : start] == b"-":
            start -= 1
        dashes = at - start
        if start >= 1 and self._buffer[start - 1 : start] == b"\n":
            start -= 1
            return start - 1 if start >= 1 and self._buffer[start - 1 : start] == b"\r" else start
        is_line_start = start == 0 and self._at_line_start
        return start if dashes >= 2 or is_line_start else None

    def _enter(self, state: _State) -> None:
        self._state = state
        self._searched = 0
        self._at_line_start = True

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._at_line_start = False

    def _require_size(self, size_bytes: int) -> None:
        self._require(size_bytes <= self._max_part_bytes, f"a part is longer than {self._max_part_bytes} bytes")

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise SourceError(
                self._where,
                otherwise,
                expected="multipart/x-mixed-replace: a repeated sequence of boundary, headers and picture",
                remedy="check that the address is that of the MJPEG stream",
                reason="malformed",
            )
