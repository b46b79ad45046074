"""The V4L2 source over a driver that does whatever a driver may do."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

import cv2

from device.contract import Preprocessing
from device.core.clock import ManualClock
from device.core.errors import SourceError, UsageError
from device.protocols import Frame, FrameSource
from device.sources.base import SourceOptions
from device.sources.uri import make_opener
from device.sources.v4l2 import node as kernel
from device.sources.v4l2.capture import list_holders
from device.sources.v4l2.formats import FrameSize, PixelFormat
from device.sources.v4l2.source import V4l2Source
from tests.unit.fake_v4l2 import FakeDriver, FakeNode, Shot, fail, load_listing, make_tree, wait_until
from tests.unit.tally import Tally

FAST_S = 0.2
SLOW_S = 20.0
MANY = 1000
SMALL = (FrameSize(32, 16, (30.0,)),)
YUYV = (PixelFormat("YUYV", "YUYV 4:2:2", SMALL),)
MJPG = (PixelFormat("MJPG", "Motion-JPEG", SMALL),)
OPTIONS = SourceOptions(width_px=32, height_px=16)
GREY_YUYV = bytes([126, 128]) * (32 * 16)


def jpeg(width_px: int = 32, height_px: int = 16, colour: tuple[int, int, int] = (250, 128, 10)) -> bytes:
    image = np.full((height_px, width_px, 3), colour[::-1], np.uint8)
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


class Bench:
    """A machine with one camera, which is plugged in as ``video0``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.driver = FakeDriver(YUYV)
        self.driver.shoot = lambda wait: [Shot(GREY_YUYV)]
        self.others: dict[str, FakeDriver] = {}
        self.opened: list[str] = []
        self.plug({"node": "video0", "name": "HD Webcam", "port": "1-1.2"})

    def plug(self, *cameras: dict[str, str]) -> None:
        make_tree(self.root, *cameras)

    def open_node(self, path: Path) -> kernel.Node:
        if not path.exists():
            raise fail(errno.ENOENT)
        self.opened.append(path.name)
        return self.others.get(path.name, self.driver).open(path)

    def opener(self, rest: str = "0", options: SourceOptions = OPTIONS) -> Callable[[], V4l2Source]:
        return V4l2Source.opener(rest, options, root=self.root, open_node=self.open_node)

    def open(self, rest: str = "0", options: SourceOptions = OPTIONS) -> V4l2Source:
        return self.opener(rest, options)()

    def refuse(self, rest: str = "0", options: SourceOptions = OPTIONS) -> SourceError:
        with pytest.raises(SourceError) as caught:
            self.open(rest, options)
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def read(source: FrameSource) -> Frame:
    frame = source.read(SLOW_S)
    assert frame is not None
    return frame


def read_to_the_end(source: FrameSource, timeout_s: float) -> None:
    for _ in range(MANY):
        source.read(timeout_s)


def lose(source: FrameSource, timeout_s: float = SLOW_S) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_to_the_end(source, timeout_s)
    return caught.value


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_uncompressed_pictures_become_rgb(bench: Bench) -> None:
    with bench.open() as source:
        frame = read(source)
    assert frame.pixels.shape == (16, 32, 3)
    np.testing.assert_allclose(frame.pixels.astype(int), 128, atol=2)
    assert source.spec.uri == "v4l2:0"
    assert source.spec.rate_fps == 30.0


def test_padded_lines_are_read_by_their_length(bench: Bench) -> None:
    bench.driver.padding_bytes = 64
    line = bytes([126, 128]) * 32 + b"\xff" * 64
    bench.driver.shoot = lambda wait: [Shot(line * 16)]
    with bench.open() as source:
        np.testing.assert_allclose(read(source).pixels.astype(int), 128, atol=2)


