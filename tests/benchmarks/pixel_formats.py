"""What a camera's pixel formats cost to bring to RGB: ``python -m tests.benchmarks.pixel_formats [PHOTO]``.

`device.sources.v4l2.formats.COSTS_NS` are its figures; only their ratios matter there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from device.core.errors import exit_with_one_line
from device.image.opencv import RAW_FORMATS, convert_raw, decode_image, decode_jpeg
from device.protocols import Image

SIZES_PX = ((640, 480), (1280, 720), (1920, 1080))
QUALITY = 85
"""Of the JPEGs: near what webcams send (a C920's 1080p pictures have about 0.2 bytes a pixel)."""

ROUNDS = 50

_CHANNELS = {"YUYV": 2, "UYVY": 2, "RGB3": 3, "BGR3": 3}
_PLANAR = ("NV12", "NV21", "YU12", "YV12")


def cost_ns(work: Callable[[], object], pixels: int) -> float:
    """Processor time for a pixel: the median of many pictures."""
    work()
    times_ns = []
    for _ in range(ROUNDS):
        start_ns = time.process_time_ns()
        work()
        times_ns.append(time.process_time_ns() - start_ns)
    return statistics.median(times_ns) / pixels


def encode(image: Image) -> bytes:
    """As webcams encode: colours halved across, not down."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes())


def size_bytes(fourcc: str, width_px: int, height_px: int) -> int:
    """Of an unpadded picture."""
    return width_px * height_px * 3 // 2 if fourcc in _PLANAR else width_px * height_px * _CHANNELS.get(fourcc, 1)


def measure(photo: Image, width_px: int, height_px: int) -> dict[str, float]:
    """Nanoseconds a pixel of the camera's picture, by format."""
    image = np.asarray(cv2.resize(photo, (width_px, height_px), interpolation=cv2.INTER_AREA), np.uint8)
    pixels, jpeg = width_px * height_px, encode(image)
    # What uncompressed pixels hold makes no difference to their conversion.
    raw = np.resize(image, 3 * pixels).tobytes()
    costs = {}
    for fourcc in sorted(RAW_FORMATS):
        data = raw[: size_bytes(fourcc, width_px, height_px)]
        convert = partial(convert_raw, data, "", fourcc=fourcc, width_px=width_px, height_px=height_px)
        costs[fourcc] = cost_ns(convert, pixels)
    for divisor in (1, 2, 4, 8):
        costs[f"MJPG/{divisor}"] = cost_ns(partial(decode_jpeg, jpeg, "", least_side_px=height_px // divisor), pixels)
    return costs


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pixel_formats", description=__doc__)
    parser.add_argument("photo", nargs="?", type=Path, help="a photograph, which is scaled (default: scikit-image's astronaut)")
    chosen = parser.parse_args().photo
    photo = decode_image(chosen) if chosen else np.asarray(skimage.data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]
    results = [measure(photo, *size) for size in SIZES_PX]
    print(f"{'ns a pixel':<12}" + "".join(f"{f'{width}x{height}':>12}" for width, height in SIZES_PX))
    for name in results[0]:
        print(f"{name:<12}" + "".join(f"{result[name]:>12.2f}" for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
