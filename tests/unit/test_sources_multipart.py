"""The parser of multipart/x-mixed-replace: streams as cameras send them, cut wherever the network cuts."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.errors import SourceError
from device.sources.stream.multipart import MAX_HEADER_BYTES, MultipartParser, Part

BODIES = [b"\xff\xd8first\xff\xd9", b"\xff\xd8second\r\n--\r\n\xff\xd9", b"\xff\xd8third\n\n\xff\xd9", b"\xff\xd8last\xff\xd9"]


def stream(
    line: bytes = b"--frame",
    newline: bytes = b"\r\n",
    length_error: int | None = 0,
    before: bytes = b"",
    gap: bytes | None = None,
) -> bytes:
    """What a server sends; ``length_error`` None sends no Content-Length."""
    gap = newline if gap is None else gap
    sent = before
    for body in BODIES:
        headers = [b"Content-Type: image/jpeg"]
        if length_error is not None:
            headers.append(b"content-length:  %d " % max(0, len(body) + length_error))
        sent += line + newline + newline.join(headers) + newline * 2 + body + gap
    return sent + line + newline


def parse(boundary: str | None, sent: bytes, *, chunk: int = 1 << 20) -> list[Part]:
    parser = MultipartParser(boundary, "camera")
    parts: list[Part] = []
    for start in range(0, len(sent), chunk):
        parts += parser.feed(sent[start : start + chunk])
    return parts


CLEAN = {
    "plain": ("frame", stream()),
    "line feeds": ("frame", stream(newline=b"\n")),
    "no length": ("frame", stream(length_error=None)),
    "no length, line feeds": ("frame", stream(newline=b"\n", length_error=None)),
    "dashes named too": ("--frame", stream()),
    "dashes named, more sent": ("--frame", stream(line=b"----frame")),
    "no dashes sent": ("frame", stream(line=b"frame")),
    "no dashes sent, no length": ("frame", stream(line=b"frame", length_error=None)),
    "never named": (None, stream(line=b"--someboundary")),
    "never named, no length": ("", stream(line=b"--someboundary", length_error=None)),
    "spaces and dashes": ("--video boundary--", stream(line=b"--video boundary--")),
    "a dash at the end": ("frame-", stream(line=b"--frame-")),
    "a dash at the end, no length": ("frame-", stream(line=b"frame-", length_error=None)),
    "preamble": ("frame", stream(before=b"This is a stream.\r\n\r\n")),
    "empty lines first": (None, stream(before=b"\r\n\r\n", line=b"--x")),
    "no line break before the delimiter": ("frame", stream(gap=b"", length_error=None)),
    "no line break, with length": ("frame", stream(gap=b"")),
    "many line breaks": ("frame", stream(gap=b"\r\n\r\n\r\n")),
    "spaces behind the delimiter": ("frame", stream().replace(b"--frame\r\n", b"--frame \t\r\n")),
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("case", CLEAN)
def test_streams_of_well_meaning_servers(case: str, chunk: int) -> None:
    boundary, sent = CLEAN[case]
    parts = parse(boundary, sent, chunk=chunk)
    assert [part.body for part in parts] == BODIES
    assert {part.headers["content-type"] for part in parts} == {"image/jpeg"}


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 20])
@pytest.mark.parametrize("named", ["frame", "'other'", "<other>"])
def test_boundary_that_is_not_the_one_that_was_named(named: str, chunk: int) -> None:
    sent = stream(line=b"--other", length_error=None) * 40
    assert len(sent) > MAX_HEADER_BYTES
    assert [part.body for part in parse(named, sent, chunk=chunk)] == BODIES * 40


def test_part_with_a_length_waits_for_nothing_behind_it() -> None:
    head = b"--frame\r\nContent-Length: 6\r\n\r\n"
    parser = MultipartParser("frame", "camera")
    assert parser.feed(head + b"\xff\xd812") == []
    assert [part.body for part in parser.feed(b"34")] == [b"\xff\xd81234"]
    assert [part.body for part in parser.feed(b"\r\n" + head + b"\xff\xd85678")] == [b"\xff\xd85678"]


@pytest.mark.parametrize("error", [-4, -1, 1, 3, 30, 3000])
def test_wrong_length_costs_no_more_than_the_part_that_lied(error: int) -> None:
    bodies = [part.body for part in parse("frame", stream(length_error=error))]
    # A JPEG ends with its own marker: what is behind that does no harm.
    assert all(body.startswith(whole) for body, whole in zip(bodies[1:], BODIES[1:], strict=True))
    assert bodies[0].startswith(BODIES[0][: min(0, error) or None])


def test_length_that_is_no_number_is_left_out_of_account() -> None:
    sent = stream().replace(b"content-length:  ", b"content-length: -")
    assert [part.body for part in parse("frame", sent)] == BODIES


def test_boundary_within_a_picture_is_no_delimiter() -> None:
    body = b"\xff\xd8 frame --framework\r\n--frameA xframe\r\n\xff\xd9"
    sent = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + body + b"\r\n--frame\r\n"
    assert [part.body for part in parse("frame", sent)] == [body]


def test_part_without_headers() -> None:
    assert parse("x", b"--x\r\n\r\nbody\r\n--x--\r\n") == [Part({}, b"body")]


def test_what_was_cut_off_is_not_given() -> None:
    assert parse("frame", stream(length_error=None)[:-20])[-1].body == BODIES[2]


@given(
    sent=st.sampled_from([
        *(sent for _, sent in CLEAN.values()), *(stream(length_error=error) for error in (-9, -1, 1, 5, 9, 31, 400)),
        stream(gap=b"", length_error=3), stream(line=b"frame", length_error=12),
        stream(line=b"-" * 90 + b"frame", length_error=95),
    ]),
    boundary=st.sampled_from(["frame", None, "x"]),
    cuts=st.lists(st.integers(0, 400)),
    noise=st.booleans(),
)  # fmt: skip
def test_it_does_not_matter_how_the_bytes_came(sent: bytes, boundary: str | None, cuts: list[int], noise: bool) -> None:
    if noise:
        damaged = bytearray(sent)
        for cut in cuts:
            damaged[cut % len(damaged)] ^= 1 << (cut % 8)
        sent = bytes(damaged)
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    chunks = [sent[start:end] for start, end in itertools.pairwise(edges)]
    assert outcome(boundary, chunks) == outcome(boundary, [sent])


def outcome(boundary: str | None, chunks: list[bytes]) -> list[Part] | str:
    parser = MultipartParser(boundary, "camera")
    try:
        return [part for chunk in chunks for part in parser.feed(chunk)]
    except SourceError as error:
        return error.reason


@given(st.binary(max_size=3000), st.sampled_from(["frame", None, "-", "é"]))
def test_any_bytes_give_parts_or_an_error_of_ours(data: bytes, boundary: str | None) -> None:
    parser = MultipartParser(boundary, "camera", max_part_bytes=1000)
    with contextlib.suppress(SourceError):
        for _ in range(3):
            assert all(len(part.body) <= 1000 for part in parser.feed(data))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"--frame\r\n",
        b"--frame\r\n\r\n",
        b"--frame\r\nContent-Length: 1000\r\n\r\n" + bytes(1000),
    ],
    ids=["no part", "no end of headers", "no end of the part", "nothing behind the part"],
)
@pytest.mark.parametrize("filler", [b"x", b"-", b"--fram", b"\r\n", b"frame", b"\n--frame"])
def test_memory_is_bounded_whatever_comes(head: bytes, filler: bytes) -> None:
    parser = MultipartParser("frame", "camera", max_part_bytes=20_000)
    parser.feed(head)
    with contextlib.suppress(SourceError):
        for _ in range(100):
            parser.feed(filler * (4096 // len(filler)))
            assert len(parser._buffer) < 30_000
    assert len(parser._buffer) < 30_000


def test_part_that_promises_too_much_is_refused_at_once() -> None:
    with pytest.raises(SourceError, match="longer than 1000 bytes"):
        MultipartParser("frame", "camera", max_part_bytes=1000).feed(b"--frame\r\nContent-Length: 1001\r\n\r\n")


@pytest.mark.parametrize("boundary", ["frame", None])
def test_stream_that_never_begins_is_refused(boundary: str | None) -> None:
    with pytest.raises(SourceError, match="no part begins"):
        MultipartParser(boundary, "camera").feed(random.Random(1).randbytes(MAX_HEADER_BYTES + 1))


@pytest.mark.parametrize("boundary", ["frame", None])
@pytest.mark.parametrize("lines", [b"--x\x0c\r\n", b"--x -- \r\n", b"--x\x0c\r\n--y\x0c\r\n"])
def test_line_that_only_seems_a_delimiter_is_none(boundary: str | None, lines: bytes) -> None:
    with pytest.raises(SourceError, match="no part begins"):
        MultipartParser(boundary, "camera").feed(lines * (MAX_HEADER_BYTES // len(lines) + 1))


def test_boundary_that_comes_cut_is_found_behind_a_part() -> None:
    parser = MultipartParser("frame", "camera")
    parser.feed(b"--frame\r\nContent-Length: 2\r\n\r\nab")
    parts: list[Part] = []
    for byte in b"junk" * 200 + b"\r\n--frame\r\n\r\ncd\r\n--frame\r\n":
        parts += parser.feed(bytes([byte]))
    assert [part.body for part in parts] == [b"cd"]