def test_jpegs_become_rgb(bench: Bench) -> None:
    bench.driver.formats = MJPG
    bench.driver.shoot = lambda wait: [Shot(jpeg())]
    with bench.open() as source:
        np.testing.assert_allclose(read(source).pixels[8, 8].astype(int), (250, 128, 10), atol=6)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (None, (512, 640)),
        (Preprocessing(input_px=112, fit="crop", crop_fraction=0.875), (128, 160)),
        (Preprocessing(input_px=224, fit="crop", crop_fraction=0.875), (256, 320)),
        (Preprocessing(input_px=256, fit="crop", crop_fraction=0.875), (512, 640)),
    ],
)
def test_jpegs_are_decoded_as_small_as_the_network_allows(
    bench: Bench, spec: Preprocessing | None, shape: tuple[int, int]
) -> None:
    bench.driver.formats = (PixelFormat("MJPG", "Motion-JPEG", (FrameSize(640, 512, (30.0,)),)),)
    bench.driver.shoot = lambda wait: [Shot(jpeg(640, 512))]
    with bench.open(options=SourceOptions(width_px=640, height_px=512, preprocessing=spec)) as source:
        assert read(source).pixels.shape == (*shape, 3)


@pytest.mark.parametrize(
    ("formats", "good", "bad"),
    [
        (MJPG, Shot(jpeg()), Shot(jpeg()[:-40])),
        (MJPG, Shot(jpeg()), Shot(b"")),
        (YUYV, Shot(GREY_YUYV), Shot(GREY_YUYV[:-2])),
        (YUYV, Shot(GREY_YUYV), Shot(GREY_YUYV, flags=kernel.IS_DAMAGED | kernel.CLOCK_IS_MONOTONIC)),
    ],
)
def test_damaged_picture_is_noticed_and_read_on(bench: Bench, formats: tuple[PixelFormat, ...], good: Shot, bad: Shot) -> None:
    is_bad = threading.Event()
    is_bad.set()
    bench.driver.formats = formats
    bench.driver.shoot = lambda wait: [bad if is_bad.is_set() else good]
    with bench.open() as source:
        assert lose(source).reason == "decode"
        is_bad.clear()
        read_past_damage(source)


def read_past_damage(source: FrameSource) -> Frame:
    for _ in range(MANY):
        with contextlib.suppress(SourceError):
            return read(source)
    pytest.fail("no good frame after the damaged ones")


def test_damaged_pictures_are_not_dropped_ones_too(bench: Bench) -> None:
    # Of seven, the driver itself loses one, two are damaged, and two wait behind them and are passed over.
    script = [[Shot(GREY_YUYV)], [Shot(b"")], [], [Shot(b"", sequence=3)], [Shot(GREY_YUYV)] * 3]
    bench.driver.shoot = lambda wait: script[wait] if wait < len(script) else []
    tally = Tally()
    with bench.open() as source:
        while tally.total < 7 and tally.reason != "stalled":
            tally.read(source, SLOW_S)
    assert (tally.total, tally.damaged) == (7, 2)


def test_pictures_given_back_unseen_count_though_the_driver_does_not(bench: Bench) -> None:
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV, sequence=0)] * 3
    with bench.open() as source:
        assert all(read(source).index % 3 == 2 for _ in range(3))


def test_newest_of_several_that_wait_is_taken(bench: Bench) -> None:
    def shoot(wait: int) -> list[Shot]:
        # Three at once, as behind a pause; the last of them is bright.
        return [Shot(bytes([luma, 128]) * 512) for luma in (16, 16, 235)]

    bench.driver.shoot = shoot
    with bench.open() as source:
        frames = [read(source) for _ in range(3)]
    assert all(frame.pixels.min() > 250 for frame in frames)
    assert all(frame.index % 3 == 2 for frame in frames)


def test_pictures_that_the_driver_dropped_count(bench: Bench) -> None:
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV, sequence=10 * wait + 7)]
    with bench.open() as source:
        assert all(read(source).index % 10 == 7 for _ in range(3))


def test_driver_that_does_not_count_drops_nothing(bench: Bench) -> None:
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV, sequence=0)] if wait < 3 else []
    with bench.open() as source:
        wait_until(lambda: bench.driver.nodes[-1].waits >= 5)
        assert read(source).index == 2


def test_stamp_is_the_drivers(bench: Bench) -> None:
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV, age_s=1.0)]
    with bench.open() as source:
        assert 0.9e9 < time.monotonic_ns() - read(source).timestamp_ns < SLOW_S * 1e9


