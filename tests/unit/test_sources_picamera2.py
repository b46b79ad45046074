"""The picamera2 source over a camera that does whatever cameras do."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import types
from collections.abc import Iterator
from random import Random
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[camera]'")

from device.contract import OwnOptions, Preprocessing
from device.core.errors import MissingDependencyError, ProfileError, SourceError
from device.image.opencv import convert_raw
from device.image.preprocess import fit_frame
from device.protocols import Frame, FrameSource, Image
from device.sources.base import SourceOptions
from device.sources.isp import (
    SensorMode,
    choose_mode,
    choose_stream_sizes,
    copy_rgb,
    copy_yuv420,
    yuv420_to_rgb,
)
from device.sources.picamera2 import Picamera2Options, to_monotonic_ns
from device.sources.uri import open_source

from .fake_picamera2 import COLOURS, PADDING, Hardware, plugged_in

CROP = Preprocessing(input_px=224, fit="crop", crop_fraction=0.875)

# Of a colour that went through 8-bit YUV and back.
YUV_ERROR = 4


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hardware]:
    with plugged_in(monkeypatch) as made:
        yield made


@pytest.fixture
def no_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cv2", "device.image.opencv"):
        monkeypatch.setitem(sys.modules, name, None)


def options(**wishes: object) -> SourceOptions:
    return SourceOptions(**{"rate_fps": 30.0, "preprocessing": CROP, **wishes})  # type: ignore[arg-type]


def own(asked: Picamera2Options) -> dict[str, OwnOptions]:
    """As a manifest holds it."""
    return {"picamera2": msgspec.to_builtins(asked)}


def read(source: FrameSource, timeout_s: float = 5.0) -> Frame:
    frame = source.read(timeout_s)
    assert frame is not None
    return frame


def read_for_ever(source: FrameSource, timeout_s: float) -> None:
    while True:
        source.read(timeout_s)


def one_frame(hardware: Hardware, **wishes: object) -> Image:
    with open_source("picamera2:0", options(**wishes)) as source:
        return read(source).pixels


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("platform", "error"), [("VC4", YUV_ERROR), ("PISP", 0)])
@pytest.mark.parametrize("extra_stride_bytes", [0, 64, 128])
@pytest.mark.parametrize("input_px", [224, 192, 100])
def test_colours_and_places_are_those_of_the_scene(
    hardware: Hardware, platform: str, error: int, extra_stride_bytes: int, input_px: int
) -> None:
    hardware.platform, hardware.extra_stride_bytes = platform, extra_stride_bytes
    pixels = one_frame(hardware, preprocessing=Preprocessing(input_px=input_px))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    scene = np.array([colour.rgb for colour in COLOURS])[hardware.paint((pixels.shape[1], pixels.shape[0]))]
    np.testing.assert_allclose(pixels, scene, rtol=0, atol=error)


@pytest.mark.parametrize(("platform", "error"), [("VC4", YUV_ERROR), ("PISP", 0)])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.usefixtures("no_opencv")
def test_a_frame_gets_to_the_network_without_opencv(
    hardware: Hardware, platform: str, error: int, fit: Literal["crop", "stretch"]
) -> None:
    hardware.platform = platform
    spec = Preprocessing(input_px=224, fit=fit, crop_fraction=0.875)
    frame = one_frame(hardware, preprocessing=spec)
    pixels = fit_frame(frame, spec)
    assert pixels.flags.c_contiguous
    edge_px = (frame.shape[0] - 224) // 2
    scene = hardware.paint((frame.shape[1], frame.shape[0]))[edge_px : edge_px + 224, edge_px : edge_px + 224]
    np.testing.assert_allclose(pixels, np.array([colour.rgb for colour in COLOURS])[scene], rtol=0, atol=error)


@given(st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_yuv_becomes_the_same_pixels_as_by_opencv(half_width: int, half_height: int, chance: Random) -> None:
    width, height = 2 * half_width, 2 * half_height
    planes = np.frombuffer(chance.randbytes(width * height * 3 // 2), np.uint8)
    expected = convert_raw(planes.data, "camera", fourcc="YU12", width_px=width, height_px=height)
    np.testing.assert_array_equal(yuv420_to_rgb(planes, (width, height)), expected)


@pytest.mark.parametrize("platform", ["VC4", "PISP"])
def test_frame_stays_as_it_was_when_the_camera_goes_on(hardware: Hardware, platform: str) -> None:
    hardware.platform = platform
    with open_source("picamera2:0", options()) as source:
        first = read(source)
        before = first.pixels.copy()
        while hardware.captured < 20:
            read(source)
    np.testing.assert_array_equal(first.pixels, before)


def test_every_buffer_goes_back_to_the_camera(hardware: Hardware) -> None:
    with open_source("picamera2:0", options()) as source:
        for _ in range(20):
            read(source)
        while (captured := hardware.captured) < 50:
            read(source)
        assert captured >= 50
    (camera,) = hardware.opened
    assert len(camera.free) == len(camera.buffers) == 4


@pytest.mark.parametrize("stride_bytes", [24, 64])
def test_rgb_copy_leaves_padding_out_and_shares_nothing(stride_bytes: int) -> None:
    rows = np.arange(4 * 24, dtype=np.uint8).reshape(4, 24)
    buffer = np.full(4 * stride_bytes + 100, PADDING, np.uint8)
    buffer[: 4 * stride_bytes].reshape(4, stride_bytes)[:, :24] = rows
    copied = copy_rgb(buffer, (8, 4), stride_bytes)
    buffer[:] = 0
    assert copied.shape == (4, 8, 3)
    np.testing.assert_array_equal(copied.reshape(4, 24), rows)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 20))
def test_yuv_copy_leaves_padding_out(half_width: int, half_height: int, half_padding: int) -> None:
    width, height, stride = 2 * half_width, 2 * half_height, 2 * (half_width + half_padding)
    luma = np.full((height, stride), PADDING, np.uint8)
    luma[:, :width] = 1
    chroma = np.full((2, half_height, stride // 2), PADDING, np.uint8)
    chroma[0, :, :half_width], chroma[1, :, :half_width] = 2, 3
    buffer = np.concatenate([luma.ravel(), chroma.ravel(), np.full(99, PADDING, np.uint8)])
    copied = copy_yuv420(buffer, (width, height), stride)
    expected = [1] * (width * height) + [2] * (half_width * half_height) + [3] * (half_width * half_height)
    assert copied.tolist() == expected


# --- geometry ---------------------------------------------------------------------------------------------------------

SENSORS = st.sampled_from([(3280, 2464), (4608, 2592), (2592, 1944), (1456, 1088), (1088, 1456), (64, 64)])
INPUTS = st.integers(32, 1024)


@given(SENSORS, INPUTS, st.sampled_from(["crop", "letterbox", "stretch"]), st.floats(0.2, 1.0))
def test_streams_are_legal_and_large_enough(sensor: tuple[int, int], input_px: int, fit: str, fraction: float) -> None:
    spec = Preprocessing(input_px=input_px, fit=fit, crop_fraction=fraction)  # type: ignore[arg-type]
    main, lores = choose_stream_sizes(spec, sensor)
    assert all(length % 2 == 0 for length in (*main, *lores))
    assert all(small <= large for small, large in zip(lores, main, strict=True))
    assert min(lores) >= 64
    if fit == "crop":
        assert main == lores
        assert lores[0] == lores[1]
        assert round(lores[0] * fraction) >= input_px
    elif fit == "letterbox":
        assert main == lores
        assert max(lores) >= input_px
        assert abs(lores[0] * sensor[1] - lores[1] * sensor[0]) <= max(sensor) * 2
    else:
        assert lores[0] == lores[1] >= input_px
        assert abs(main[0] * sensor[1] - main[1] * sensor[0]) <= max(sensor) * 2


@given(SENSORS, INPUTS, st.floats(0.2, 1.0))
def test_crop_is_the_smallest_that_needs_no_enlarging(sensor: tuple[int, int], input_px: int, fraction: float) -> None:
    (side, _) = choose_stream_sizes(Preprocessing(input_px=input_px, crop_fraction=fraction), sensor).lores_px
    assert side == 64 or side <= 128 or round((side - 2) * fraction) < input_px


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_network_sees_the_pixels_that_the_isp_made(fit: str) -> None:
    spec = Preprocessing(input_px=224, fit=fit)  # type: ignore[arg-type]
    width, height = choose_stream_sizes(spec, (3280, 2464)).lores_px
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    fitted = fit_frame(frame, spec)
    if fit == "crop":
        np.testing.assert_array_equal(fitted, frame[16:240, 16:240])
    elif fit == "letterbox":
        assert (width, height) == (224, 168)
        np.testing.assert_array_equal(fitted[28:196], frame)
    else:
        assert fitted is frame


def test_whole_picture_at_the_size_that_was_asked_for(hardware: Hardware) -> None:
    pixels = one_frame(hardware, preprocessing=None, width_px=320, height_px=240)
    assert pixels.shape == (240, 320, 3)


def test_larger_picture_of_the_same_aspect_will_do(hardware: Hardware) -> None:
    hardware.adjusts_to = (512, 512)
    assert one_frame(hardware).shape == (512, 512, 3)


@pytest.mark.parametrize("size_px", [(512, 384), (128, 128)])
def test_other_picture_than_was_asked_for_is_refused(hardware: Hardware, size_px: tuple[int, int]) -> None:
    hardware.adjusts_to = size_px
    with pytest.raises(SourceError, match=rf"{size_px[0]}x{size_px[1]} YUV420 instead of 256x256"):
        one_frame(hardware)
    assert hardware.held is None


# --- the sensor's modes -----------------------------------------------------------------------------------------------


def chosen_mode(hardware: Hardware) -> tuple[int, int]:
    size: tuple[int, int] = hardware.opened[-1].camera_configuration()["sensor"]["output_size"]
    return size


@pytest.mark.parametrize(("rate_fps", "mode"), [(30.0, (1640, 1232)), (15.0, (1640, 1232)), (None, (1640, 1232))])
def test_sensor_mode_shows_the_whole_view(hardware: Hardware, rate_fps: float | None, mode: tuple[int, int]) -> None:
    one_frame(hardware, rate_fps=rate_fps)
    assert chosen_mode(hardware) == mode


def test_view_comes_before_rate_and_the_promise_is_honest(hardware: Hardware) -> None:
    with open_source("picamera2:0", options(rate_fps=120.0)) as source:
        assert source.spec.rate_fps == pytest.approx(1e6 / 11999)
    assert chosen_mode(hardware) == (1640, 1232)


def test_middle_square_is_enough_for_a_crop(hardware: Hardware) -> None:
    hardware.modes = (*hardware.modes[:1], hardware.modes[1]._replace(crop_px=(2464, 2464)), *hardware.modes[2:])
    one_frame(hardware)
    assert chosen_mode(hardware) == (1640, 1232)
    one_frame(hardware, preprocessing=Preprocessing(fit="letterbox"))
    assert chosen_mode(hardware) == (3280, 2464)


def test_sensor_without_a_whole_mode_shows_its_widest(hardware: Hardware) -> None:
    hardware.modes = (hardware.modes[0], hardware.modes[2])
    one_frame(hardware, preprocessing=Preprocessing(fit="stretch"))
    assert chosen_mode(hardware) == (1920, 1080)


def test_camera_without_a_sensor_of_the_pi_keeps_its_own_mode(hardware: Hardware) -> None:
    del hardware.properties["ColorFilterArrangement"]
    one_frame(hardware)
    assert [configuration.get("sensor") for configuration in hardware.opened[-1].configurations] == [None]


MODES = st.builds(
    SensorMode,
    st.tuples(st.integers(64, 4000), st.integers(64, 4000)),
    st.tuples(st.integers(64, 4000), st.integers(64, 4000)),
    st.floats(1.0, 200.0),
)


@given(st.lists(MODES, min_size=1, max_size=6), st.sampled_from([None, 10.0, 60.0]))
def test_chosen_mode_sees_as_much_as_any_other_of_its_rate(modes: list[SensorMode], rate_fps: float | None) -> None:
    mode = choose_mode(modes, (4000, 4000), CROP, rate_fps)
    assert mode in modes
    for other in modes:
        if all(length >= 3800 for length in other.seen_px):
            assert all(length >= 3800 for length in mode.seen_px)


# --- what is asked of the camera --------------------------------------------------------------------------------------


def test_configuration_is_lean(hardware: Hardware) -> None:
    one_frame(hardware, own=own(Picamera2Options(buffer_count=3)))
    configuration = hardware.opened[0].camera_configuration()
    assert configuration["raw"] is None
    assert configuration["queue"] is False
    assert configuration["buffer_count"] == 3
    assert configuration["main"] == {"size": (256, 256), "format": "YUV420"}
    assert configuration["colour_space"] == "SMPTE170M"


@pytest.mark.parametrize(("hflip", "vflip"), [(False, False), (True, False), (False, True), (True, True)])
def test_flips_are_the_cameras(hardware: Hardware, hflip: bool, vflip: bool) -> None:
    one_frame(hardware, own=own(Picamera2Options(hflip=hflip, vflip=vflip)))
    transform = hardware.opened[0].camera_configuration()["transform"]
    assert (transform.hflip, transform.vflip) == (hflip, vflip)


def test_camera_that_ignores_a_flip_is_refused(hardware: Hardware) -> None:
    hardware.can_flip = False
    with pytest.raises(ProfileError, match=r"camera\.picamera2\.vflip.*can't be mirrored"):
        one_frame(hardware, own=own(Picamera2Options(vflip=True)))
    assert hardware.held is None


def test_nothing_is_set_that_was_not_asked_for(hardware: Hardware) -> None:
    one_frame(hardware, rate_fps=None)
    assert hardware.opened[0].set == {}


def test_controls_carry_libcameras_names(hardware: Hardware) -> None:
    hardware.controls |= {"AfMode": (0, 2, 0), "LensPosition": (0.0, 15.0, 1.0)}
    wish = Picamera2Options(
        noise_reduction="high_quality", exposure_time_us=10_000, analogue_gain=2.0, focus="manual", lens_position=2.5
    )
    one_frame(hardware, own=own(wish))
    assert hardware.opened[0].set == {
        "FrameDurationLimits": (33333, 33333),
        "NoiseReductionMode": "NoiseReduction.HighQuality",
        "ExposureTime": 10_000,
        "AnalogueGain": 2.0,
        "AfMode": "AfMode.Manual",
        "LensPosition": 2.5,
    }


@pytest.mark.parametrize("analogue_gain", [None, 2.0])
def test_automatic_exposure_is_switched_off_by_fixed_measures_alone(hardware: Hardware, analogue_gain: float | None) -> None:
    # Asked for as well, it takes the exposure of now for the fixed one, or is warned of: picamera2's issues 933 and 1269.
    one_frame(hardware, own=own(Picamera2Options(exposure_time_us=10_000, analogue_gain=analogue_gain)))
    assert "AeEnable" not in hardware.opened[0].set


def test_focus_once_is_triggered(hardware: Hardware) -> None:
    hardware.controls["AfMode"] = (0, 2, 0)
    one_frame(hardware, own=own(Picamera2Options(focus="auto")))
    assert hardware.opened[0].set["AfMode"] == "AfMode.Auto"
    assert hardware.opened[0].set["AfTrigger"] == "AfTrigger.Start"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Picamera2Options(focus="continuous"), r"camera\.picamera2\.focus: the camera has no AfMode"),
        (
            Picamera2Options(focus="manual", lens_position=1.0),
            r"camera\.picamera2\.lens_position: the camera has no LensPosition",
        ),
        (Picamera2Options(analogue_gain=64.0), r"camera\.picamera2\.analogue_gain: 64\.0; expected 1 to 10\.67"),
        (Picamera2Options(exposure_time_us=10), r"camera\.picamera2\.exposure_time_us: 10; expected 75 to"),
        (Picamera2Options(exposure_time_us=50_000), r"camera\.picamera2\.exposure_time_us: 50000; expected at most 33333"),
    ],
)
def test_what_the_camera_lacks_is_refused(hardware: Hardware, wish: Picamera2Options, message: str) -> None:
    if wish.focus == "manual":
        hardware.controls["AfMode"] = (0, 2, 0)
    with pytest.raises(ProfileError, match=message) as caught:
        one_frame(hardware, own=own(wish))
    assert caught.value.reason == "unsupported"
    assert "\n" not in str(caught.value)
    assert hardware.held is None


@pytest.mark.parametrize(
    ("own", "found"),
    [({"hflipp": True}, "hflipp"), ({"buffer_count": 1}, "buffer_count"), ({"focus": "manual"}, "lens_position together")],
)
def test_options_of_a_manifest_are_checked_before_the_camera_opens(
    hardware: Hardware, own: dict[str, str | bool | int | float | None], found: str
) -> None:
    with pytest.raises(ProfileError, match=rf"^camera\.picamera2.*{found}") as caught:
        open_source("picamera2:0", options(own={"picamera2": own}))
    assert caught.value.reason == "invalid"
    assert hardware.opened == []


# --- time -------------------------------------------------------------------------------------------------------------


def test_timestamp_is_the_sensors(hardware: Hardware) -> None:
    with open_source("picamera2:0", options()) as source:
        frame = read(source)
        after_ns = time.monotonic_ns()
    assert 3_000_000 <= after_ns - frame.timestamp_ns < 2_000_000_000


@pytest.mark.parametrize("suspended_ns", [0, 10**9, 10**14])
def test_stamp_of_either_clock_becomes_monotonic(suspended_ns: int) -> None:
    now_ns, age_ns = 10**12, 5_000_000
    boot_ns = now_ns + suspended_ns
    assert to_monotonic_ns(now_ns - age_ns, now_ns, boot_ns) == now_ns - age_ns
    assert to_monotonic_ns(boot_ns - age_ns, now_ns, boot_ns) == now_ns - age_ns


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_stall_is_told_and_ends_with_the_next_frame(hardware: Hardware) -> None:
    with open_source("picamera2:0", options()) as source:
        read(source)
        hardware.is_delivering = False
        with pytest.raises(SourceError) as caught:
            read_for_ever(source, 0.2)
        assert caught.value.reason == "stalled"
        assert "ribbon cable" in str(caught.value)
        hardware.is_delivering = True
        read(source)
    assert len(hardware.opened[0].free) == 4


@pytest.mark.parametrize("delivers_late", [False, True])
def test_wait_that_is_given_up_keeps_no_buffer(hardware: Hardware, delivers_late: bool) -> None:
    with open_source("picamera2:0", options()) as source:
        read(source)
        hardware.is_delivering, hardware.delivers_late = False, delivers_late
        with pytest.raises(SourceError):
            read_for_ever(source, 0.1)
    (camera,) = hardware.opened
    assert len(camera.free) == 4
    assert all(job.is_done for job in camera.jobs)


def test_closed_camera_leaves_its_memory_at_once(hardware: Hardware) -> None:
    gc.disable()
    try:
        with open_source("picamera2:0", options()) as source:
            read(source)
            assert len(hardware.alive) == 1
            hardware.opened.clear()
        # The camera's thread collects what it left; in a test process full of other things that takes a while.
        deadline_s = time.monotonic() + 30.0
        while len(hardware.alive) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert len(hardware.alive) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "error", [RuntimeError("camera disconnected"), OSError(19, "camera disconnected"), ValueError("camera disconnected")]
)
def test_camera_that_fails_ends_the_source(hardware: Hardware, error: Exception) -> None:
    with open_source("picamera2:0", options()) as source:
        read(source)
        hardware.read_error = error
        with pytest.raises(SourceError, match="camera disconnected") as caught:
            read_for_ever(source, 5.0)
    assert caught.value.reason == "ended"
    assert hardware.held is None


def test_camera_that_stalls_is_closed_and_opens_again_twenty_times(hardware: Hardware) -> None:
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        hardware.is_delivering = True
        with open_source("picamera2:0", options()) as source:
            read(source)
            hardware.is_delivering = False
            with pytest.raises(SourceError):
                read_for_ever(source, 0.05)
        assert hardware.held is None
    # A busy machine may still be in the last one's collection of garbage.
    for thread in threading.enumerate():
        if thread.name == "source picamera2:0":
            thread.join(60.0)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("where", ["open", "start"])
def test_driver_that_hangs_while_opening_is_given_up(hardware: Hardware, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from device.sources import live

    hardware.hangs_in = where
    monkeypatch.setattr(live.LiveSource.__init__, "__kwdefaults__", {"open_timeout_s": 0.2, "remedy": ""})
    monkeypatch.setattr(live, "CLOSE_TIMEOUT_S", 0.1)
    with pytest.raises(SourceError, match="did not open") as caught:
        open_source("picamera2:0", options())
    assert caught.value.reason == "stalled"


@pytest.mark.parametrize("where", ["capture", "close"])
def test_driver_that_hangs_keeps_nobody(hardware: Hardware, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from device.sources import live

    monkeypatch.setattr(live, "CLOSE_TIMEOUT_S", 0.1)
    source = open_source("picamera2:0", options())
    read(source)
    hardware.hangs_in = where
    started_s = time.monotonic()
    if where == "capture":
        with pytest.raises(SourceError):
            read_for_ever(source, 0.1)
    source.close()
    assert time.monotonic() - started_s < 10.0
    hardware.released_hang.set()


def test_no_camera(hardware: Hardware) -> None:
    hardware.cameras = []
    with pytest.raises(SourceError, match="finds no camera") as caught:
        open_source("picamera2:0", options())
    assert caught.value.reason == "missing"
    assert caught.value.exit_code == 20
    assert "\n" not in str(caught.value)


def test_libcamera_that_can_not_look_for_cameras(hardware: Hardware) -> None:
    hardware.list_error = RuntimeError("Failed to start camera manager")
    with pytest.raises(SourceError, match="Failed to start camera manager") as caught:
        open_source("picamera2:0", options())
    assert caught.value.reason == "failed"


@pytest.mark.parametrize("name", ["3", "imx999"])
def test_unknown_camera_says_which_there_are(hardware: Hardware, name: str) -> None:
    with pytest.raises(SourceError, match=rf"no camera '{name}'; expected one of 0 \(imx219, ") as caught:
        open_source(f"picamera2:{name}", options())
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("name", ["", "0", "imx219", "IMX219", "i2c@1/imx219@10"])
def test_camera_is_found_by_number_model_and_identifier(hardware: Hardware, name: str) -> None:
    hardware.cameras.append({"Model": "imx708", "Id": "/base/soc/i2c0mux/i2c@0/imx708@1a", "Num": 1})
    with open_source(f"picamera2:{name}", options()) as source:
        read(source)
        assert source.spec.uri == f"picamera2:{name or '0'}"
    assert hardware.opened[0].number == 0


def test_name_of_two_cameras_is_refused(hardware: Hardware) -> None:
    hardware.cameras *= 2
    with pytest.raises(SourceError, match="2 cameras match 'imx219'"):
        open_source("picamera2:imx219", options())


@pytest.mark.parametrize(
    "words", ["Failed to acquire camera: Device or resource busy", "camera.acquire() returned unexpected code: -16"]
)
def test_busy_camera_leaks_nothing_however_often_it_is_tried(hardware: Hardware, words: str) -> None:
    hardware.held_words = words
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(SourceError, match="another program holds the camera") as caught:
            open_source("picamera2:0", options())
        assert caught.value.reason == "busy"
        assert "\n" not in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (PermissionError(13, "Permission denied", "/dev/dma_heap/linux,cma"), "permission", "join the group video"),
        (OSError(12, "Cannot allocate memory"), "failed", "buffer_count"),
        (RuntimeError("Could not start"), "failed", "rpicam-hello"),
    ],
)
def test_camera_that_does_not_start_says_why_and_is_free_again(
    hardware: Hardware, error: Exception, reason: str, remedy: str
) -> None:
    hardware.start_error = error
    with pytest.raises(SourceError, match=remedy) as caught:
        open_source("picamera2:0", options())
    assert caught.value.reason == reason
    assert hardware.held is None


# --- the package ------------------------------------------------------------------------------------------------------


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("picamera2", "libcamera"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="python3-picamera2") as caught:
        open_source("picamera2:0")
    assert caught.value.reason == "not_installed"


def test_package_built_for_another_numpy_says_so(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")

    monkeypatch.setitem(sys.modules, "picamera2", Broken("picamera2"))
    with pytest.raises(MissingDependencyError, match="simplejpeg") as caught:
        open_source("picamera2:0", options())
    assert caught.value.reason == "abi"


def test_libcamera_is_quiet_unless_told_otherwise(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBCAMERA_LOG_LEVELS", raising=False)
    one_frame(hardware)
    assert os.environ["LIBCAMERA_LOG_LEVELS"] == "*:WARN"
    monkeypatch.setenv("LIBCAMERA_LOG_LEVELS", "RPI:DEBUG")
    one_frame(hardware)
    assert os.environ["LIBCAMERA_LOG_LEVELS"] == "RPI:DEBUG"
