"""Geometry of crop, letterbox and stretch, on patterns whose result is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device.contract import Preprocessing
from device.contract.tensor import Fit, Interpolation
from device.preprocess import LETTERBOX_GREY, fit_frame

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

Image = NDArray[np.uint8]
SIDE = 32


def fit(frame: Image, how: Fit, crop_fraction: float = 1.0, interpolation: Interpolation = "area") -> Image:
    spec = Preprocessing(input_px=SIDE, fit=how, crop_fraction=crop_fraction, interpolation=interpolation)
    return fit_frame(frame, spec)


def gradient(height: int, width: int) -> Image:
    """Red says the column, green the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


@pytest.mark.parametrize("how", ["crop", "letterbox", "stretch"])
def test_a_frame_of_the_right_size_is_taken_as_it_is(how: Fit) -> None:
    frame = gradient(SIDE, SIDE)
    assert fit(frame, how, crop_fraction=0.5) is frame


def test_a_frame_of_the_right_size_needs_no_opencv() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import numpy as np\n"
        "from device.contract import Preprocessing\n"
        "from device.preprocess import fit_frame\n"
        "fit_frame(np.zeros((64, 64, 3), np.uint8), Preprocessing(input_px=64))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_crop_takes_the_central_square() -> None:
    landscape, portrait = gradient(SIDE, 96), gradient(96, SIDE)
    np.testing.assert_array_equal(fit(landscape, "crop"), landscape[:, 32:64])
    np.testing.assert_array_equal(fit(portrait, "crop"), portrait[32:64])


def test_crop_fraction_cuts_the_rim_away() -> None:
    frame = gradient(64, 100)
    np.testing.assert_array_equal(fit(frame, "crop", crop_fraction=0.5), frame[16:48, 34:66])


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_shrinking_averages_whole_blocks_whatever_the_interpolation(interpolation: Interpolation) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (SIDE * 4, SIDE * 4, 3)).astype(np.uint8)
    means = frame.reshape(SIDE, 4, SIDE, 4, 3).mean(axis=(1, 3))
    assert np.abs(fit(frame, "crop", interpolation=interpolation).astype(float) - means).max() <= 0.5


def test_enlarging_interpolates_as_the_weights_say() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
    assert (fit(frame, "crop", interpolation="bicubic") != fit(frame, "crop", interpolation="bilinear")).any()


def test_letterbox_pads_with_grey_on_both_sides() -> None:
    out = fit(np.full((64, 128, 3), 200, np.uint8), "letterbox")
    assert (out[:8] == LETTERBOX_GREY).all()
    assert (out[8:24] == 200).all()
    assert (out[24:] == LETTERBOX_GREY).all()
    out = fit(np.full((128, 64, 3), 200, np.uint8), "letterbox")
    assert (out[:, :8] == LETTERBOX_GREY).all()
    assert (out[:, 8:24] == 200).all()
    assert (out[:, 24:] == LETTERBOX_GREY).all()


def test_letterbox_loses_nothing_of_the_frame() -> None:
    frame = np.full((SIDE, 2 * SIDE, 3), 50, np.uint8)
    frame[:, :2], frame[:, -2:] = 250, 250
    out = fit(frame, "letterbox")
    assert (out[SIDE // 2, [0, -1]] == 250).all()
    assert (out[SIDE // 2, 1:-1] == 50).all()


def test_stretch_fills_the_square_from_edge_to_edge() -> None:
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[:32, :64], frame[:32, 64:], frame[32:, :64] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    out = fit(frame, "stretch")
    half = SIDE // 2
    assert (out[:half, :half] == (255, 0, 0)).all()
    assert (out[:half, half:] == (0, 255, 0)).all()
    assert (out[half:, :half] == (0, 0, 255)).all()
    assert (out[half:, half:] == 0).all()


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    how=st.sampled_from(["crop", "letterbox", "stretch"]),
    crop_fraction=st.floats(0.01, 1.0),
    interpolation=st.sampled_from(["area", "bilinear", "bicubic"]),
)
@settings(deadline=None)
def test_any_frame_becomes_the_networks_input(
    height: int, width: int, how: Fit, crop_fraction: float, interpolation: Interpolation
) -> None:
    frame = np.full((height, width, 3), (10, 120, 230), np.uint8)
    before = frame.copy()
    out = fit(frame, how, crop_fraction, interpolation)
    assert out.shape == (SIDE, SIDE, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    middle = (SIDE - 1) // 2
    assert out[middle, middle].tolist() == [10, 120, 230]
    np.testing.assert_array_equal(frame, before)
