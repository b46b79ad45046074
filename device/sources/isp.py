"""What to ask of an image processor (ISP) that scales by itself, and where the pixels lie in its buffers: pure functions.

References:
    libcamera, src/libcamera/pipeline/rpi: the first stream's aspect decides which part of the sensor is seen (the largest
    part of that aspect, in the middle), and a second stream shows the same part, stretched where its aspect is another.
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
"""The smallest picture that the Pi 4's ISP gives: ``MIN_DIM`` of the kernel's bcm2835-isp driver."""

DEFAULT_SIZE_PX = (640, 480)
"""Of the whole picture, where nobody asks for a size."""

# Of the sensor's lines and columns: some sensors have a few more than their best modes read out.
_COVERED_SHARE = 0.95

_FAST_ENOUGH_SHARE = 0.99


class Streams(NamedTuple):
    """Sizes of the two streams, as (width, height), all even.

    Attributes:
        main_px: the first stream. It only decides which part of the sensor is seen.
        lores_px: the second stream, which is read. No larger than the first.
    """

    main_px: SizePx
    lores_px: SizePx


def choose_streams(preprocessing: Preprocessing | None, sensor_px: SizePx, size_px: SizePx = DEFAULT_SIZE_PX) -> Streams:
    """Chooses the smallest streams from which `device.image.preprocess.fit_frame` enlarges nothing.

    Args:
        preprocessing: what the network wants; None for the whole picture at ``size_px``.
        sensor_px: width and height of the sensor, or anything of its aspect.
        size_px: of the whole picture.
    """
    if preprocessing is None:
        whole = _at_least((_even(size_px[0]), _even(size_px[1])))
        return Streams(whole, whole)
    if preprocessing.fit == "crop":
        side = _crop_side_px(preprocessing.input_px, preprocessing.crop_fraction)
        square = _at_least((side, side))
        return Streams(square, square)
    if preprocessing.fit == "letterbox":
        whole = _of_aspect(sensor_px, _even(preprocessing.input_px))
        return Streams(whole, whole)
    square = _at_least((_even(preprocessing.input_px),) * 2)
    return Streams(_around(sensor_px, square[0]), square)


def _even(length_px: int) -> int:
    return length_px + length_px % 2


def _crop_side_px(input_px: int, fraction: float) -> int:
    """The smallest even side whose ``fraction``, rounded as `fit_frame` rounds it, is no less than ``input_px``."""
    side = max(2, math.floor(input_px / fraction) // 2 * 2 - 2)
    while round(side * fraction) < input_px:
        side += 2
    return side


def _of_aspect(sensor_px: SizePx, longest_px: int) -> SizePx:
    """A size of the sensor's aspect: its longest side as asked for, or a multiple of that where the ISP can't shrink as far."""
    scale = longest_px / max(sensor_px)
    scale *= math.ceil(LEAST_SIDE_PX / (min(sensor_px) * scale))
    width, height = (2 * round(length * scale / 2) for length in sensor_px)
    return width, height


def _around(sensor_px: SizePx, side_px: int) -> SizePx:
    """The smallest size of the sensor's aspect that holds a square."""
    scale = side_px / min(sensor_px)
    width, height = (max(side_px, 2 * round(length * scale / 2)) for length in sensor_px)
    return width, height


def _at_least(size_px: SizePx) -> SizePx:
    """Multiplies a size that the ISP can't give by a whole number, which keeps its aspect and leaves it even."""
    factor = math.ceil(LEAST_SIDE_PX / min(size_px))
    return size_px[0] * factor, size_px[1] * factor


# --- modes of the sensor ----------------------------------------------------------------------------------------------


class SensorMode(NamedTuple):
    """One way to read a sensor out.

    Attributes:
        size_px: width and height of what it gives.
        seen_px: width and height of what it sees, in pixels of the whole sensor: fast modes may see its middle only.
        rate_fps: the fastest.
    """

    size_px: SizePx
    seen_px: SizePx
    rate_fps: float


def sees_enough(mode: SensorMode, sensor_px: SizePx, preprocessing: Preprocessing | None) -> bool:
    """True where the network sees in this mode all that the sensor could show it.

    Args:
        mode: what the sensor is set to.
        sensor_px: width and height of the whole sensor.
        preprocessing: with ``crop``, the middle square is enough.
    """
    is_square = preprocessing is not None and preprocessing.fit == "crop"
    wanted = (min(sensor_px),) * 2 if is_square else sensor_px
    return all(seen >= _COVERED_SHARE * length for seen, length in zip(mode.seen_px, wanted, strict=True))