def test_stamp_that_is_not_monotonic_is_not_taken(bench: Bench) -> None:
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV, flags=0, age_s=4.0)]
    with bench.open() as source:
        before_ns = time.monotonic_ns()
        read(source)
        assert read(source).timestamp_ns >= before_ns


def test_stamp_of_a_driver_that_has_none_is_the_arrival_before_it_is_converted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(start_ns=10**12)

    def convert_slowly(*_: object, **__: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
        clock.advance(1.0)
        return np.zeros((16, 32, 3), np.uint8)

    monkeypatch.setattr("device.image.opencv.convert_raw", convert_slowly)
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV, flags=0)] if wait == 0 else []
    with bench.open(options=msgspec.structs.replace(OPTIONS, clock=clock)) as source:
        assert read(source).timestamp_ns == 10**12


# --- the mode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "options", "expected"),
    [
        ("0", SourceOptions(), ("YUYV", 640, 480, 30.0)),
        ("0", SourceOptions(width_px=1280, height_px=720, rate_fps=30.0), ("MJPG", 1280, 720, 30.0)),
        ("0", SourceOptions(width_px=1280, height_px=720, rate_fps=7.5), ("YUYV", 1280, 720, 7.5)),
        ("0#MJPG", SourceOptions(width_px=640, height_px=480, rate_fps=15.0), ("MJPG", 640, 480, 15.0)),
        ("0#mjpg", SourceOptions(width_px=640, height_px=480, rate_fps=15.0), ("MJPG", 640, 480, 15.0)),
    ],
)
def test_cheapest_mode_is_asked_for(
    bench: Bench, rest: str, options: SourceOptions, expected: tuple[str, int, int, float]
) -> None:
    bench.driver.formats = load_listing("c920").formats
    with bench.open(rest, options) as source:
        width_px, height_px, number = bench.driver.format
        numerator, denominator = bench.driver.interval
        assert (kernel.fourcc(number), width_px, height_px, denominator / numerator) == expected
        assert source.spec.rate_fps == expected[3]


def test_driver_that_lists_nothing_keeps_its_own_format(bench: Bench) -> None:
    bench.driver.formats = ()
    bench.driver.format = (32, 16, kernel.fourcc_number("YUYV"))
    with bench.open() as source:
        assert read(source).pixels.shape == (16, 32, 3)


@pytest.mark.parametrize("call", [kernel.GET_RATE, kernel.SET_RATE])
def test_driver_without_rates_promises_none(bench: Bench, call: kernel.Call) -> None:
    bench.driver.refuse[call.request] = errno.ENOTTY
    with bench.open() as source:
        assert source.spec.rate_fps is None
        read(source)


def test_rate_that_cannot_be_set_is_not_promised(bench: Bench) -> None:
    bench.driver.can_set_rate = False
    with bench.open() as source:
        assert source.spec.rate_fps is None


@pytest.mark.parametrize(
    ("rest", "formats", "words"),
    [
        ("0#NV12", YUYV, "has no NV12"),
        ("0#H264", YUYV, "H264 can't be read"),
        ("0", (PixelFormat("H264", "H.264", SMALL),), "has only H264"),
    ],
)
def test_format_that_cannot_be_had_is_an_error(bench: Bench, rest: str, formats: tuple[PixelFormat, ...], words: str) -> None:
    bench.driver.formats = formats
    error = bench.refuse(rest)
    assert error.reason == "format"
    assert words in error.found
    assert bench.driver.nodes[-1].is_closed


def test_format_of_a_driver_that_lists_nothing_must_be_readable(bench: Bench) -> None:
    bench.driver.formats = ()
    bench.driver.format = (32, 16, kernel.fourcc_number("BA10"))
    assert "BA10" in bench.refuse().found


def test_driver_that_gives_another_format_than_it_listed_is_an_error(bench: Bench) -> None:
    class Stubborn(FakeNode):
        def _set_format(self, *fields: int) -> list[int]:
            return [*super()._set_format(*fields)[:3], kernel.fourcc_number("UYVY")]

    bench.driver.open = lambda path: Stubborn(bench.driver)  # type: ignore[method-assign]
    error = bench.refuse()
    assert error.reason == "format"
    assert "UYVY" in error.found


