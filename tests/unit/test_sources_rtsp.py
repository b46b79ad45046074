"""The RTSP source over an FFmpeg that does whatever it may do, and over cameras on loopback that refuse."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

from device.core.clock import ManualClock
from device.core.errors import GhostwattError, SourceError, UsageError
from device.net.address import parse_address
from device.protocols import FrameSource, Image
from device.sources.stream import rtsp
from device.sources.stream.rtsp import MAX_SKIPPED, NewestFrame, ThreadTime
from device.sources.stream.rtsp_probe import explain_failure
from device.sources.uri import open_source

SLOW_S = 20.0
CANARY = "Kanarienvogel"


class FakeStream:
    """Stands in for FFmpeg: gives ``frames`` frames, and then none."""

    frames = 5
    can_open = True
    rate_fps: float | None = 25.0

    def __init__(self, url: str, *, open_timeout_s: float, read_timeout_s: float) -> None:
        self.url = url
        self.number = -1
        self.closed = threading.Event()
        opened.append(self)

    @property
    def is_open(self) -> bool:
        return self.can_open

    @property
    def position_s(self) -> float:
        return self.number / 25.0

    def grab(self) -> bool:
        time.sleep(0.04)
        self.number += 1
        return self.number < self.frames

    def retrieve(self) -> Image | None:
        return np.full((8, 8, 3), self.number, np.uint8)

    def close(self) -> None:
        self.closed.set()


opened: list[FakeStream] = []


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> type[FakeStream]:
    opened.clear()
    fake = type("Stream", (FakeStream,), {})
    monkeypatch.setattr("device.image.opencv.StreamCapture", fake)
    return fake


def read_to_the_end(uri: str) -> SourceError:
    def read_all(source: FrameSource) -> None:
        while source.read(SLOW_S):
            pass

    with open_source(uri) as source, pytest.raises(SourceError) as caught:
        read_all(source)
    return caught.value


def test_frames_come_with_the_promised_rate(stream: type[FakeStream]) -> None:
    stream.frames = 1000
    before_ns = time.monotonic_ns()
    with open_source(f"rtsp://me:{CANARY}@camera/x") as source:
        frame = source.read(SLOW_S)
        assert frame is not None
        assert source.spec.rate_fps == 25.0
        assert source.spec.uri == "rtsp://camera/x"
    assert int(frame.pixels[0, 0, 0]) == frame.index
    assert before_ns < frame.timestamp_ns < time.monotonic_ns()
    assert opened[0].closed.wait(SLOW_S)


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("rtsp://camera/x", "rtsp://camera/x?tcp"),
        ("rtsp://me:a%2Fb@camera:8554/x?y=1#udp", "rtsp://me:a%2Fb@camera:8554/x?y=1&udp"),
        ("rtsps://camera/x", "rtsps://camera/x?tcp"),
    ],
)
def test_ffmpeg_is_told_transport_and_password(stream: type[FakeStream], uri: str, url: str) -> None:
    open_source(uri).close()
    assert opened[0].url == url


@pytest.mark.parametrize("rest", [f"camera/{CANARY}", f"//camera/x#{CANARY}", "//camera/x#tcp"])
def test_uri_that_makes_no_sense(rest: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(f"rtsp:{rest}")
    assert caught.value.reason == "malformed_uri"
    assert CANARY not in str(caught.value)


def test_stream_that_ends(stream: type[FakeStream]) -> None:
    assert read_to_the_end("rtsp://camera/x").reason == "ended"
    assert opened[0].closed.wait(SLOW_S)


def test_stream_that_falls_silent(stream: type[FakeStream], monkeypatch: pytest.MonkeyPatch) -> None:
    # FFmpeg gives up after its timeout, and says no more than at the end of a stream.
    monkeypatch.setattr(rtsp, "READ_TIMEOUT_S", 0.0)
    assert read_to_the_end("rtsp://camera/x").reason == "stalled"


def test_frame_that_cannot_be_converted_is_a_damaged_one(stream: type[FakeStream], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "retrieve", lambda self: None)
    with open_source("rtsp://camera/x") as source, pytest.raises(SourceError) as caught:
        source.read(SLOW_S)
    assert caught.value.reason == "decode"


def test_board_that_decodes_too_slowly_is_told(stream: type[FakeStream], monkeypatch: pytest.MonkeyPatch) -> None:
    stream.frames = 1000
    monkeypatch.setattr(rtsp, "WAITED_S", 1000.0)
    monkeypatch.setattr(rtsp, "WAITED_SURELY_S", 1000.0)
    monkeypatch.setattr(rtsp, "MAX_SKIPPED", 3)
    monkeypatch.setattr(rtsp, "MAX_BEHIND_S", 0.1)
    error = read_to_the_end("rtsp://camera/x")
    assert error.reason == "behind"
    assert "smaller stream" in str(error)


# --- newest frame -----------------------------------------------------------------------------------------------------


PERIOD_MS = 87.0


class Work:
    """A stream whose frames take given times, in milliseconds, to come and to be decoded, on clocks of its own.

    The first frame is always passed over, and isn't among them.
    """

    def __init__(self, *frames_ms: tuple[float, float], period_ms: float = PERIOD_MS) -> None:
        self.clock = ManualClock()
        self.awake_ns = 0
        self.number = 0
        self.frames_ms = iter([(0.0, 7.0), *frames_ms])
        self.newest = NewestFrame(self.grab, lambda: self.number * period_ms / 1e3, self.clock.now_ns, lambda: self.awake_ns)

    def grab(self) -> bool:
        times_ms = next(self.frames_ms, None)
        if times_ms is None:
            return False
        self.number += 1
        self.clock.sleep(sum(times_ms) / 1e3)
        self.awake_ns += round(times_ms[1] * 1e6)
        return True


def test_frame_that_was_waited_for_is_new_and_stamped_before_it_was_decoded() -> None:
    work = Work((80, 7), (90, 7))
    started_ns = work.clock.now_ns()
    assert work.newest.grab() == 1
    assert work.newest.arrived_ns == started_ns + (7 + 80) * 1_000_000
    assert work.newest.grab() == 0
    assert work.newest.arrived_ns == started_ns + (7 + 80 + 7 + 90) * 1_000_000
    assert work.newest.behind_s == 0


@pytest.mark.parametrize("lock_ms", [0.0, 5.0])
def test_what_came_while_the_stream_was_opened_is_passed_over(lock_ms: float) -> None:
    work = Work(*[(lock_ms, 7)] * 28, (30, 7))
    assert work.newest.grab() == 29
    assert work.clock.now_ns() - work.newest.arrived_ns == 7_000_000


def test_one_frame_that_lay_ready_is_given_and_more_are_passed_over() -> None:
    work = Work((80, 7), (0, 7), (80, 7), (0, 7), (0, 7), (0, 7), (40, 7))
    assert work.newest.grab() == 1
    ended_ns = work.clock.now_ns()
    assert work.newest.grab() == 0
    # It may have come at any time since the last call.
    assert work.newest.arrived_ns == ended_ns
    assert [work.newest.grab(), work.newest.grab(), work.newest.grab()] == [0, 0, 2]
    assert work.newest.grab() is None


@pytest.mark.parametrize("period_ms", [0.0, 1000.0], ids=["no clock", "a clock that runs too fast"])
def test_stream_whose_clock_is_wrong_is_still_read(period_ms: float) -> None:
    work = Work(*[(26, 7)] * 5, period_ms=period_ms)
    assert [work.newest.grab() for _ in range(5)] == [1, 0, 0, 0, 0]
    assert work.newest.behind_s == 0


def test_board_that_never_catches_up_still_gets_frames_and_knows_how_long() -> None:
    work = Work((80, 7), *[(0, 50)] * (MAX_SKIPPED + 2))
    assert [work.newest.grab(), work.newest.grab(), work.newest.grab()] == [1, 0, MAX_SKIPPED]
    assert work.newest.behind_s == pytest.approx(0.05 * (MAX_SKIPPED + 2))


def test_time_on_a_run_queue_is_no_sleep(tmp_path: Path) -> None:
    task = tmp_path / f"proc/self/task/{threading.get_native_id()}"
    task.mkdir(parents=True)
    (task / "schedstat").write_text("2000 5000000000 7\n")
    counted, plain = ThreadTime(tmp_path), ThreadTime(tmp_path / "none")
    assert 0 < plain.awake_ns() < counted.awake_ns() - 4_000_000_000
    before_ns = ThreadTime().awake_ns()
    time.sleep(0.05)
    assert ThreadTime().awake_ns() - before_ns < 40_000_000


# --- why it can't be opened -------------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[int, list[str]]]:
    """A server that answers one connection after another; gives its port, and what it was asked."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    asked.append(connection.recv(4096).decode("latin-1"))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join(SLOW_S)