def is_fast_enough(mode: SensorMode, rate_fps: float | None) -> bool:
    """True where the mode keeps a rate, or misses it by what clocks divide badly; None stands for any rate."""
    return rate_fps is None or mode.rate_fps >= _FAST_ENOUGH_SHARE * rate_fps


def choose_mode(
    modes: Sequence[SensorMode], sensor_px: SizePx, preprocessing: Preprocessing | None, rate_fps: float | None
) -> SensorMode:
    """Chooses how to read the sensor out: what is seen comes first, then the rate, then the fewest pixels.

    Without it, libcamera would take the mode nearest in size to the streams, which of many sensors is a small part of the
    picture.

    Args:
        modes: at least one.
        sensor_px: width and height of the whole sensor.
        preprocessing: see `sees_enough`.
        rate_fps: that is wanted; None for any.
    """
    seeing = [mode for mode in modes if sees_enough(mode, sensor_px, preprocessing)]
    # A sensor none of whose modes shows it whole: the widest view.
    widest = max(mode.seen_px[0] * mode.seen_px[1] for mode in modes)
    seeing = seeing or [mode for mode in modes if mode.seen_px[0] * mode.seen_px[1] == widest]
    fast = [mode for mode in seeing if is_fast_enough(mode, rate_fps)]
    if fast:
        return min(fast, key=lambda mode: mode.size_px[0] * mode.size_px[1])
    return max(seeing, key=lambda mode: mode.rate_fps)


# --- buffers ----------------------------------------------------------------------------------------------------------


def copy_rgb(buffer: Bytes, size_px: SizePx, stride_bytes: int) -> Image:
    """Copies a picture out of a buffer whose rows are padded.

    Args:
        buffer: flat; three bytes a pixel: R, G, B.
        size_px: width and height.
        stride_bytes: from one row's begin to the next's.

    Returns:
        ``(H, W, 3)``, RGB, C-contiguous, of its own memory.
    """
    width, height = size_px
    rows = buffer[: height * stride_bytes].reshape(height, stride_bytes)[:, : width * 3]
    return rows.copy().reshape(height, width, 3)


def copy_yuv420(buffer: Bytes, size_px: SizePx, stride_bytes: int) -> Bytes:
    """Copies a picture in YUV 4:2:0 out of a buffer whose rows are padded.

    Args:
        buffer: flat; the planes Y, U and V one behind another. The rows of U and V are half as long, padding included.
        size_px: width and height, even.
        stride_bytes: from one row of Y to the next.

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


# BT.601 in limited range, as fractions of 2^20: the numbers by which OpenCV converts, so that its pixels and ours are the same.
_FRACTION_BITS = 20
_LUMA, _RED_V, _GREEN_V, _GREEN_U, _BLUE_U = 1220542, 1673527, -852492, -409993, 2116026
_BLACK, _NO_COLOUR = 16, 128
_LEVELS = np.arange(256, dtype=np.int32)
# Half a level rounds.
_LUMA_OF_Y = np.maximum(_LEVELS - _BLACK, 0) * np.int32(_LUMA) + np.int32(1 << (_FRACTION_BITS - 1))
_CHROMA = _LEVELS - _NO_COLOUR
_RED_OF_V, _GREEN_OF_V = _CHROMA * np.int32(_RED_V), _CHROMA * np.int32(_GREEN_V)
_GREEN_OF_U, _BLUE_OF_U = _CHROMA * np.int32(_GREEN_U), _CHROMA * np.int32(_BLUE_U)


def yuv420_to_rgb(planes: Bytes, size_px: SizePx) -> Image:
    """Converts a picture in YUV 4:2:0 by tables: BT.601's matrix, limited range (libcamera's ``SMPTE170M``).

    The same pixels as `device.image.opencv.convert_raw` gives for YU12, which needs OpenCV: on a board, 90 MB. Four pixels
    share a colour.

    Args:
        planes: ``(H * W * 3 / 2,)``: Y, U and V one behind another, without padding.
        size_px: width and height, even.

    Returns:
        ``(H, W, 3)``, RGB.

    References:
        ITU-R BT.601-7, section 2.5: the matrix, and black at 16 and white at 235.
        OpenCV, modules/imgproc/src/color_yuv.simd.hpp: its coefficients, and how it rounds.
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
