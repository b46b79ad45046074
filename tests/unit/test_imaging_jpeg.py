"""Pictures of cameras that send JPEGs: whole, cut, damaged, and larger than they need be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

import cv2

from device.contract import Preprocessing
from device.core.errors import SourceError
from device.image.opencv import decode_bytes, decode_jpeg, resize
from device.image.preprocess import fit_frame, least_side_px
from device.protocols import Image


def draw(width_px: int, height_px: int) -> Image:
    """Soft colours with some detail, as a photograph has: red grows to the right, green down."""
    across, down = np.meshgrid(np.linspace(0, 255, width_px), np.linspace(0, 255, height_px))
    waves = 127 + 60 * np.sin(across / 9) * np.cos(down / 7)
    return np.stack((across, down, waves), axis=-1).astype(np.uint8)


def encode(image: Image, *flags: int) -> bytes:
    is_encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95, *flags])
    assert is_encoded
    return bytes(data.tobytes())


def without_segments(data: bytes, wanted: int) -> bytes:
    """Takes out every segment of one kind."""
    kept, position = data[:2], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != wanted:
            kept += data[position:end]
        position = end
    return kept + data[position:]


def with_size(data: bytes, width_px: int, height_px: int) -> bytes:
    """Lets the header of a baseline JPEG promise another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big") + data[at + 4 :]


def refuse(data: bytes) -> SourceError:
    with pytest.raises(SourceError) as caught:
        decode_jpeg(data, "camera")
    assert caught.value.reason == "decode"
    assert caught.value.where == "camera"
    return caught.value


def test_whole_picture_is_what_any_decoder_gives() -> None:
    data = encode(draw(320, 240))
    np.testing.assert_array_equal(decode_jpeg(data, "camera"), decode_bytes(data, "file"))


@pytest.mark.parametrize(
    ("least_px", "shape"),
    [(None, (480, 640)), (256, (480, 640)), (241, (480, 640)), (240, (240, 320)), (120, (120, 160)), (32, (60, 80))],
)
def test_picture_is_decoded_as_small_as_is_enough(least_px: int | None, shape: tuple[int, int]) -> None:
    image = decode_jpeg(encode(draw(640, 480)), "camera", least_side_px=least_px)
    assert image.shape == (*shape, 3)
    assert image.flags.c_contiguous
    assert image.flags.writeable


@given(width=st.integers(1, 200), height=st.integers(1, 200), least_px=st.integers(1, 64))
def test_short_side_is_enough_wherever_the_picture_has_it(width: int, height: int, least_px: int) -> None:
    image = decode_jpeg(encode(np.zeros((height, width, 3), np.uint8)), "camera", least_side_px=least_px)
    assert min(image.shape[:2]) >= min(least_px, width, height)


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1917, 1079)])
def test_reduced_picture_shows_the_network_the_same(size: tuple[int, int]) -> None:
    spec = Preprocessing()
    data = encode(draw(*size))
    reduced = decode_jpeg(data, "camera", least_side_px=least_side_px(spec))
    if size != (640, 480):
        assert reduced.shape[0] < size[1]
    error = fit_frame(reduced, spec).astype(float) - fit_frame(decode_jpeg(data, "camera"), spec)
    assert np.sqrt(np.mean(error**2)) < 1.5


def test_channels_stay_in_order_when_reduced() -> None:
    image = decode_jpeg(encode(np.full((64, 64, 3), (250, 128, 5), np.uint8)), "camera", least_side_px=8)
    assert image.shape == (8, 8, 3)
    np.testing.assert_allclose(image[4, 4], (250, 128, 5), atol=4)


def test_motion_jpeg_without_huffman_tables_is_decoded() -> None:
    data = encode(draw(64, 48))
    bare = without_segments(data, 0xC4)
    assert len(bare) < len(data) - 300
    np.testing.assert_array_equal(decode_jpeg(bare, "camera"), decode_jpeg(data, "camera"))


