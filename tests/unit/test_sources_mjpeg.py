"""The MJPEG source over a server on loopback that does whatever a camera may do."""

from __future__ import annotations

import base64
import gc
import hashlib
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

import cv2

from device.contract import Preprocessing
from device.core.errors import GhostwattError, SourceError, UsageError
from device.protocols import Frame
from device.sources.base import SourceOptions
from device.sources.stream import mjpeg
from device.sources.uri import open_source
from tests.unit.certificates import make_certificate
from tests.unit.fake_mjpeg import STREAM, Camera, part, running
from tests.unit.tally import Tally

SLOW_S = 20.0
CANARY = "Kanarienvogel"


def jpeg(level: int, width_px: int = 32, height_px: int = 24) -> bytes:
    """A picture whose red is ``level``."""
    image = np.zeros((height_px, width_px, 3), np.uint8)
    image[..., 2] = level
    is_written, data = cv2.imencode(".jpg", image)
    assert is_written
    return bytes(data)


def noise_jpeg() -> bytes:
    """A picture of more than 64 KiB."""
    is_written, data = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8))
    assert is_written
    assert len(data) > 2**16
    return bytes(data)


@pytest.fixture
def camera() -> Iterator[Camera]:
    with running() as server:
        yield server


def fail_to_open(uri: str) -> GhostwattError:
    with pytest.raises(GhostwattError) as caught:
        open_source(uri)
    return caught.value


def read(source: Any) -> Frame:
    frame = source.read(SLOW_S)
    assert isinstance(frame, Frame)
    return frame


def level(frame: Frame) -> int:
    return int(frame.pixels[0, 0, 0])


def test_pictures_become_frames_in_rgb(camera: Camera) -> None:
    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(200))])
        camera.release.wait(SLOW_S)

    camera.answer = answer
    before_ns = time.monotonic_ns()
    with open_source(camera.uri(login=f"me:{CANARY}@")) as source:
        frame = read(source)
        assert source.spec.uri == camera.uri()
        assert source.spec.is_live
    assert frame.pixels.shape == (24, 32, 3)
    assert np.abs(frame.pixels[0, 0].astype(int) - (200, 0, 0)).max() < 10
    assert before_ns < frame.timestamp_ns < time.monotonic_ns()
    assert frame.index == 0


def test_of_pictures_that_came_together_the_last_is_taken(camera: Camera) -> None:
    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(20 * number)) for number in range(10)])
        camera.release.wait(SLOW_S)
        request.wfile.write(part(jpeg(250)))

    camera.answer = answer
    with open_source(camera.uri()) as source:
        frame = read(source)
        assert (frame.index, abs(level(frame) - 180) < 10) == (9, True)
        camera.release.set()
        frame = read(source)
        assert (frame.index, level(frame) > 240) == (10, True)


def test_pictures_before_the_end_are_not_lost(camera: Camera) -> None:
    camera.answer = lambda request: request.send_stream([part(jpeg(100)), part(jpeg(200))])
    with open_source(camera.uri()) as source:
        assert read(source).index == 1
        with pytest.raises(SourceError) as caught:
            source.read(SLOW_S)
        assert caught.value.reason == "ended"


def test_damaged_picture_is_told_and_the_next_one_read(camera: Camera) -> None:
    next_one = threading.Event()

    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(200)[:-40])])
        next_one.wait(SLOW_S)
        request.wfile.write(part(jpeg(200)))
        camera.release.wait(SLOW_S)

    camera.answer = answer
    with open_source(camera.uri()) as source:
        with pytest.raises(SourceError) as caught:
            source.read(SLOW_S)
        assert caught.value.reason == "decode"
        next_one.set()
        assert abs(level(read(source)) - 200) < 10


def test_pictures_passed_over_before_a_damaged_one_count(camera: Camera) -> None:
    next_one = threading.Event()

    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(20))] * 4 + [part(jpeg(200)[:-40])])
        next_one.wait(SLOW_S)
        request.wfile.write(part(jpeg(200)))
        camera.release.wait(SLOW_S)

    camera.answer = answer
    tally = Tally()
    with open_source(camera.uri()) as source:
        while tally.reason not in ("decode", "stalled"):
            tally.read(source, SLOW_S)
        next_one.set()
        while tally.total < 6 and tally.reason != "stalled":
            tally.read(source, SLOW_S)
    assert (tally.total, tally.damaged) == (6, 1)