# --- opening and losing -----------------------------------------------------------------------------------------------


def test_everything_is_let_go_of(bench: Bench) -> None:
    with bench.open() as source:
        read(source)
    (node,) = bench.driver.nodes
    assert node.is_closed
    assert not node.is_streaming
    assert all(memory.closed for memory in node.memory)
    assert len(node.memory) == 4


def test_every_buffer_goes_back_to_the_driver(bench: Bench) -> None:
    bench.driver.shoot = lambda wait: [Shot(GREY_YUYV), Shot(GREY_YUYV if wait % 2 else b"")]
    with bench.open():
        (node,) = bench.driver.nodes
        wait_until(lambda: node.waits >= 30)
    assert len(node.queued) + len(node.done) == 4


@pytest.mark.parametrize("is_there", [True, False])
def test_camera_that_is_pulled_out_ends(bench: Bench, is_there: bool) -> None:
    with bench.open() as source:
        read(source)
        if not is_there:
            bench.plug()
        bench.driver.is_gone = True
        error = lose(source)
    assert error.reason == "ended"
    assert error.found == ("the driver gave up (No such device)" if is_there else "the camera is gone")
    assert bench.driver.nodes[0].is_closed


def test_lost_signal_is_no_end(bench: Bench) -> None:
    bench.driver.refuse[kernel.DEQUEUE_BUFFER.request] = errno.EIO
    with bench.open() as source:
        assert lose(source, FAST_S).reason == "stalled"
        bench.driver.refuse.clear()
        read(source)


def test_node_that_may_not_be_opened_names_the_group(bench: Bench) -> None:
    def refuse(path: Path) -> kernel.Node:
        raise fail(errno.EACCES)

    bench.open_node = refuse  # type: ignore[method-assign]
    for rest in ("0", "name=HD Webcam"):
        error = bench.refuse(rest)
        assert error.reason == "permission"
        assert "group video" in error.expected


@pytest.mark.parametrize("call", [kernel.SET_FORMAT, kernel.REQUEST_BUFFERS, kernel.STREAM_ON])
def test_camera_that_is_busy_says_who_holds_it(bench: Bench, call: kernel.Call) -> None:
    bench.driver.refuse[call.request] = errno.EBUSY
    error = bench.refuse()
    assert error.reason == "busy"
    assert "fuser" in error.remedy
    process = bench.root / "proc" / "4321"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("motion\n")
    (process / "fd" / "7").symlink_to((bench.root / "dev/video0").resolve())
    assert bench.refuse().found == "motion (pid 4321) holds it"
    assert all(node.is_closed for node in bench.driver.nodes)


def test_camera_that_we_hold_ourselves_is_said_so(bench: Bench) -> None:
    bench.driver.refuse[kernel.STREAM_ON.request] = errno.EBUSY
    files = bench.root / "proc" / str(os.getpid()) / "fd"
    files.mkdir(parents=True)
    (files / "7").symlink_to((bench.root / "dev/video0").resolve())
    assert "this program holds it already" in bench.refuse().found


