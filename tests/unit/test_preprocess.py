"""Geometry of crop, letterbox and stretch, on patterns whose result is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device.contract import Preprocessing
from device.contract.tensor import Fit, Interpolation
from device.core.errors import MissingDependencyError
from device.image.preprocess import LETTERBOX_GREY, fit_frame, rotate

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

Image = NDArray[np.uint8]
Means = NDArray[np.float64]
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
        "from device.image.preprocess import fit_frame\n"
        "fit_frame(np.zeros((64, 64, 3), np.uint8), Preprocessing(input_px=64))\n"
        "for fit in 'crop', 'stretch', 'letterbox':\n"
        "    spec = Preprocessing(input_px=56, fit=fit, crop_fraction=0.875)\n"
        "    fit_frame(np.zeros((64, 64, 3) if fit == 'crop' else (56, 56, 3), np.uint8), spec)\n"
        "fit_frame(np.zeros((42, 56, 3), np.uint8), Preprocessing(input_px=56, fit='letterbox'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_frame_of_another_size_without_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "device.image.opencv", None)
    with pytest.raises(MissingDependencyError, match=r"72x72 px can't be scaled to 32x32.*OpenCV") as caught:
        fit_frame(np.zeros((72, 72, 3), np.uint8), Preprocessing(input_px=32, fit="stretch"))
    assert caught.value.reason == "not_installed"


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


# --- against a reference ----------------------------------------------------------------------------------------------


def coverage(start: float, stop: float, source_px: int, count: int) -> Means:
    """What share each source pixel has in each of ``count`` equal steps from ``start`` to ``stop``."""
    edges = start + (stop - start) * np.arange(count + 1) / count
    pixels = np.arange(source_px)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(overlap, 0.0, None) * count / (stop - start))


def average(frame: Image, rows: tuple[float, float], columns: tuple[float, float], height: int, width: int) -> Means:
    """Scales a part of the frame by the mean of what each pixel covers."""
    down = coverage(*rows, frame.shape[0], height)
    across = coverage(*columns, frame.shape[1], width)
    return np.asarray(np.einsum("yr,xc,rck->yxk", down, across, frame, optimize=True))


def central(length: int, part: int) -> tuple[float, float]:
    return (length - part) // 2, (length - part) // 2 + part


sides = st.integers(SIDE, 3 * SIDE)
even_sides = st.integers(SIDE // 2, 3 * SIDE // 2).map(lambda half: 2 * half)
seeds = st.integers(0, 2**32 - 1)


def random_frame(height: int, width: int, seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_close(out: Image, expected: Means) -> None:
    assert np.abs(out.astype(float) - expected).max() <= 1.0


@given(height=sides, width=sides, seed=seeds, crop_fraction=st.floats(0.5, 1.0))
@settings(deadline=None)
def test_crop_is_the_mean_over_the_central_square(height: int, width: int, seed: int, crop_fraction: float) -> None:
    part = round(min(height, width) * crop_fraction)
    assume(part >= SIDE)
    frame = random_frame(height, width, seed)
    expected = average(frame, central(height, part), central(width, part), SIDE, SIDE)
    assert_close(fit(frame, "crop", crop_fraction), expected)


@given(height=sides, width=sides, seed=seeds)
@settings(deadline=None)
def test_stretch_is_the_mean_over_the_whole(height: int, width: int, seed: int) -> None:
    frame = random_frame(height, width, seed)
    assert_close(fit(frame, "stretch"), average(frame, (0, height), (0, width), SIDE, SIDE))


@given(height=sides, width=sides, seed=seeds)
@settings(deadline=None)
def test_letterbox_is_the_mean_over_the_whole_between_bars(height: int, width: int, seed: int) -> None:
    frame = random_frame(height, width, seed)
    inner_height, inner_width = (round(SIDE * length / max(height, width)) for length in (height, width))
    expected = np.full((SIDE, SIDE, 3), float(LETTERBOX_GREY))
    top, left = (SIDE - inner_height) // 2, (SIDE - inner_width) // 2
    inside = average(frame, (0, height), (0, width), inner_height, inner_width)
    expected[top : top + inner_height, left : left + inner_width] = inside
    assert_close(fit(frame, "letterbox"), expected)


# --- turning ----------------------------------------------------------------------------------------------------------


def test_turning_is_clockwise() -> None:
    corners = np.zeros((2, 3, 3), np.uint8)
    corners[0, 0], corners[0, -1], corners[-1, 0], corners[-1, -1] = 1, 2, 3, 4
    for rotate_deg, expected in [(0, (1, 2, 3, 4)), (90, (3, 1, 4, 2)), (180, (4, 3, 2, 1)), (270, (2, 4, 1, 3))]:
        turned = rotate(corners, rotate_deg)
        assert (turned[0, 0, 0], turned[0, -1, 0], turned[-1, 0, 0], turned[-1, -1, 0]) == expected


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=seeds, rotate_deg=st.sampled_from([0, 90, 180, 270]))
def test_a_turn_moves_every_pixel_whole(height: int, width: int, seed: int, rotate_deg: int) -> None:
    frame = random_frame(height, width, seed)
    before = frame.copy()
    turned = rotate(frame, rotate_deg)
    assert turned.flags.c_contiguous
    assert turned.shape == (frame.shape if rotate_deg % 180 == 0 else (width, height, 3))
    # Row r, column c of a picture that was turned by a quarter: column r from the right, row c.
    expected = before
    for _ in range(rotate_deg // 90):
        expected = np.stack([expected[::-1, column] for column in range(expected.shape[1])])
    np.testing.assert_array_equal(turned, expected)
    np.testing.assert_array_equal(frame, before)


def test_no_turn_moves_nothing() -> None:
    frame = gradient(SIDE, SIDE)
    assert rotate(frame, 0) is frame


@pytest.mark.parametrize("rotate_deg", [-90, 45, 360])
def test_another_angle_is_refused(rotate_deg: int) -> None:
    with pytest.raises(ValueError, match=str(rotate_deg)):
        rotate(gradient(4, 4), rotate_deg)


@pytest.mark.parametrize("how", ["crop", "letterbox", "stretch"])
@given(height=even_sides, width=even_sides)
@settings(deadline=None)
def test_turning_before_or_after_the_fit_is_the_same(how: Fit, height: int, width: int) -> None:
    # Even sizes: an odd rim can't be cut, nor a bar drawn, by half a pixel on each side.
    frame = random_frame(height, width, 1)
    inner = [round(SIDE * length / max(height, width)) for length in (height, width)]
    assume(how != "letterbox" or all(length % 2 == 0 for length in inner))
    for rotate_deg in (90, 180, 270):
        after = rotate(fit(frame, how), rotate_deg)
        assert_close(fit(rotate(frame, rotate_deg), how), after.astype(float))