def test_sound_between_pictures_is_left_out(camera: Camera) -> None:
    camera.answer = lambda request: request.send_stream([part(jpeg(200)), part(b"bleep", "audio/basic")])
    with open_source(camera.uri()) as source:
        assert read(source).index == 0


def test_big_pictures_are_decoded_no_larger_than_needed(camera: Camera) -> None:
    camera.answer = lambda request: request.send_stream([part(jpeg(200, 1280, 960))])
    wanted = Preprocessing(input_px=224, crop_fraction=0.875, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with open_source(camera.uri(), SourceOptions(preprocessing=wanted)) as source:
        assert read(source).pixels.shape == (480, 640, 3)


@pytest.mark.parametrize("kind", ["application/octet-stream", "multipart/x-mixed-replace", "multipart/mixed;boundary=--frame"])
def test_types_that_servers_get_wrong(camera: Camera, kind: str) -> None:
    camera.answer = lambda request: request.send_stream([part(jpeg(200))], kind)
    with open_source(camera.uri()) as source:
        assert read(source).pixels.shape == (24, 32, 3)


def test_chunked_stream(camera: Camera) -> None:
    def answer(request: Any) -> None:
        request.send(200, {"Content-Type": STREAM, "Transfer-Encoding": "chunked"})
        sent = part(jpeg(200)) + part(jpeg(100))
        for start in range(0, len(sent), 100):
            piece = sent[start : start + 100]
            request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")

    camera.answer = answer
    with open_source(camera.uri()) as source:
        frame = read(source)
        while frame.index < 1:
            frame = read(source)
        assert abs(level(frame) - 100) < 10


@pytest.mark.parametrize("is_chunked", [True, False])
def test_picture_that_is_whole_waits_for_no_other(camera: Camera, is_chunked: bool) -> None:
    def answer(request: Any) -> None:
        # Motion ends each chunk with its picture, and begins none before it has the next. The picture is larger than what
        # the HTTP client reads ahead, so that what follows it stays with the system.
        picture = part(noise_jpeg())
        if is_chunked:
            picture = f"{len(picture):x}\r\n".encode() + picture + b"\r\n"
        request.send(200, {"Content-Type": STREAM, **({"Transfer-Encoding": "chunked"} if is_chunked else {})})
        request.wfile.write(picture)
        camera.release.wait(SLOW_S)

    camera.answer = answer
    with open_source(camera.uri()) as source:
        assert read(source).index == 0
        assert not camera.release.is_set()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("image/jpeg", "a single picture"), ("text/html; charset=utf-8", "a web page"), ("video/mp4", "video/mp4")],
)
def test_answer_that_is_no_stream_is_told_and_the_stream_named(camera: Camera, kind: str, words: str) -> None:
    camera.answer = lambda request: request.send(200, {"Content-Type": kind}, b"x")
    error = fail_to_open(camera.uri("/"))
    assert error.reason == "format"
    assert words in str(error)
    assert "/video in Android's IP Webcam" in str(error)


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "unauthorised"), (403, "unauthorised"), (404, "missing"), (500, "refused"), (503, "refused")]
)
def test_status_that_refuses(camera: Camera, status: int, reason: str) -> None:
    camera.answer = lambda request: request.send(status, {}, CANARY.encode())
    error = fail_to_open(camera.uri(f"/video?token={CANARY}", login=f"me:{CANARY}@"))
    assert isinstance(error, SourceError)
    assert error.reason == reason
    assert CANARY not in str(error)


def asks_for(challenge: str, is_right: Callable[[str], bool]) -> Callable[[Any], None]:
    def answer(request: Any) -> None:
        if is_right(request.headers.get("Authorization", "")):
            request.send_stream([part(jpeg(200))])
        else:
            request.send(401, {"WWW-Authenticate": challenge, "Content-Length": "0"})

    return answer


def is_right_basic(sent: str) -> bool:
    return sent == "Basic " + base64.b64encode(f"me:{CANARY}/@".encode()).decode()


