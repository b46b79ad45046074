"""What every frame source must do: files, what is drawn, and each kind of camera over a fake of its lowest layer."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from device.core.clock import ManualClock, SystemClock
from device.core.errors import SourceError
from device.protocols import Clock, Frame, FrameSource, Image, Interruption
from device.sources.base import SourceOptions
from device.sources.registry import SOURCES
from device.sources.supervisor import RetryPolicy, SupervisedSource
from device.sources.uri import make_opener
from tests.unit import fake_mjpeg, fake_opencv, fake_picamera2
from tests.unit.certificates import make_certificate
from tests.unit.fake_v4l2 import FakeDriver, Shot, make_tree, wait_until

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
YELLOW = (255, 255, 0)
COLOURS = (RED, GREEN, BLUE)
TIMEOUT_S = 5.0
SOON_S = 0.05
LIMIT_S = 20.0
MANY = 1000
TAKEN = 10
"""Frames to read of what has no end: more than any camera here has buffers."""

Spot = tuple[int, int, tuple[int, int, int]]


class Bench(NamedTuple):
    """What a case is made with: a folder, changes that are undone after the test, and what is to be ended after it."""

    folder: Path
    patch: pytest.MonkeyPatch
    stack: contextlib.ExitStack


class Rig(NamedTuple):
    """What a test does to a camera, and asks of it.

    Attributes:
        is_held: whether anyone has it open.
        stall: no frame comes any more.
        mend: undoes ``stall`` and ``garble``.
        unplug: for ever.
        garble: each frame is damaged; None where none can be.
    """

    is_held: Callable[[], bool]
    stall: Callable[[], None]
    mend: Callable[[], None]
    unplug: Callable[[], None]
    garble: Callable[[], None] | None = None


class Case(NamedTuple):
    """A source, and pixels whose colour is known.

    Attributes:
        uri: without credentials.
        open: opens it with the case's clock.
        spots: of the frame with an index.
        clock: its own.
        frames: from the first to the end; None for a camera.
        rate_fps: that it promises, where it is live.
        rig: of a camera.
    """

    uri: str
    open: Callable[[], FrameSource]
    spots: Callable[[int], list[Spot]]
    clock: Clock
    frames: int | None = None
    is_live: bool = False
    rate_fps: float | None = None
    rig: Rig | None = None


Maker = Callable[[Bench], Case]


# --- files, and what is drawn -----------------------------------------------------------------------------------------


def stored(uri: str, frames: int, spots: Callable[[int], list[Spot]], rate_fps: float | None = None) -> Case:
    """A source that ends; with a rate, it is live."""
    clock = ManualClock()
    opener = make_opener(uri, SourceOptions(clock=clock, realtime=rate_fps is not None, rate_fps=rate_fps))
    return Case(uri, opener, spots, clock, frames, rate_fps is not None, rate_fps)


def make_images(bench: Bench, rate_fps: float | None = None) -> Case:
    need_opencv()
    from device.image.opencv import encode_image

    photos = bench.folder / "photos"
    (photos / "deeper").mkdir(parents=True)
    for name, colour in zip(("a.png", "b.jpg", "deeper/c.PNG"), COLOURS, strict=True):
        encode_image(photos / name, np.full((40, 60, 3), colour, np.uint8))
    return stored(f"images:{photos}", 3, lambda index: [(20, 30, COLOURS[index])], rate_fps)


def make_video(bench: Bench, rate_fps: float | None = None) -> Case:
    cv2 = need_opencv()
    path = bench.folder / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV can't write MJPEG")
    for index in range(6):
        writer.write(np.full((48, 64, 3), COLOURS[index % 3][::-1], np.uint8))
    writer.release()
    return stored(f"video:{path}", 6, lambda index: [(24, 32, COLOURS[index % 3])], rate_fps)


def bars(index: int) -> list[Spot]:
    return [(47, 4, RED), (47, 12, GREEN), (47, 20, BLUE)]


def make_synthetic(bench: Bench, rate_fps: float | None = None) -> Case:
    rate = f"@{rate_fps:g}" if rate_fps else ""
    return stored(f"synthetic:64x48{rate}#6", 6, bars, rate_fps)


def make_supervised(bench: Bench) -> Case:
    case = make_synthetic(bench, 30.0)

    def supervise() -> FrameSource:
        return SupervisedSource(case.open(), case.open, RetryPolicy(), clock=case.clock, on_interruption=unexpected)

    return case._replace(open=supervise)


def unexpected(interruption: Interruption) -> None:
    """What a source that is well has no reason to say."""
    raise AssertionError(interruption)


# --- cameras ----------------------------------------------------------------------------------------------------------

WIDTH_PX, HEIGHT_PX = 128, 96


def quadrants() -> Image:
    """Red and green above, blue and yellow below."""
    image = np.empty((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    for number, colour in enumerate((*COLOURS, YELLOW)):
        down, across = divmod(number, 2)
        image[down * HEIGHT_PX // 2 :, across * WIDTH_PX // 2 :] = colour
    return image


def middles(index: int) -> list[Spot]:
    """Of the four `quadrants`; in every frame the same."""
    rows, columns = (HEIGHT_PX // 4, HEIGHT_PX * 3 // 4), (WIDTH_PX // 4, WIDTH_PX * 3 // 4)
    places = [(row, column) for row in rows for column in columns]
    return [(*place, colour) for place, colour in zip(places, (*COLOURS, YELLOW), strict=True)]


def camera(uri: str, opener: Callable[[], FrameSource], rig: Rig, rate_fps: float | None) -> Case:
    """A camera that sees `quadrants`."""
    return Case(uri, opener, middles, SystemClock(), is_live=True, rate_fps=rate_fps, rig=rig)


def need_opencv() -> Any:
    return pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")


def jpeg() -> bytes:
    cv2 = need_opencv()
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(quadrants()[..., ::-1]))[1])


def yuyv() -> bytes:
    """`quadrants` by the luma and chroma that broadcasting's tables give its colours."""
    ycc = [colour.ycc for colour in fake_picamera2.COLOURS[:4]]
    rows = [b"".join(bytes((y, cb, y, cr)) * (WIDTH_PX // 4) for y, cb, cr in ycc[first : first + 2]) for first in (0, 2)]
    return b"".join(row * (HEIGHT_PX // 2) for row in rows)


def make_v4l2(fourcc: str, picture: Callable[[], bytes], garbled: Callable[[bytes], bytes]) -> Maker:
    def make(bench: Bench) -> Case:
        need_opencv()
        from device.sources.v4l2.formats import FrameSize, PixelFormat

        driver = FakeDriver((PixelFormat(fourcc, fourcc, (FrameSize(WIDTH_PX, HEIGHT_PX, (30.0,)),)),))
        make_tree(bench.folder, {"node": "video0", "name": "HD Webcam", "port": "1-1.2"})
        data = picture()

        def shoot(*pictures: bytes) -> None:
            driver.shoot = lambda wait: [Shot(picture) for picture in pictures]

        shoot(data)
        rig = Rig(
            is_held=lambda: not all(node.is_closed for node in driver.nodes),
            stall=shoot,
            mend=lambda: shoot(data),
            unplug=lambda: setattr(driver, "is_gone", True),
            garble=lambda: shoot(garbled(data)),
        )
        options = SourceOptions(width_px=WIDTH_PX, height_px=HEIGHT_PX)
        opener = SOURCES.load("v4l2").opener("0", options, root=bench.folder, open_node=driver.open)
        return camera("v4l2:0", opener, rig, 30.0)

    return make


def make_picamera2(platform: str) -> Maker:
    def make(bench: Bench) -> Case:
        hardware = bench.stack.enter_context(fake_picamera2.plugged_in(bench.patch))
        hardware.platform = platform
        rig = Rig(
            is_held=lambda: hardware.held is not None,
            stall=lambda: setattr(hardware, "is_delivering", False),
            mend=lambda: setattr(hardware, "is_delivering", True),
            unplug=lambda: setattr(hardware, "read_error", RuntimeError("the camera's frontend has timed out")),
        )
        options = SourceOptions(width_px=WIDTH_PX, height_px=HEIGHT_PX, rate_fps=25.0)
        return camera("picamera2:0", make_opener("picamera2:0", options), rig, 25.0)

    return make


def make_rtsp(scheme: str) -> Maker:
    def make(bench: Bench) -> Case:
        cv2 = need_opencv()
        stream = fake_opencv.Stream(quadrants())
        bench.patch.setattr(cv2, "VideoCapture", stream.capture)

        def mend() -> None:
            stream.is_garbled = False
            stream.delivers.set()

        # A thread that waits for a frame isn't ended by anything else.
        bench.stack.callback(mend)
        rig = Rig(
            is_held=lambda: bool(stream.held),
            stall=stream.delivers.clear,
            mend=mend,
            unplug=lambda: setattr(stream, "is_gone", True),
            garble=lambda: setattr(stream, "is_garbled", True),
        )
        uri = f"{scheme}://camera/stream"
        return camera(uri, make_opener(f"{scheme}://me:secret@camera/stream"), rig, fake_opencv.RATE_FPS)

    return make


class MjpegScene:
    """What an MJPEG camera sends, one part after another, to each who asks."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.has_ended = threading.Event()
        self.delivers = True
        self.viewers = 0

    def answer(self, request: Any) -> None:
        self.viewers += 1
        try:
            request.send_stream([])
            while not self.has_ended.wait(1.0 / fake_opencv.RATE_FPS):
                if self.delivers:
                    request.wfile.write(fake_mjpeg.part(self.body))
        finally:
            self.viewers -= 1


def make_mjpeg(certify: Callable[[Bench], Path] | None = None) -> Maker:
    def make(bench: Bench) -> Case:
        good = jpeg()
        scene = MjpegScene(good)
        server = bench.stack.enter_context(fake_mjpeg.running(certify(bench) if certify else None))
        server.answer = scene.answer
        bench.stack.callback(scene.has_ended.set)

        def show(body: bytes, *, delivers: bool = True) -> None:
            scene.body, scene.delivers = body, delivers

        rig = Rig(
            is_held=lambda: scene.viewers > 0,
            stall=lambda: show(good, delivers=False),
            mend=lambda: show(good),
            unplug=scene.has_ended.set,
            garble=lambda: show(good[:-40]),
        )
        return camera(server.uri(), make_opener(server.uri(login="me:secret@")), rig, None)

    return make


def certify(bench: Bench) -> Path:
    certificate = make_certificate(bench.folder)
    bench.patch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


CAMERAS: dict[str, Maker] = {
    "v4l2-yuyv": make_v4l2("YUYV", yuyv, lambda data: data[:-40]),
    "v4l2-mjpg": make_v4l2("MJPG", jpeg, lambda data: data[:-40]),
    "picamera2-vc4": make_picamera2("VC4"),
    "picamera2-pisp": make_picamera2("PISP"),
    "rtsp": make_rtsp("rtsp"),
    "rtsps": make_rtsp("rtsps"),
    "http": make_mjpeg(),
    "https": make_mjpeg(certify),
}

WITHOUT_DAMAGE = {"picamera2-vc4", "picamera2-pisp"}
"""Of the cameras: a frame comes whole or not at all."""

STORED: dict[str, Maker] = {
    "images": make_images,
    "images-realtime": lambda bench: make_images(bench, 10.0),
    "video": make_video,
    "video-realtime": lambda bench: make_video(bench, 10.0),
    "synthetic": make_synthetic,
    "synthetic-live": lambda bench: make_synthetic(bench, 30.0),
    "synthetic-supervised": make_supervised,
}

MAKERS = STORED | CAMERAS
"""By the kind and, behind a hyphen, what differs."""


def test_every_source_of_the_registry_is_here() -> None:
    assert {name.partition("-")[0] for name in MAKERS} == set(SOURCES.own_names())


BARE = """
import sys
for package in ("cv2", "picamera2", "libcamera"):
    sys.modules[package] = None
from device.contract import Camera
from device.sources.base import BaseSource
from device.sources.registry import SOURCES
from device.sources.uri import option_structs
for kind in SOURCES.own_names():
    source = SOURCES.load(kind)
    assert issubclass(source, BaseSource), kind
    assert source.summary(), kind
    print(kind, source.is_live, source.is_recorded, *source.needs.devices, *["network"] * source.needs.is_networked)
# Every kind's options have a key in the profile.
assert Camera(uri="x").own_options.keys() == option_structs().keys()
"""


def test_every_source_declares_itself_on_the_base_install() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
    declared = {kind: rest for kind, *rest in map(str.split, done.stdout.splitlines())}
    assert {kind for kind, (is_live, *_) in declared.items() if is_live == "True"} == {
        name.partition("-")[0] for name in CAMERAS
    }
    assert {kind for kind, (_, is_recorded, *_) in declared.items() if is_recorded == "True"} == {"images", "video"}
    assert {kind for kind, rest in declared.items() if "network" in rest} == {"http", "https", "rtsp", "rtsps"}
    assert {kind for kind, rest in declared.items() if "char-video4linux" in rest} == {"v4l2", "picamera2"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        yield Bench(tmp_path, monkeypatch, stack)


@pytest.fixture(params=sorted(MAKERS))
def case(request: pytest.FixtureRequest, bench: Bench) -> Case:
    made = MAKERS[request.param](bench)
    assert made.uri.partition(":")[0] == request.param.partition("-")[0]
    return made


@pytest.fixture(params=sorted(STORED))
def ending(request: pytest.FixtureRequest, bench: Bench) -> Iterator[FrameSource]:
    """A source that has an end."""
    with STORED[request.param](bench).open() as source:
        yield source


@pytest.fixture
def source(case: Case) -> Iterator[FrameSource]:
    with case.open() as source:
        yield source


@pytest.fixture(params=sorted(CAMERAS))
def seen(request: pytest.FixtureRequest, bench: Bench) -> Iterator[tuple[FrameSource, Rig]]:
    """An open camera that gave a frame, and what may become of it."""
    made = CAMERAS[request.param](bench)
    assert made.rig is not None
    assert (made.rig.garble is None) == (request.param in WITHOUT_DAMAGE)
    with made.open() as source:
        assert source.read(TIMEOUT_S) is not None
        yield source, made.rig


def read_some(source: FrameSource) -> list[Frame]:
    """Reads up to the end, or `TAKEN` frames."""
    frames: list[Frame] = []
    while len(frames) < TAKEN and (frame := source.read(TIMEOUT_S)) is not None:
        frames.append(frame)
    return frames


def tell(source: FrameSource, timeout_s: float, reasons: list[str]) -> None:
    """Reads until an error comes, and notes its reason."""
    try:
        while True:
            source.read(timeout_s)
    except SourceError as error:
        reasons.append(error.reason)


def read_until_told(source: FrameSource, timeout_s: float) -> str | None:
    """Reads until an error comes, in a thread that may hang; gives its reason, or None where none comes."""
    reasons: list[str] = []
    reader = threading.Thread(target=tell, args=(source, timeout_s, reasons), daemon=True)
    reader.start()
    reader.join(LIMIT_S)
    return reasons[0] if reasons else None


def read_through(source: FrameSource, reason: str) -> Frame | None:
    """Reads a frame; passes over those errors that have a reason."""
    for _ in range(MANY):
        try:
            return source.read(TIMEOUT_S)
        except SourceError as error:
            if error.reason != reason:
                raise
    return None


def test_spec_says_what_was_asked_for(source: FrameSource, case: Case) -> None:
    before = source.spec
    read_some(source)
    assert source.spec == before
    assert (source.spec.uri, source.spec.is_live, source.spec.rate_fps) == (case.uri, case.is_live, case.rate_fps)


def test_frames_are_contiguous_rgb_bytes(source: FrameSource) -> None:
    for frame in read_some(source):
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3
        assert frame.pixels.shape[2] == 3
        assert frame.pixels.flags.c_contiguous
        assert frame.pixels.flags.writeable


def test_channels_are_in_order_red_green_blue(source: FrameSource, case: Case) -> None:
    for frame in read_some(source):
        for row, column, colour in case.spots(frame.index):
            # JPEG is off by a few levels; swapped channels are off by 255.
            assert np.abs(frame.pixels[row, column].astype(int) - colour).max() < 10


def test_frames_come_in_order_to_the_end(source: FrameSource, case: Case) -> None:
    frames = read_some(source)
    indices = [frame.index for frame in frames]
    if case.frames is None:
        # What a camera gives while nobody reads is dropped, and counted.
        assert len(indices) == TAKEN
        assert indices == sorted(set(indices))
    else:
        assert indices == list(range(case.frames))
    times = [frame.timestamp_ns for frame in frames]
    assert times == sorted(times)
    assert times[-1] <= case.clock.now_ns()


def test_end_of_stream_stays_the_end(ending: FrameSource) -> None:
    read_some(ending)
    assert ending.read(TIMEOUT_S) is None
    assert ending.read(TIMEOUT_S) is None


def test_a_frame_is_its_holders_own(source: FrameSource) -> None:
    first = source.read(TIMEOUT_S)
    assert first is not None
    kept = first.pixels.copy()
    rest = read_some(source)
    np.testing.assert_array_equal(first.pixels, kept)
    assert not any(np.shares_memory(first.pixels, frame.pixels) for frame in rest)


def test_what_a_holder_draws_is_in_no_later_frame(case: Case) -> None:
    def read_two(paint: bool) -> Frame:
        with case.open() as source:
            first, second = source.read(TIMEOUT_S), source.read(TIMEOUT_S)
            assert first is not None
            assert second is not None
            if paint:
                first.pixels[:] = 77
                second = source.read(TIMEOUT_S) or second
            else:
                second = source.read(TIMEOUT_S) or second
            return second

    np.testing.assert_array_equal(read_two(paint=True).pixels, read_two(paint=False).pixels)


def test_origin_names_the_file_and_is_empty_without_one(source: FrameSource, case: Case) -> None:
    kind, _, rest = case.uri.partition(":")
    for frame in read_some(source):
        if kind in ("images", "video"):
            assert Path(frame.origin).is_file()
            assert frame.origin.startswith(rest)
        else:
            assert not frame.origin


def test_close_may_be_called_twice(source: FrameSource) -> None:
    source.read(TIMEOUT_S)
    source.close()
    source.close()


def test_read_after_close_is_an_error(source: FrameSource) -> None:
    source.close()
    with pytest.raises(SourceError, match="close") as caught:
        source.read(TIMEOUT_S)
    assert caught.value.reason == "closed"


def test_close_from_another_thread(source: FrameSource) -> None:
    source.read(TIMEOUT_S)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(TIMEOUT_S)
    assert not closer.is_alive()
    with pytest.raises(SourceError):
        source.read(TIMEOUT_S)


def test_two_readings_are_the_same(case: Case) -> None:
    def read() -> list[Frame]:
        with case.open() as source:
            return read_some(source)

    for one, other in zip(read(), read(), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


# --- what becomes of cameras ------------------------------------------------------------------------------------------


def test_a_camera_that_stalls_is_told_and_read_on_when_it_delivers(seen: tuple[FrameSource, Rig]) -> None:
    source, rig = seen
    rig.stall()
    assert read_until_told(source, SOON_S) == "stalled"
    assert read_until_told(source, SOON_S) == "stalled"
    rig.mend()
    assert source.read(TIMEOUT_S) is not None


def test_a_reader_that_waits_is_freed_by_close(seen: tuple[FrameSource, Rig]) -> None:
    source, rig = seen
    rig.stall()
    reasons: list[str] = []
    reader = threading.Thread(target=tell, args=(source, 10 * LIMIT_S, reasons), daemon=True)
    reader.start()
    source.close()
    reader.join(LIMIT_S)
    assert reasons == ["closed"]


def test_a_camera_is_let_go_when_its_source_is_closed(seen: tuple[FrameSource, Rig]) -> None:
    source, rig = seen
    assert rig.is_held()
    source.close()
    wait_until(lambda: not rig.is_held())


@pytest.mark.parametrize("seen", sorted(set(CAMERAS) - WITHOUT_DAMAGE), indirect=True)
def test_a_damaged_frame_is_told_and_the_next_ones_are_read(seen: tuple[FrameSource, Rig]) -> None:
    source, rig = seen
    assert rig.garble is not None
    rig.garble()
    assert read_until_told(source, TIMEOUT_S) == "decode"
    rig.mend()
    assert read_through(source, "decode") is not None


def test_a_camera_that_is_gone_stays_gone(seen: tuple[FrameSource, Rig]) -> None:
    source, rig = seen
    rig.unplug()
    assert read_until_told(source, TIMEOUT_S) == "ended"
    with pytest.raises(SourceError) as caught:
        source.read(TIMEOUT_S)
    assert caught.value.reason == "ended"