def test_progressive_jpeg_is_decoded() -> None:
    image = draw(64, 48)
    data = encode(image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    np.testing.assert_allclose(decode_jpeg(data, "camera").astype(int), image, atol=60)


def test_padding_behind_the_end_is_allowed() -> None:
    data = encode(draw(64, 48))
    np.testing.assert_array_equal(decode_jpeg(data + bytes(500), "camera"), decode_jpeg(data, "camera"))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated_picture_is_noticed(share: float) -> None:
    data = encode(draw(320, 240))
    error = refuse(data[: int(len(data) * share)])
    assert "truncated" in error.found or "not a JPEG" in error.found


@given(st.data())
def test_picture_cut_anywhere_is_never_taken_for_whole(data: st.DataObject) -> None:
    whole = encode(draw(40, 30))
    refuse(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda junk: b"\xff\xd8\xff" + junk))
def test_junk_is_refused_or_decoded_and_never_worse(junk: bytes) -> None:
    reason = ""
    try:
        decode_jpeg(junk, "camera", least_side_px=32)
    except SourceError as error:
        reason = error.reason
    assert reason in ("", "decode")


def test_other_images_are_no_jpegs() -> None:
    data = cv2.imencode(".png", draw(20, 20))[1].tobytes()
    assert "not a JPEG" in refuse(data).found
    assert "empty" in refuse(b"").found


def test_jpeg_without_a_size_is_said_to_be_one() -> None:
    data = encode(draw(64, 48))
    later = with_size(data, 64, 0)
    headless = without_segments(data, 0xC0)
    assert len(headless) < len(data)
    for sizeless in (later, with_size(data, 0, 48), headless):
        assert refuse(sizeless).found == f"a JPEG without a size in its header ({len(sizeless)} bytes)"


@pytest.mark.parametrize("length", [3, 20, 150])
def test_jpeg_that_breaks_off_before_its_size_is_said_to(length: int) -> None:
    assert refuse(encode(draw(64, 48))[:length]).found == f"the JPEG is truncated after {length} bytes"


def test_size_is_the_pictures_and_not_its_thumbnails() -> None:
    thumbnail = encode(draw(160, 120))
    data = encode(draw(64, 48))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert decode_jpeg(data[:2] + segment + data[2:], "camera", least_side_px=24).shape == (24, 32, 3)


def test_header_that_promises_gigapixels_costs_no_memory() -> None:
    error = refuse(with_size(encode(draw(64, 48)), 65_000, 65_000))
    assert "65000x65000" in error.found


@pytest.mark.parametrize(
    ("spec", "expected_px"),
    [
        (None, None),
        (Preprocessing(input_px=224, fit="crop", crop_fraction=0.875), 256),
        (Preprocessing(input_px=224, fit="crop", crop_fraction=1.0), 224),
        (Preprocessing(input_px=224, fit="letterbox", crop_fraction=0.875), 224),
        (Preprocessing(input_px=160, fit="stretch"), 160),
    ],
)
def test_least_side_follows_the_geometry(spec: Preprocessing | None, expected_px: int | None) -> None:
    assert least_side_px(spec) == expected_px


@given(fraction=st.floats(0.3, 1.0), input_px=st.integers(32, 300), fit=st.sampled_from(("crop", "letterbox", "stretch")))
def test_frame_of_the_least_side_is_never_enlarged(fraction: float, input_px: int, fit: str) -> None:
    spec = Preprocessing(input_px=input_px, fit=fit, crop_fraction=fraction)  # type: ignore[arg-type]
    side_px = least_side_px(spec)
    assert side_px is not None
    cropped_px = max(1, round(side_px * fraction)) if fit == "crop" else side_px
    assert cropped_px >= input_px
    assert resize(np.zeros((cropped_px, cropped_px, 3), np.uint8), input_px, input_px, "area").shape[0] == input_px