def is_right_digest(sent: str) -> bool:
    items = dict(item.strip().split("=", 1) for item in sent.removeprefix("Digest ").split(",") if "=" in item)
    items = {key: value.strip('"') for key, value in items.items()}

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    secret, asked = md5(f"me:house:{CANARY}/@"), md5(f"GET:{items.get('uri', '')}")
    middle = ":".join(items.get(key, "") for key in ("nonce", "nc", "cnonce", "qop"))
    return items.get("response") == md5(f"{secret}:{middle}:{asked}")


LOGINS = [
    ('Basic realm="house"', is_right_basic),
    ('Digest realm="house", nonce="abc", qop="auth", opaque="xyz"', is_right_digest),
]


@pytest.mark.parametrize(("challenge", "is_right"), LOGINS, ids=["basic", "digest"])
def test_login(camera: Camera, challenge: str, is_right: Callable[[str], bool]) -> None:
    camera.answer = asks_for(challenge, is_right)
    with open_source(camera.uri("/video?x=1", login=f"me:{CANARY}%2F%40@")) as source:
        assert read(source).index == 0
    assert fail_to_open(camera.uri(login="me:wrong@")).reason == "unauthorised"
    error = fail_to_open(camera.uri())
    assert "requires a user and a password" in str(error)


def test_login_with_letters_beyond_ascii(camera: Camera) -> None:
    # As RFC 7616 has it, and as curl does it: UTF-8.
    sent: list[bytes] = []

    def is_right(header: str) -> bool:
        sent.append(header.encode("latin-1"))
        return b'username="\xc3\xb6\xd0\x96"' in sent[-1] and b'realm="\xe5\xae\xb6"' in sent[-1]

    camera.answer = asks_for('Digest realm="\xe5\xae\xb6", nonce="abc"', is_right)
    with open_source(camera.uri("/video", login="%C3%B6%D0%96:%D0%96@")) as source:
        assert read(source).index == 0
    secret = hashlib.md5("ö\u0416:家:\u0416".encode()).hexdigest()
    request = hashlib.md5(b"GET:/video").hexdigest()
    assert hashlib.md5(f"{secret}:abc:{request}".encode()).hexdigest().encode() in sent[-1]


def test_login_of_another_kind_is_told(camera: Camera) -> None:
    camera.answer = lambda request: request.send(401, {"WWW-Authenticate": 'Negotiate realm="house"'})
    error = fail_to_open(camera.uri(login=f"me:{CANARY}@"))
    assert error.reason == "unauthorised"
    assert "unsupported kind of login" in str(error)


def test_login_from_netrc(camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {CANARY}/@\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    camera.answer = asks_for(*LOGINS[0])
    with open_source(camera.uri()) as source:
        assert read(source).index == 0


def test_redirection_is_followed_and_the_password_stays_with_its_host(camera: Camera) -> None:
    with running() as other:
        other.answer = asks_for(*LOGINS[0])
        camera.answer = lambda request: request.send(302, {"Location": other.uri(), "Content-Length": "0"})
        error = fail_to_open(camera.uri(login=f"me:{CANARY}%2F%40@"))
        assert error.reason == "unauthorised"
        assert "redirects to http://127.0.0.1, which requires" in error.found
        assert not any("Authorization" in headers for _, headers in other.requests)
        other.answer = lambda request: request.send_stream([part(jpeg(200))])
        with open_source(camera.uri()) as source:
            assert read(source).index == 0


@pytest.mark.parametrize(
    "place",
    [
        "/video", "ftp://127.0.0.1/x", "file:///etc/passwd", f"http://me:{CANARY}@127.0.0.1:1/",
        "http://camera..home/", "http://[camera/", "http://127.0.0.1:http/",
    ],
)  # fmt: skip
def test_redirection_to_nowhere_ends(camera: Camera, place: str) -> None:
    camera.answer = lambda request: request.send(302, {"Location": place, "Content-Length": "0"})
    error = fail_to_open(camera.uri())
    assert isinstance(error, SourceError)
    assert error.reason in ("refused", "unreachable")
    assert CANARY not in str(error)
    assert len(camera.requests) <= mjpeg.MAX_REDIRECTS + 2


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    error = fail_to_open(f"http://me:{CANARY}@127.0.0.1:{port}/video")
    assert error.reason == "unreachable"
    assert "Connection refused" in str(error)
    assert CANARY not in str(error)


def test_unknown_host() -> None:
    error = fail_to_open(f"http://me:{CANARY}@no-such-host.invalid/video")
    assert error.reason == "unreachable"
    assert "the host's name is unknown" in str(error)


def test_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = fail_to_open(f"http://127.0.0.1:{silent.getsockname()[1]}/video")
    assert error.reason == "stalled"


def test_server_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        error = fail_to_open(f"http://127.0.0.1:{other.getsockname()[1]}/video")
    assert error.reason == "unreachable"


def test_stream_that_falls_silent(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "READ_TIMEOUT_S", 0.2)

    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(200))])
        camera.release.wait(SLOW_S)

    camera.answer = answer
    with open_source(camera.uri()) as source:
        read(source)
        with pytest.raises(SourceError) as caught:
            source.read(SLOW_S)
        assert caught.value.reason == "stalled"


