"""Settings and buffer layouts of an image signal processor (ISP) that scales by itself. Pure functions.

References:
    libcamera, src/libcamera/pipeline/rpi: the aspect ratio of the first stream decides which part of the sensor is seen (the
    largest centred part of that ratio). A second stream shows the same part, stretched if its ratio differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device.contract import Preprocessing
from device.protocols import Image

Bytes = NDArray[np.uint8]
SizePx = tuple[int, int]

LEAST_SIDE_PX = 64
"""The smallest side that the Pi 4's ISP can output: ``MIN_DIM`` of the kernel's bcm2835-isp driver."""

DEFAULT_SIZE_PX = (640, 480)
"""Size of the whole picture if none is requested."""

# Share of the sensor's lines and columns: some sensors have a few more than their best modes read out.
_COVERED_SHARE = 0.95

_FAST_ENOUGH_SHARE = 0.99


class StreamSizes(NamedTuple):
    """Sizes of the two streams, as (width, height), all even.

    Attributes:
        main_px: the first stream, which only decides which part of the sensor is seen.
        lores_px: the second stream, whose frames are read. No larger than the first.
    """

    main_px: SizePx
    lores_px: SizePx


def choose_stream_sizes(
    preprocessing: Preprocessing | None, sensor_px: SizePx, size_px: SizePx = DEFAULT_SIZE_PX
) -> StreamSizes:
    """Chooses the smallest streams that `device.image.preprocess.fit_frame` needn't enlarge.

    Args:
        preprocessing: what the network needs; None for the whole picture at ``size_px``.
        sensor_px: width and height of the sensor, or any size of its aspect ratio.
        size_px: size of the whole picture.
    """
    if preprocessing is None:
        whole = _at_least((_even(size_px[0]), _even(size_px[1])))
        return StreamSizes(whole, whole)
    if preprocessing.fit == "crop":
        side = _crop_side_px(preprocessing.input_px, preprocessing.crop_fraction)
        square = _at_least((side, side))
        return StreamSizes(square, square)
    if preprocessing.fit == "letterbox":
        whole = _of_aspect(sensor_px, _even(preprocessing.input_px))
        return StreamSizes(whole, whole)
    square = _at_least((_even(preprocessing.input_px),) * 2)
    return StreamSizes(_around(sensor_px, square[0]), square)


def _even(length_px: int) -> int:
    return length_px + length_px % 2


def _crop_side_px(input_px: int, fraction: float) -> int:
    """The smallest even side whose ``fraction``, rounded as in `fit_frame`, is at least ``input_px``."""
    side = max(2, math.floor(input_px / fraction) // 2 * 2 - 2)
    while round(side * fraction) < input_px:
        side += 2
    return side


def _of_aspect(sensor_px: SizePx, longest_px: int) -> SizePx:
    """A size of the sensor's aspect ratio: its longest side as requested, or a multiple if the ISP can't scale down as far."""
    scale = longest_px / max(sensor_px)
    scale *= math.ceil(LEAST_SIDE_PX / (min(sensor_px) * scale))
    width, height = (2 * round(length * scale / 2) for length in sensor_px)
    return width, height


def _around(sensor_px: SizePx, side_px: int) -> SizePx:
    """The smallest size of the sensor's aspect ratio that contains a square of this side."""
    scale = side_px / min(sensor_px)
    width, height = (max(side_px, 2 * round(length * scale / 2)) for length in sensor_px)
    return width, height


def _at_least(size_px: SizePx) -> SizePx:
    """Multiplies a size too small for the ISP by a whole number, which keeps it even and its aspect ratio unchanged."""
    factor = math.ceil(LEAST_SIDE_PX / min(size_px))
    return size_px[0] * factor, size_px[1] * factor


# --- modes of the sensor ----------------------------------------------------------------------------------------------


class SensorMode(NamedTuple):
    """A readout mode of a sensor.

    Attributes:
        size_px: width and height of its output.
        seen_px: width and height of the area it reads, in pixels of the whole sensor; fast modes may read only the middle.
        rate_fps: highest rate.
    """

    size_px: SizePx
    seen_px: SizePx
    rate_fps: float


def sees_enough(mode: SensorMode, sensor_px: SizePx, preprocessing: Preprocessing | None) -> bool:
    """Whether a mode shows the network everything that the sensor could.

    Args:
        mode: the sensor's mode.
        sensor_px: width and height of the whole sensor.
        preprocessing: with ``crop``, the centred square is enough.
    """
    is_square = preprocessing is not None and preprocessing.fit == "crop"
    wanted = (min(sensor_px),) * 2 if is_square else sensor_px
    return all(seen >= _COVERED_SHARE * length for seen, length in zip(mode.seen_px, wanted, strict=True))


def is_fast_enough(mode: SensorMode, rate_fps: float | None) -> bool:
    """Whether the mode reaches a rate, give or take what clock dividers can't produce exactly; None stands for any rate."""
    return rate_fps is None or mode.rate_fps >= _FAST_ENOUGH_SHARE * rate_fps


