"""Takes a stream of pictures apart: ``multipart/x-mixed-replace``, as cameras send it, which is seldom as it should be.

References:
    RFC 2046 (1996), section 5.1: the syntax. ``x-mixed-replace`` was never standardised: each part replaces the one before.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

from device.core.errors import SourceError

MAX_PART_BYTES = 16 * 2**20
"""A picture larger than this is no camera's: it would have 50 megapixels and more."""

MAX_HEADER_BYTES = 8192
"""Of one part's headers, or of what may stand before the first part."""

_NO_PART = f"no part begins within {MAX_HEADER_BYTES} bytes"

# A delimiter's line ends within this many bytes behind the boundary.
_TAIL_BYTES = 64
_TAIL = re.compile(rb"-*[ \t]*\r?\n")
_NUMBER = re.compile(r"[0-9]{1,12}")


class Part(NamedTuple):
    """One part.

    Attributes:
        headers: by their names in lower case.
        body: its bytes.
    """

    headers: dict[str, str]
    body: bytes


class _State(Enum):
    BEFORE = auto()
    HEADERS = auto()
    BODY = auto()
    AFTER = auto()


class _Delimiter(NamedTuple):
    """Where a delimiter's line, with the line break before it, begins and ends."""

    start: int
    end: int


class MultipartParser:
    """Takes bytes as they come, and gives the parts that are whole.

    A part ends where its ``Content-Length`` says, so that it needn't wait for the next, or at a delimiter before that. Where
    anything but a delimiter stands behind it, lengths are believed no more, and parts end at delimiters alone. Lines may end
    in CRLF or LF. The delimiter may have any number of dashes, and need not begin a line where it has two.

    Args:
        boundary: as the response's header names it, with or without dashes; None or empty, or where it doesn't come: the
            stream's first line that begins with two dashes tells.
        where: what to call the stream in errors.
        max_part_bytes: longest part.
    """

    def __init__(self, boundary: str | None, where: str, *, max_part_bytes: int = MAX_PART_BYTES) -> None:
        self._core = (boundary or "").strip().strip("-").encode("latin-1", "replace")
        self._where = where
        self._max_part_bytes = max_part_bytes
        self._buffer = bytearray()
        self._state = _State.BEFORE
        # Whether the buffer begins where a line does.
        self._at_line_start = True
        # Up to here, the buffer holds no delimiter.
        self._searched = 0
        self._headers: dict[str, str] = {}
        self._length: int | None = None
        self._is_length_believed = True

    def feed(self, data: bytes) -> list[Part]:
        """Takes the next bytes; gives the parts that they completed, in order.

        Raises:
            SourceError: ``malformed``: a part or its headers are too long, or no part ever begins.
        """
        self._buffer += data
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Goes on to the next state; False where that takes more bytes."""
        if self._state is _State.HEADERS:
            return self._read_headers()
        if self._state is _State.BODY:
            return self._read_body(parts)
        return self._find_part()

    def _find_part(self) -> bool:
        """Skips to behind the next delimiter."""
        if not self._core and not self._learn_boundary():
            return False
        found = self._find(len(self._buffer))
        if found:
            self._skip(found.start)
            self._drop(found.end - found.start)
            self._enter(_State.HEADERS)
            return True
        if self._state is _State.BEFORE:
            # Some cameras name another boundary than they send.
            return len(self._buffer) > MAX_HEADER_BYTES and self._learn_boundary()
        if self._searched > _TAIL_BYTES:
            # What is kept has room for the dashes and the line break before a boundary.
            self._skip(self._searched - _TAIL_BYTES)
            self._searched = _TAIL_BYTES
        return False

    def _skip(self, count: int) -> None:
        """Drops what stands between a part and the next delimiter: where that isn't empty, the part was longer than it said."""
        if self._state is _State.AFTER and self._buffer[:count].strip():
            self._is_length_believed = False
        self._drop(count)

    def _learn_boundary(self) -> bool:
        """Takes the first line that begins with two dashes for the delimiter, once."""
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
        # Only what lies wholly within the length counts as a delimiter, so that it doesn't matter how the bytes came.
        found = self._find(len(self._buffer) if length is None else min(length, len(self._buffer)))
        if found:
            self._finish(parts, found.start, found.end, _State.HEADERS)
        elif length is not None and len(self._buffer) >= length:
            self._finish(parts, length, length, _State.AFTER)
        else:
            # A body of the greatest size needs its delimiter, too.
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
                # Its line isn't whole yet.
                self._searched = at
                return None
            at = buffer.find(core, at + 1, end)
        self._searched = max(self._searched, end - len(core) + 1)
        return None

    def _start_of_line(self, at: int) -> int | None:
        """Where the delimiter begins whose boundary is at ``at``: before its dashes and line break; None where it is none."""
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
                expected="multipart/x-mixed-replace: a boundary, headers, a picture, again and again",
                remedy="look whether the address is that of the MJPEG stream",
                reason="malformed",
            )