def status(code: int, *headers: str) -> bytes:
    return "\r\n".join([f"RTSP/1.0 {code} Whatever", "CSeq: 1", *headers, "", ""]).encode()


def explain(port: int, login: str = "") -> SourceError:
    error = explain_failure(parse_address("rtsp", f"//{login}127.0.0.1:{port}/x?token={CANARY}"), timeout_s=SLOW_S)
    assert CANARY not in str(error)
    return error


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(200), "format"),
        (status(401), "unauthorised"),
        (status(403), "unauthorised"),
        (status(404), "missing"),
        (status(454), "refused"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "format"),
        (b"", "format"),
        (b"\x00\xff" * 20000, "format"),
    ],
)
def test_cameras_answer_names_the_trouble(answer: bytes, reason: str) -> None:
    with answering(answer) as (port, asked):
        assert explain(port).reason == reason
    assert asked[0].startswith(f"DESCRIBE rtsp://127.0.0.1:{port}/x?token={CANARY} RTSP/1.0\r\nCSeq: 1\r\n")


def test_password_is_tried_before_it_is_blamed() -> None:
    challenge = 'WWW-Authenticate: Basic realm="house"'
    with answering(status(401, challenge), status(404)) as (port, asked):
        assert explain(port, f"me:{CANARY}@").reason == "missing"
    assert base64.b64encode(f"me:{CANARY}".encode()).decode() in asked[1]
    with answering(status(401, challenge), status(401, challenge)) as (port, _):
        assert "rejects this user or password" in str(explain(port, f"me:{CANARY}@"))
    with answering(status(401, challenge)) as (port, _):
        assert "requires a user and a password" in str(explain(port))


def test_camera_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = parse_address("rtsp", f"//127.0.0.1:{silent.getsockname()[1]}/x")
        assert explain_failure(address, timeout_s=0.1).reason == "stalled"


def test_nobody_listens_as_ffmpeg_finds_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(GhostwattError) as caught:
        open_source(f"rtsp://me:{CANARY}@127.0.0.1:{port}/x")
    assert caught.value.reason == "unreachable"
    assert "Connection refused" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_unknown_host_and_no_tls() -> None:
    unknown = explain_failure(parse_address("rtsp", "//no-such-host.invalid/x"), timeout_s=SLOW_S)
    assert (unknown.reason, "the host's name is unknown" in str(unknown)) == ("unreachable", True)
    with answering(b"RTSP/1.0 400 Bad Request\r\n\r\n") as (port, _):
        plain = explain_failure(parse_address("rtsps", f"//127.0.0.1:{port}/x"), timeout_s=SLOW_S)
    assert (plain.reason, "no TLS" in str(plain)) == ("unreachable", True)