def choose_mode(
    modes: Sequence[SensorMode], sensor_px: SizePx, preprocessing: Preprocessing | None, rate_fps: float | None
) -> SensorMode:
    """Chooses the sensor's mode: first by field of view, then by rate, then by the fewest pixels.

    libcamera itself would take the mode nearest in size to the streams, which on many sensors shows only a small part of the
    picture.

    Args:
        modes: at least one.
        sensor_px: width and height of the whole sensor.
        preprocessing: see `sees_enough`.
        rate_fps: the requested rate; None for any.
    """
    seeing = [mode for mode in modes if sees_enough(mode, sensor_px, preprocessing)]
    # If no mode shows the whole sensor, take the widest view.
    widest = max(mode.seen_px[0] * mode.seen_px[1] for mode in modes)
    seeing = seeing or [mode for mode in modes if mode.seen_px[0] * mode.seen_px[1] == widest]
    fast = [mode for mode in seeing if is_fast_enough(mode, rate_fps)]
    if fast:
        return min(fast, key=lambda mode: mode.size_px[0] * mode.size_px[1])
    return max(seeing, key=lambda mode: mode.rate_fps)


# --- buffers ----------------------------------------------------------------------------------------------------------


def copy_rgb(buffer: Bytes, size_px: SizePx, stride_bytes: int) -> Image:
    """Copies an RGB picture out of a buffer with padded rows.

    Args:
        buffer: flat; three bytes per pixel: R, G, B.
        size_px: width and height.
        stride_bytes: distance between the starts of two rows.

    Returns:
        ``(H, W, 3)``, RGB, C-contiguous, in its own memory.
    """
    width, height = size_px
    rows = buffer[: height * stride_bytes].reshape(height, stride_bytes)[:, : width * 3]
    return rows.copy().reshape(height, width, 3)


def copy_yuv420(buffer: Bytes, size_px: SizePx, stride_bytes: int) -> Bytes:
    """Copies a YUV 4:2:0 picture out of a buffer with padded rows.

    Args:
        buffer: flat; the planes Y, U and V in sequence. The rows of U and V are half as long, padding included.
        size_px: width and height, even.
        stride_bytes: distance between the starts of two rows of Y.

    Returns:
        ``(H * W * 3 / 2,)``: the three planes without padding, as `yuv420_to_rgb` takes them.
    """
    width, height = size_px
    half_width, half_height, half_stride = width // 2, height // 2, stride_bytes // 2
    picture = np.empty(width * height * 3 // 2, np.uint8)
    luma_size, chroma_size = width * height, half_width * half_height
    chroma_at = height * stride_bytes
    _copy_rows(buffer, stride_bytes, picture[:luma_size].reshape(height, width))
    for number in range(2):
        source = buffer[chroma_at + number * half_height * half_stride :]
        target = picture[luma_size + number * chroma_size :][:chroma_size]
        _copy_rows(source, half_stride, target.reshape(half_height, half_width))
    return picture


def _copy_rows(source: Bytes, stride_bytes: int, target: Bytes) -> None:
    height, width = target.shape
    target[:] = source[: height * stride_bytes].reshape(height, stride_bytes)[:, :width]


# BT.601 in limited range, in units of 2^-20: OpenCV's coefficients, which make its pixels and ours identical.
_FRACTION_BITS = 20
_LUMA, _RED_V, _GREEN_V, _GREEN_U, _BLUE_U = 1220542, 1673527, -852492, -409993, 2116026
_BLACK, _NO_COLOUR = 16, 128
_LEVELS = np.arange(256, dtype=np.int32)
# Half a level is added for rounding.
_LUMA_OF_Y = np.maximum(_LEVELS - _BLACK, 0) * np.int32(_LUMA) + np.int32(1 << (_FRACTION_BITS - 1))
_CHROMA = _LEVELS - _NO_COLOUR
_RED_OF_V, _GREEN_OF_V = _CHROMA * np.int32(_RED_V), _CHROMA * np.int32(_GREEN_V)
_GREEN_OF_U, _BLUE_OF_U = _CHROMA * np.int32(_GREEN_U), _CHROMA * np.int32(_BLUE_U)


def yuv420_to_rgb(planes: Bytes, size_px: SizePx) -> Image:
    """Converts a YUV 4:2:0 picture by tables: BT.601's matrix, limited range (libcamera's ``SMPTE170M``).

    The pixels equal those of `device.image.opencv.convert_raw` for YU12, but need no OpenCV, which takes 90 MB on a board. Four
    pixels share a colour.

    Args:
        planes: ``(H * W * 3 / 2,)``: Y, U and V in sequence, without padding.
        size_px: width and height, even.

    Returns:
        ``(H, W, 3)``, RGB.

    References:
        ITU-R BT.601-7, section 2.5: the matrix, with black at 16 and white at 235.
        OpenCV, modules/imgproc/src/color_yuv.simd.hpp: its coefficients and rounding.
    """
    width, height = size_px
    luma_size = width * height
    halves = (height // 2, width // 2)
    u, v = (plane.reshape(halves) for plane in np.split(planes[luma_size:], 2))
    luma = _LUMA_OF_Y.take(planes[:luma_size].reshape(height // 2, 2, width))
    rgb = np.empty((height // 2, 2, width, 3), np.uint8)
    wide, level = np.empty((height // 2, 1, width), np.int32), np.empty_like(luma)
    for channel, colour in enumerate((_RED_OF_V.take(v), _GREEN_OF_V.take(v) + _GREEN_OF_U.take(u), _BLUE_OF_U.take(u))):
        wide[:, 0, 0::2] = wide[:, 0, 1::2] = colour
        np.add(luma, wide, out=level)
        np.right_shift(level, _FRACTION_BITS, out=level)
        rgb[..., channel] = np.clip(level, 0, 255, out=level)
    return rgb.reshape(height, width, 3)
