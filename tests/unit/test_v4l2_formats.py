"""What V4L2 cameras list, and which mode is taken."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.sources.base import SourceOptions
from device.sources.v4l2 import node as kernel
from device.sources.v4l2.formats import (
    COSTS_NS,
    FrameSize,
    Mode,
    ModeRequest,
    PixelFormat,
    choose_mode,
    list_formats,
)
from device.sources.v4l2.listing import list_cameras
from tests.unit.fake_v4l2 import FakeDriver, FakeNode, fail, load_listing, make_tree

C920, MJPG_ONLY, VIVID = (load_listing(name).formats for name in ("c920", "mjpg-only", "vivid"))
ANY_SIZE = FrameSize(2592, 1944, (90.0, 1.0), is_any_rate=True, least_px=(32, 32), step_px=(2, 2))
STEPWISE = (PixelFormat("YU12", "Planar YUV 4:2:0", (ANY_SIZE,)), PixelFormat("MJPG", "Motion-JPEG", (ANY_SIZE,)))
UNLISTED = (PixelFormat("MJPG", "Motion-JPEG"), PixelFormat("YUYV", "YUYV 4:2:2"))


@pytest.mark.parametrize(
    ("formats", "wanted", "expected"),
    [
        # Enough of both: the cheap format.
        (C920, ModeRequest(640, 480, 30.0), Mode("YUYV", 640, 480, 30.0)),
        # The nearest rate that is enough.
        (C920, ModeRequest(640, 480, 12.0), Mode("YUYV", 640, 480, 15.0)),
        (C920, ModeRequest(640, 480, 7.5), Mode("YUYV", 640, 480, 7.5)),
        # Too much for USB 2 uncompressed.
        (C920, ModeRequest(1280, 720, 30.0), Mode("MJPG", 1280, 720, 30.0)),
        (C920, ModeRequest(1280, 720, 10.0), Mode("YUYV", 1280, 720, 10.0)),
        (C920, ModeRequest(1280, 720, 15.0), Mode("MJPG", 1280, 720, 15.0)),
        # 800x600 has 24 at most uncompressed; 640x480 is too small.
        (C920, ModeRequest(700, 500, 30.0), Mode("MJPG", 800, 600, 30.0)),
        # More than there is: the size goes before the rate.
        (C920, ModeRequest(4000, 3000, 30.0), Mode("YUYV", 2304, 1536, 2.0)),
        (C920, ModeRequest(1920, 1080, 60.0), Mode("MJPG", 1920, 1080, 30.0)),
        # What is insisted on.
        (C920, ModeRequest(640, 480, 30.0, "MJPG"), Mode("MJPG", 640, 480, 30.0)),
        (C920, ModeRequest(1280, 720, 30.0, "YUYV"), Mode("YUYV", 1280, 720, 10.0)),
        (C920, ModeRequest(640, 480, 30.0, "NV12"), None),
        (C920, ModeRequest(640, 480, 30.0, "H264"), None),
        (MJPG_ONLY, ModeRequest(640, 480, 30.0), Mode("MJPG", 640, 480, 30.0)),
        (MJPG_ONLY, ModeRequest(640, 480, 60.0), Mode("MJPG", 640, 480, 30.0)),
        (MJPG_ONLY, ModeRequest(641, 480, 25.0), Mode("MJPG", 1280, 720, 25.0)),
        (VIVID, ModeRequest(640, 360, 30.0), Mode("BGR3", 640, 360, 30.0)),
        (VIVID, ModeRequest(640, 480, 30.0), Mode("BGR3", 640, 480, 25.0)),
        (VIVID, ModeRequest(320, 180, 29.97), Mode("BGR3", 320, 180, 30.0)),
        (VIVID, ModeRequest(320, 180, 30.0, "GREY"), Mode("GREY", 320, 180, 30.0)),
        (STEPWISE, ModeRequest(640, 480, 30.0), Mode("YU12", 640, 480, 30.0)),
        (STEPWISE, ModeRequest(333, 241, 120.0), Mode("YU12", 334, 242, 90.0)),
        (STEPWISE, ModeRequest(16, 9999, 0.1), Mode("YU12", 32, 1944, 1.0)),
        # A driver that doesn't list its sizes is asked, and takes the nearest.
        (UNLISTED, ModeRequest(640, 480, 30.0), Mode("YUYV", 640, 480, 30.0)),
        ((), ModeRequest(640, 480, 30.0), None),
        ((PixelFormat("H264", "H.264"), PixelFormat("Y16", "16-bit Greyscale")), ModeRequest(640, 480, 30.0), None),
    ],
)
def test_cheapest_mode_that_satisfies_is_taken(
    formats: tuple[PixelFormat, ...], wanted: ModeRequest, expected: Mode | None
) -> None:
    assert choose_mode(formats, wanted) == expected


def test_pictures_without_colours_are_the_last_resort() -> None:
    grey = PixelFormat("GREY", "8-bit Greyscale", (FrameSize(640, 480, (30.0,)),))
    slow = PixelFormat("YUYV", "YUYV 4:2:2", (FrameSize(320, 240, (5.0,)),))
    assert choose_mode((grey, slow), ModeRequest(640, 480, 30.0)) == Mode("YUYV", 320, 240, 5.0)
    assert choose_mode((grey,), ModeRequest(640, 480, 30.0)) == Mode("GREY", 640, 480, 30.0)


def test_thirty_frames_a_second_are_also_those_of_ntsc() -> None:
    sizes = (FrameSize(640, 480, (60.0, 29.97)),)
    assert choose_mode((PixelFormat("YUYV", "", sizes),), ModeRequest(640, 480, 30.0)) == Mode("YUYV", 640, 480, 29.97)


def test_request_left_open_is_the_profiles_default() -> None:
    assert SourceOptions().requested_mode == (640, 480, 30.0)
    assert SourceOptions(width_px=1280, height_px=720, rate_fps=15.0).requested_mode == (1280, 720, 15.0)


rates = st.lists(st.sampled_from((5.0, 7.5, 10.0, 15.0, 24.0, 30.0, 60.0)), max_size=4, unique=True)
sizes = st.builds(
    FrameSize,
    st.integers(16, 4000),
    st.integers(16, 3000),
    rates.map(lambda values: tuple(sorted(values, reverse=True))),
)
formats = st.lists(
    st.builds(PixelFormat, st.sampled_from((*COSTS_NS, "H264")), st.just(""), st.lists(sizes, max_size=4).map(tuple)),
    max_size=4,
)
requests = st.builds(
    ModeRequest,
    st.integers(32, 4000),
    st.integers(32, 3000),
    st.floats(1.0, 120.0),
    st.none() | st.sampled_from(("YUYV", "MJPG")),
)


@given(formats, requests)
def test_choice_is_offered_and_nothing_offered_is_better(offered: list[PixelFormat], wanted: ModeRequest) -> None:
    mode = choose_mode(offered, wanted)
    usable = [entry for entry in offered if entry.fourcc in COSTS_NS and wanted.fourcc in (None, entry.fourcc)]
    assert (mode is None) == (not usable)
    if mode is None:
        return
    listed = [size for entry in usable if entry.fourcc == mode.fourcc for size in entry.sizes]
    same_size = [size for size in listed if (size.width_px, size.height_px) == mode[1:3]]
    if same_size:
        assert any(mode.rate_fps in size.rates_fps or not size.rates_fps for size in same_size)
    else:
        assert any(entry.fourcc == mode.fourcc and not entry.sizes for entry in usable)
        assert mode[1:] == wanted[:3]
    if mode.fourcc != "GREY":
        enough = [
            size
            for entry in usable
            for size in entry.sizes
            if entry.fourcc != "GREY" and size.width_px >= wanted.width_px and size.height_px >= wanted.height_px
            if not size.rates_fps or size.rates_fps[0] >= wanted.rate_fps
        ]
        if enough:
            assert mode.width_px >= wanted.width_px
            assert mode.height_px >= wanted.height_px
            assert mode.rate_fps >= wanted.rate_fps * 0.99
            assert mode.width_px * mode.height_px <= min(size.width_px * size.height_px for size in enough)


@given(formats, requests)
def test_order_of_a_listing_changes_nothing(offered: list[PixelFormat], wanted: ModeRequest) -> None:
    assert choose_mode(offered, wanted) == choose_mode(offered[::-1], wanted)


# --- enumerations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [C920, MJPG_ONLY, VIVID, STEPWISE, UNLISTED, ()])
def test_listing_is_read_by_the_drivers_calls(listed: tuple[PixelFormat, ...]) -> None:
    found = list_formats(FakeNode(FakeDriver(listed)))
    assert [entry.fourcc for entry in found] == [entry.fourcc for entry in listed]
    for entry, expected in zip(found, listed, strict=True):
        assert entry.description == expected.description
        for size, wanted in zip(entry.sizes, expected.sizes, strict=True):
            assert size.rates_fps == pytest.approx(wanted.rates_fps, rel=1e-5)
            assert msgspec.structs.replace(size, rates_fps=()) == msgspec.structs.replace(wanted, rates_fps=())


@pytest.mark.parametrize("call", [kernel.ENUM_FMT, kernel.ENUM_SIZES, kernel.ENUM_INTERVALS])
@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL, errno.ENODATA])
def test_driver_that_lacks_a_call_lists_less(call: kernel.Call, number: int) -> None:
    driver = FakeDriver(C920)
    driver.refuse[call.request] = number
    found = list_formats(FakeNode(driver))
    if call is kernel.ENUM_FMT:
        assert found == ()
    elif call is kernel.ENUM_SIZES:
        assert [entry.sizes for entry in found] == [(), (), ()]
    else:
        assert all(size.rates_fps == () for entry in found for size in entry.sizes)


def test_device_that_goes_away_is_no_empty_listing() -> None:
    driver = FakeDriver(C920)
    driver.is_gone = True
    with pytest.raises(OSError, match="No such device"):
        list_formats(FakeNode(driver))


def test_driver_that_never_ends_its_list_is_left() -> None:
    class Endless(FakeNode):
        def _enumerate_formats(self, index: int, *_: object) -> list[object]:
            return [index, 1, 0, b"junk", index]

    assert len(list_formats(Endless(FakeDriver(())))) == 256


@given(st.binary(min_size=4, max_size=4))
def test_any_format_number_has_a_name(raw: bytes) -> None:
    (number,) = struct.unpack("<I", raw)
    assert isinstance(kernel.fourcc(number), str)


@pytest.mark.parametrize("name", ["MJPG", "YUYV", "Y16", "GREY"])
def test_format_names_go_both_ways(name: str) -> None:
    assert kernel.fourcc(kernel.fourcc_number(name)) == name
    assert kernel.fourcc_number("YUYV") == 0x56595559


@pytest.mark.parametrize(
    ("call", "request_number"),
    [
        # As a C compiler computes them from linux/videodev2.h, on x86-64 and on aarch64.
        (kernel.QUERYCAP, 0x80685600),
        (kernel.ENUM_FMT, 0xC0405602),
        (kernel.GET_FORMAT, 0xC0D05604),
        (kernel.SET_FORMAT, 0xC0D05605),
        (kernel.REQUEST_BUFFERS, 0xC0145608),
        (kernel.QUERY_BUFFER, 0xC0585609),
        (kernel.QUEUE_BUFFER, 0xC058560F),
        (kernel.DEQUEUE_BUFFER, 0xC0585611),
        (kernel.STREAM_ON, 0x40045612),
        (kernel.STREAM_OFF, 0x40045613),
        (kernel.GET_RATE, 0xC0CC5615),
        (kernel.SET_RATE, 0xC0CC5616),
        (kernel.ENUM_SIZES, 0xC02C564A),
        (kernel.ENUM_INTERVALS, 0xC034564B),
    ],
)
def test_calls_have_the_kernels_numbers(call: kernel.Call, request_number: int) -> None:
    assert call.request == request_number


# --- for people -------------------------------------------------------------------------------------------------------


def test_cameras_are_listed_with_what_they_offer(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {"node": "video0", "name": "HD Pro Webcam C920", "port": "1-1.2"},
        {"node": "video1", "name": "HD Pro Webcam C920", "port": "1-1.2", "index": "1"},
        {"node": "video2", "name": "Locked", "port": "1-1.3"},
        {"node": "video10", "name": "USB Camera", "port": "1-1.4"},
    )
    metadata = FakeDriver((), capabilities=kernel.CAN_STREAM)
    drivers = {"video0": FakeDriver(C920), "video1": metadata, "video10": FakeDriver(MJPG_ONLY)}

    def open_node(path: Path) -> FakeNode:
        if path.name not in drivers:
            raise fail(errno.EACCES)
        return drivers[path.name].open(path)

    cameras = list_cameras(tmp_path, open_node)
    assert [Path(camera.path).name for camera in cameras] == ["video0", "video2", "video10"]
    assert [camera.name for camera in cameras] == ["HD Pro Webcam C920", "Locked", "USB Camera"]
    assert [camera.problem for camera in cameras] == ["", "Permission denied", ""]
    assert [camera.reason for camera in cameras] == ["", "permission", ""]
    assert cameras[0].driver == "uvcvideo"
    assert cameras[0].bus == "usb-0000:01:00.0-1.2"
    assert len(cameras[0].formats) == 3
    assert all(node.is_closed for driver in drivers.values() for node in driver.nodes)


def test_machine_without_cameras_lists_none(tmp_path: Path) -> None:
    assert list_cameras(tmp_path) == ()


def test_listing_survives_json() -> None:
    camera = load_listing("c920")
    assert msgspec.json.decode(msgspec.json.encode(camera), type=type(camera)) == camera