def test_slow_stream_is_waited_for(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "ANSWER_TIMEOUT_S", 0.3)

    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(200))])
        time.sleep(0.6)
        request.wfile.write(part(jpeg(100)))

    camera.answer = answer
    with open_source(camera.uri()) as source:
        assert [read(source).index, read(source).index] == [0, 1]


def test_close_ends_the_thread_that_waits(camera: Camera) -> None:
    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(200))])
        camera.release.wait(SLOW_S)

    camera.answer = answer
    source = open_source(camera.uri("/closing"))
    read(source)
    started_s = time.monotonic()
    source.close()
    source.close()
    names = [thread.name for thread in threading.enumerate()]
    assert f"source {source.spec.uri}" not in names
    assert time.monotonic() - started_s < mjpeg.READ_TIMEOUT_S
    with pytest.raises(SourceError) as caught:
        source.read(SLOW_S)
    assert caught.value.reason == "closed"


@pytest.mark.parametrize("is_ended", [True, False])
def test_what_is_closed_is_free_at_once(camera: Camera, is_ended: bool) -> None:
    """Python's collector comes seldom: what waits for it piles up, a picture for each time that a camera is opened again."""

    def answer(request: Any) -> None:
        request.send_stream([part(jpeg(200))])
        camera.release.wait(0 if is_ended else SLOW_S)

    camera.answer = answer
    gc.collect()
    gc.disable()
    try:
        source = open_source(camera.uri())
        picture = weakref.ref(read(source).pixels)
        if is_ended:
            with pytest.raises(SourceError):
                read(source)
        source.close()
        closed = weakref.ref(source)
        del source
        assert closed() is None
        assert picture() is None
    finally:
        gc.enable()


def test_no_descriptor_is_left(camera: Camera) -> None:
    camera.answer = lambda request: request.send_stream([part(jpeg(200))])

    def count() -> int:
        return len([path for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and "socket" in str(path.readlink())])

    with open_source(camera.uri()) as source:
        read(source)
    before = count()
    for _ in range(5):
        with open_source(camera.uri()) as source:
            read(source)
        camera.requests.clear()
    deadline_s = time.monotonic() + SLOW_S
    while count() > before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert count() <= before


def test_thread_and_stall_name_no_secret(camera: Camera) -> None:
    camera.answer = lambda request: request.send_stream([part(jpeg(200))])
    with open_source(camera.uri(f"/video?token={CANARY}", login=f"{CANARY}:{CANARY}@")) as source:
        read(source)
        assert not any(CANARY in thread.name for thread in threading.enumerate())
        assert CANARY not in source.spec.uri
        with pytest.raises(SourceError) as caught:
            read(source)
        assert CANARY not in str(caught.value)
    assert camera.requests[0][0] == f"/video?token={CANARY}"


def test_fragment_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        open_source(f"http://camera/video#{CANARY}")
    assert CANARY not in str(caught.value)


def test_https_checks_the_certificate(camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    with running(certificate) as secure:
        secure.answer = lambda request: request.send_stream([part(jpeg(200))])
        error = fail_to_open(secure.uri())
        assert error.reason == "certificate"
        assert "SSL_CERT_FILE" in str(error)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with open_source(secure.uri()) as source:
            assert read(source).index == 0
        plain = fail_to_open(camera.uri(scheme="https"))
        assert "no TLS" in str(plain)
