"""Converts a camera's frame to the network's input. Pure functions, used both on the board and in quantisation.

Normalisation isn't done here: it is folded into the artefact, which takes raw pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from device.contract import Preprocessing
from device.contract.tensor import Interpolation
from device.core.errors import MissingDependencyError

Image = NDArray[np.uint8]

# The usual grey of YOLO-style letterboxing; close to the mean of natural images.
LETTERBOX_GREY = 114


def fit_frame(frame: Image, spec: Preprocessing) -> Image:
    """Crops or pads a frame to the aspect ratio of the network's input, and scales it.

    A frame that already has the network's size is returned as it is: a source that scales (an ISP) has also cropped it.

    Args:
        frame: ``(H, W, 3)`` uint8, RGB.
        spec: the preprocessing that the weights require.

    Returns:
        ``(input_px, input_px, 3)`` uint8, RGB. May be ``frame`` itself.

    Raises:
        MissingDependencyError: the frame must be scaled, and OpenCV isn't installed.
    """
    side = spec.input_px
    if frame.shape[:2] == (side, side):
        return frame
    if spec.fit == "crop":
        return _scale(_central_square(frame, spec.crop_fraction), side, side, spec.interpolation)
    if spec.fit == "stretch":
        return _scale(frame, side, side, spec.interpolation)
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.full((side, side, 3), LETTERBOX_GREY, np.uint8)
    top, left = (side - inner_height) // 2, (side - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = _scale(frame, inner_width, inner_height, spec.interpolation)
    return canvas


def least_side_px(preprocessing: Preprocessing | None) -> int | None:
    """The short side that a frame needs so that `fit_frame` enlarges nothing.

    Returns:
        Pixels; None where it isn't known what the network wants, and the whole picture is wanted.
    """
    if preprocessing is None:
        return None
    share = preprocessing.crop_fraction if preprocessing.fit == "crop" else 1.0
    return math.ceil(preprocessing.input_px / share)


def _scale(frame: Image, width_px: int, height_px: int, interpolation: Interpolation) -> Image:
    if frame.shape[:2] == (height_px, width_px):
        return np.ascontiguousarray(frame)
    try:
        # Imported here, because a source that scales (an ISP) needs no OpenCV.
        from device.image.opencv import resize
    except ImportError as error:
        height, width = frame.shape[:2]
        raise MissingDependencyError(
            "preprocessing",
            f"a picture of {width}x{height} px can't be scaled to {width_px}x{height_px} ({error})",
            remedy="install OpenCV: pip install 'ghostwatt[video]', or apt install python3-opencv",
            reason="not_installed",
        ) from error
    return resize(frame, width_px, height_px, interpolation)


def rotate(pixels: Image, rotate_deg: int) -> Image:
    """Rotates a picture clockwise, for a camera that is mounted rotated.

    Call it after `fit_frame`, when there are fewer pixels to move.

    Args:
        pixels: ``(H, W, 3)`` uint8, C-contiguous.
        rotate_deg: 0, 90, 180 or 270.

    Returns:
        The picture, C-contiguous, ``(W, H, 3)`` for 90 and 270. ``pixels`` itself for 0.

    Raises:
        ValueError: the angle is another.
    """
    quarters, rest = divmod(rotate_deg, 90)
    if rest or not 0 <= quarters <= 3:
        raise ValueError(f"rotate_deg is {rotate_deg}; expected 0, 90, 180 or 270")
    if not quarters:
        return pixels
    # np.rot90 rotates the other way. Copying its view plane by plane is five times as fast as copying pixels of three bytes.
    turned = np.rot90(pixels, -quarters)
    out = np.empty(turned.shape, np.uint8)
    for channel in range(turned.shape[2]):
        out[..., channel] = turned[..., channel]
    return out


def _central_square(frame: Image, fraction: float) -> Image:
    height, width = frame.shape[:2]
    side = max(1, round(min(height, width) * fraction))
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]