def test_holders_are_found_in_the_real_proc(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as file:
        assert list_holders(Path(file.name)) == [os.getpid()]
    assert list_holders(tmp_path / "held") == []


def test_usb_bus_without_room_says_what_to_ask_for(bench: Bench) -> None:
    bench.driver.refuse[kernel.STREAM_ON.request] = errno.ENOSPC
    error = bench.refuse()
    assert error.reason == "bandwidth"
    assert "YUYV at 32x16" in error.found
    assert "MJPG" in error.remedy


def test_device_that_is_no_camera_is_refused(bench: Bench) -> None:
    bench.driver.refuse[kernel.QUERYCAP.request] = errno.ENOTTY
    assert bench.refuse().reason == "missing"


@pytest.mark.parametrize("capabilities", [kernel.CAN_STREAM, kernel.CAN_CAPTURE, kernel.CAN_CAPTURE_PLANES | kernel.CAN_STREAM])
def test_node_that_gives_no_pictures_is_refused(bench: Bench, capabilities: int) -> None:
    bench.driver.capabilities = capabilities
    error = bench.refuse()
    assert error.reason == "missing"
    assert "HD Webcam" in error.found


def test_driver_that_hangs_hangs_nobody(bench: Bench) -> None:
    release = threading.Event()

    def hang(_: int) -> list[Shot]:
        release.wait(SLOW_S)
        return []

    bench.driver.shoot = hang
    with bench.open() as source:
        error = lose(source, FAST_S)
        assert error.reason == "stalled"
        assert "unplug" in error.remedy
        release.set()


# --- where it is ------------------------------------------------------------------------------------------------------

WEBCAM = {"node": "video0", "name": "HD Webcam", "port": "1-1.2"}
METADATA = {"node": "video1", "name": "HD Webcam", "port": "1-1.2", "index": "1"}
OTHER = {"node": "video2", "name": "USB Camera", "port": "1-1.3", "product": "1234"}


@pytest.fixture
def crowded(bench: Bench) -> Bench:
    bench.others["video1"] = FakeDriver((), capabilities=kernel.CAN_STREAM)
    bench.plug(WEBCAM, METADATA, OTHER)
    return bench


@pytest.mark.parametrize(
    ("rest", "node"),
    [
        ("0", "video0"),
        ("2", "video2"),
        ("/dev/video2", "video2"),
        ("/dev/v4l/by-id/webcam", "webcam"),
        ("name=HD Webcam", "video0"),
        ("name=usb", "video2"),
        ("name=Webcam#YUYV", "video0"),
    ],
)
def test_camera_is_found_by_path_number_or_name(crowded: Bench, rest: str, node: str) -> None:
    (crowded.root / "dev/v4l/by-id").mkdir(parents=True)
    (crowded.root / "dev/v4l/by-id/webcam").symlink_to("../../video0")
    with crowded.open(rest) as source:
        assert source.spec.uri == f"v4l2:{rest}"
    assert crowded.opened[-1] == node


def test_first_node_of_a_name_that_gives_pictures_is_taken(crowded: Bench) -> None:
    crowded.plug(METADATA, WEBCAM | {"node": "video3"})
    crowded.open("name=HD Webcam").close()
    assert crowded.opened[-1] == "video3"


@pytest.mark.parametrize("rest", ["name=a", "name=HD Webcam"])
def test_name_that_several_cameras_have_is_ambiguous(crowded: Bench, rest: str) -> None:
    crowded.plug(WEBCAM, METADATA, OTHER, {"node": "video3", "name": "HD Webcam", "port": "1-1.4"})
    error = crowded.refuse(rest)
    assert error.reason == "ambiguous"
    assert "at 1-1.2" in error.found
    assert "at 1-1.4" in error.found
    assert "video1" not in error.found


def test_exact_name_goes_before_a_part_of_one(crowded: Bench) -> None:
    crowded.plug(OTHER, {"node": "video3", "name": "USB Camera Pro", "port": "1-1.4"})
    crowded.open("name=USB Camera").close()
    assert crowded.opened[-1] == "video2"


@pytest.mark.parametrize(("rest", "words"), [("name=nothing", "no camera has this name"), ("9", "no such camera")])
def test_camera_that_is_not_there_says_which_are(crowded: Bench, rest: str, words: str) -> None:
    error = crowded.refuse(rest)
    assert error.reason == "missing"
    assert words in error.found
    assert "'HD Webcam' at 1-1.2" in error.remedy
    assert "'USB Camera' at 1-1.3" in error.remedy


def test_file_is_no_camera(bench: Bench) -> None:
    (bench.root / "dev/file").touch()
    assert bench.refuse("/dev/file").found == "not a device"


@pytest.mark.parametrize("rest", ["0", "/dev/video0", "name=HD Webcam"])
@pytest.mark.parametrize("port", ["1-1.2", "1-1.4"])
def test_camera_that_comes_back_under_another_number_is_found(bench: Bench, rest: str, port: str) -> None:
    opener = bench.opener(rest)
    opener().close()
    bench.plug(OTHER | {"node": "video0"}, WEBCAM | {"node": "video3", "port": port})
    opener().close()
    assert bench.opened[-1] == "video3"


def test_camera_that_is_gone_is_not_replaced_by_another(bench: Bench) -> None:
    opener = bench.opener("0")
    opener().close()
    bench.plug(OTHER | {"node": "video0"})
    with pytest.raises(SourceError, match="'HD Webcam' is gone") as caught:
        opener()
    assert caught.value.reason == "missing"
    assert "'USB Camera'" in caught.value.remedy


def test_twin_beside_it_is_not_taken_for_it(bench: Bench) -> None:
    twin = {"node": "video1", "name": "HD Webcam", "port": "1-1.3"}
    bench.plug(WEBCAM, twin)
    opener = bench.opener("0")
    opener().close()
    bench.plug(twin)
    with pytest.raises(SourceError, match="is gone"):
        opener()
    bench.plug(twin, WEBCAM | {"node": "video4", "port": "1-1.1"})
    opener().close()
    assert bench.opened[-1] == "video4"


def test_twin_that_is_plugged_in_later_is_not_taken_for_it(bench: Bench) -> None:
    opener = bench.opener("0")
    opener().close()
    bench.plug(WEBCAM | {"node": "video1", "port": "1-1.1"}, WEBCAM | {"node": "video2"})
    opener().close()
    assert bench.opened[-1] == "video2"


def test_serial_number_tells_twins_apart(bench: Bench) -> None:
    bench.plug(WEBCAM | {"serial": "A1"})
    opener = bench.opener("0")
    opener().close()
    bench.plug(WEBCAM | {"serial": "B2", "port": "1-1.1"}, WEBCAM | {"node": "video3", "serial": "A1", "port": "1-1.4"})
    opener().close()
    assert bench.opened[-1] == "video3"


@pytest.mark.parametrize("port", ["1-1.2", "1-1.4"])
def test_one_of_two_lenses_of_a_camera_is_found_again(bench: Bench, port: str) -> None:
    # As a RealSense has them: two functions of one USB device, alike but for the interface.
    depth, colour = WEBCAM, WEBCAM | {"node": "video4", "interface": "1.3"}
    bench.plug(depth, colour)
    opener = bench.opener("4")
    opener().close()
    bench.plug(depth | {"node": "video6", "port": port}, colour | {"node": "video8", "port": port})
    opener().close()
    assert bench.opened == ["video4", "video8"]


def test_two_that_may_be_it_are_ambiguous(bench: Bench) -> None:
    opener = bench.opener("0")
    opener().close()
    bench.plug(WEBCAM | {"port": "1-1.3"}, WEBCAM | {"node": "video1", "port": "1-1.4"})
    with pytest.raises(SourceError) as caught:
        opener()
    assert caught.value.reason == "ambiguous"


def test_name_takes_another_camera_of_that_name(bench: Bench) -> None:
    bench.plug(WEBCAM | {"serial": "A1"})
    opener = bench.opener("name=webcam")
    opener().close()
    bench.plug(WEBCAM | {"node": "video2", "serial": "B2"})
    opener().close()
    assert bench.opened[-1] == "video2"


def test_camera_that_sysfs_does_not_know_is_opened_by_its_path(bench: Bench) -> None:
    bench.plug()
    (bench.root / "dev/loop").symlink_to("/dev/null")
    opener = bench.opener("/dev/loop")
    for _ in range(2):
        opener().close()
    assert bench.opened == ["loop", "loop"]


@pytest.mark.parametrize("rest", ["", "video0", "#MJPG", "/dev/video0#MJPEG", "0/dev/video0", "-1", "name=", "1234", "/"])
def test_uri_that_names_no_camera_is_refused(rest: str) -> None:
    with pytest.raises(UsageError, match="v4l2:DEVICE") as caught:
        make_opener(f"v4l2:{rest}")
    assert caught.value.reason == "malformed_uri"


def test_real_nodes_that_are_no_cameras_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such camera"):
        make_opener(f"v4l2:{tmp_path / 'video9'}")()
    with pytest.raises(SourceError, match="can't be opened as a camera"):
        make_opener("v4l2:/dev/null")()
    with pytest.raises(SourceError, match="can't be opened as a camera"):
        V4l2Source.from_uri("/dev/null", OPTIONS)
