"""Uncompressed pixels of cameras, by the formats that the kernel names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

from device.core.errors import SourceError
from device.image.opencv import RAW_FORMATS, convert_raw
from device.sources.v4l2.formats import COSTS_NS

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
WIDTH_PX, HEIGHT_PX = 8, 6


def yuv(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """ITU-R BT.601, limited range, 8 bit."""
    red, green, blue = (value / 255 for value in colour)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return round(16 + 219 * luma), round(128 + 224 * (blue - luma) / 1.772), round(128 + 224 * (red - luma) / 1.402)


def fill(fourcc: str, colour: tuple[int, int, int], padding_bytes: int = 0) -> bytes:
    """A picture in one colour, laid out as the kernel's documentation of the format says."""
    luma, blueness, redness = yuv(colour)
    pixels = {
        "YUYV": [luma, blueness, luma, redness],
        "UYVY": [blueness, luma, redness, luma],
        "RGB3": [*colour] * 2,
        "BGR3": [*colour[::-1]] * 2,
    }.get(fourcc, [luma, luma])
    pad = b"\xaa" * padding_bytes
    rows = (bytes(pixels * (WIDTH_PX // 2)) + pad) * HEIGHT_PX
    half = WIDTH_PX // 2
    quarter = half * (HEIGHT_PX // 2)
    chroma = {
        "NV12": (bytes([blueness, redness] * half) + pad) * (HEIGHT_PX // 2),
        "NV21": (bytes([redness, blueness] * half) + pad) * (HEIGHT_PX // 2),
        "YU12": bytes([blueness] * quarter + [redness] * quarter),
        "YV12": bytes([redness] * quarter + [blueness] * quarter),
    }
    return rows + chroma.get(fourcc, b"")


def convert(fourcc: str, data: bytes | memoryview, line_bytes: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return convert_raw(data, "camera", fourcc=fourcc, width_px=WIDTH_PX, height_px=HEIGHT_PX, line_bytes=line_bytes)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("fourcc", sorted(RAW_FORMATS - {"GREY"}))
def test_colours_come_out_right(fourcc: str, name: str) -> None:
    image = convert(fourcc, fill(fourcc, COLOURS[name]))
    assert image.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_allclose(image.reshape(-1, 3).astype(int), [COLOURS[name]] * (WIDTH_PX * HEIGHT_PX), atol=3)


def test_grey_is_the_same_in_all_channels() -> None:
    image = convert("GREY", bytes(range(WIDTH_PX * HEIGHT_PX)))
    np.testing.assert_array_equal(image, np.repeat(np.arange(48, dtype=np.uint8).reshape(6, 8, 1), 3, axis=2))


@pytest.mark.parametrize("fourcc", sorted(RAW_FORMATS - {"YU12", "YV12"}))
def test_padding_of_lines_is_left_out(fourcc: str) -> None:
    line_bytes = WIDTH_PX * {"YUYV": 2, "UYVY": 2, "RGB3": 3, "BGR3": 3}.get(fourcc, 1) + 24
    image = convert(fourcc, fill(fourcc, COLOURS["red"], 24), line_bytes)
    np.testing.assert_array_equal(image, convert(fourcc, fill(fourcc, COLOURS["red"])))
    # The last line may end with its pixels.
    np.testing.assert_array_equal(image, convert(fourcc, fill(fourcc, COLOURS["red"], 24)[:-24], line_bytes))


@pytest.mark.parametrize("fourcc", ["YU12", "YV12"])
def test_padding_that_leaves_the_colours_place_open_is_refused(fourcc: str) -> None:
    with pytest.raises(SourceError, match="lines of 16 bytes") as caught:
        convert(fourcc, bytes(1000), 16)
    assert caught.value.reason == "format"


@pytest.mark.parametrize("fourcc", sorted(RAW_FORMATS))
def test_buffer_that_holds_less_than_a_picture_is_damaged(fourcc: str) -> None:
    with pytest.raises(SourceError, match=f"a {fourcc} picture of") as caught:
        convert(fourcc, fill(fourcc, COLOURS["red"])[:-1])
    assert caught.value.reason == "decode"


def test_buffer_may_hold_more() -> None:
    data = fill("YUYV", COLOURS["blue"])
    np.testing.assert_array_equal(convert("YUYV", data + b"\xff" * 100), convert("YUYV", data))


@given(st.sampled_from(sorted(RAW_FORMATS)), st.binary(max_size=200), st.integers(0, 40))
def test_any_buffer_is_converted_or_refused(fourcc: str, data: bytes, line_bytes: int) -> None:
    reason = ""
    try:
        convert(fourcc, data, line_bytes)
    except SourceError as error:
        reason = error.reason
    assert reason in ("", "decode", "format")


@pytest.mark.parametrize("fourcc", sorted(RAW_FORMATS))
def test_picture_has_memory_of_its_own(fourcc: str) -> None:
    data = bytearray(fill(fourcc, COLOURS["red"]))
    image = convert(fourcc, memoryview(data))
    before = image.copy()
    data[:] = bytes(len(data))
    np.testing.assert_array_equal(image, before)


def test_every_format_that_is_chosen_can_be_read() -> None:
    assert RAW_FORMATS | {"MJPG", "JPEG"} == set(COSTS_NS)
