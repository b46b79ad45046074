"""The formats, sizes and rates that a V4L2 driver lists, and the choice among them.

References:
    Linux kernel, Documentation/userspace-api/media/v4l/: vidioc-enum-fmt, vidioc-enum-framesizes,
    vidioc-enum-frameintervals.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from device.sources.v4l2.node import (
    DISCRETE,
    ENUM_FMT,
    ENUM_INTERVALS,
    ENUM_SIZES,
    VIDEO_CAPTURE,
    Call,
    Node,
    call,
    fourcc,
)

COSTS_NS = {
    "RGB3": 0.1,
    "BGR3": 0.1,
    "GREY": 0.1,
    "NV12": 0.5,
    "NV21": 0.5,
    "YU12": 0.5,
    "YV12": 0.5,
    "YUYV": 0.5,
    "UYVY": 0.5,
    "MJPG": 4.0,
    "JPEG": 4.0,
}
"""Processor time to convert a pixel to RGB, for each format that we can read. Measured by
``python -m tests.benchmarks.pixel_formats`` on the converter's machine (one thread of an x86-64 server, OpenCV 5.0 with
libjpeg-turbo). Only their order and ratios are used."""

MAX_ENTRIES = 256
"""Longest list that is read from a driver, in case one never ends."""

RATE_TOLERANCE = 0.01
"""29.97 frames a second, which cameras that follow NTSC offer, counts as 30."""


class FrameSize(msgspec.Struct, frozen=True):
    """A size, or a range of sizes, in one format.

    Attributes:
        width_px: width of the picture; of a range, the largest.
        height_px: height of the picture; of a range, the largest.
        rates_fps: highest first; empty if the driver doesn't list them.
        is_any_rate: every rate between the highest and the lowest is available.
        least_px: smallest width and height of a range; None for a single size.
        step_px: horizontal and vertical step between the sizes of a range.
    """

    width_px: int
    height_px: int
    rates_fps: tuple[float, ...] = ()
    is_any_rate: bool = False
    least_px: tuple[int, int] | None = None
    step_px: tuple[int, int] = (1, 1)


class PixelFormat(msgspec.Struct, frozen=True):
    """A pixel format and its sizes.

    Attributes:
        fourcc: its four-character code.
        description: the driver's description.
        sizes: empty if the driver doesn't list them.
    """

    fourcc: str
    description: str
    sizes: tuple[FrameSize, ...] = ()


# --- the choice -------------------------------------------------------------------------------------------------------


class ModeRequest(NamedTuple):
    """The mode that is asked of a camera.

    Attributes:
        width_px: minimum width.
        height_px: minimum height.
        rate_fps: minimum rate.
        fourcc: the required format; None for the cheapest.
    """

    width_px: int
    height_px: int
    rate_fps: float
    fourcc: str | None = None


class Mode(NamedTuple):
    """A format, size and rate to set on a driver."""

    fourcc: str
    width_px: int
    height_px: int
    rate_fps: float


def choose_mode(formats: Iterable[PixelFormat], request: ModeRequest) -> Mode | None:
    """Chooses the cheapest of a camera's modes that satisfies a request.

    Modes that reach both the size and the rate come first; among them, the smallest size wins, then the nearest rate, then the
    format that takes the least processor time. If no mode reaches both, the size matters more than the rate, and a request
    beyond what the camera has gets its largest size or highest rate. Pictures without colours come last.

    Args:
        formats: as returned by `list_formats`; those that can't be read are skipped.
        request: the mode that is wanted.

    Returns:
        The mode, or None if no format can be read.
    """
    modes = [mode for entry in formats for mode in _offers(entry, request)]
    return min(modes, key=lambda mode: _rank(mode, request), default=None)


def _offers(entry: PixelFormat, request: ModeRequest) -> Iterator[Mode]:
    if entry.fourcc not in COSTS_NS or request.fourcc not in (None, entry.fourcc):
        return
    if not entry.sizes:
        # The driver lists no sizes: it will choose the nearest one that it has.
        yield Mode(entry.fourcc, request.width_px, request.height_px, request.rate_fps)
    for size in entry.sizes:
        width_px, height_px = _nearest_size(size, request)
        for rate_fps in _nearest_rates(size, request):
            yield Mode(entry.fourcc, width_px, height_px, rate_fps)


def _nearest_size(size: FrameSize, request: ModeRequest) -> tuple[int, int]:
    if size.least_px is None:
        return size.width_px, size.height_px
    width_px = _up_to_step(request.width_px, size.least_px[0], size.width_px, size.step_px[0])
    return width_px, _up_to_step(request.height_px, size.least_px[1], size.height_px, size.step_px[1])


def _up_to_step(wanted: int, least: int, most: int, step: int) -> int:
    steps = -(-(wanted - least) // max(1, step))
    return min(most, max(least, least + steps * max(1, step)))


def _nearest_rates(size: FrameSize, request: ModeRequest) -> tuple[float, ...]:
    if not size.rates_fps:
        return (request.rate_fps,)
    if size.is_any_rate:
        return (min(max(request.rate_fps, size.rates_fps[-1]), size.rates_fps[0]),)
    return size.rates_fps


def _rank(mode: Mode, request: ModeRequest) -> tuple[bool, bool, int, int, bool, float, float, Mode]:
    """Sort key of a mode, best first; see `choose_mode`. The mode itself makes the order total."""
    missing_px = max(0, request.width_px - mode.width_px) + max(0, request.height_px - mode.height_px)
    is_slow = mode.rate_fps < request.rate_fps * (1 - RATE_TOLERANCE)
    # In whole frames a second: 30.00003, which comes from intervals in tenths of microseconds, counts as 30.
    off_fps = abs(round(mode.rate_fps) - round(request.rate_fps))
    pixels = mode.width_px * mode.height_px
    is_lacking = missing_px > 0 or is_slow
    return mode.fourcc == "GREY", is_lacking, missing_px, pixels, is_slow, off_fps, COSTS_NS[mode.fourcc], mode


# --- listing ----------------------------------------------------------------------------------------------------------


def list_formats(node: Node) -> tuple[PixelFormat, ...]:
    """Asks a driver for its formats, with their sizes and rates.

    Returns:
        The formats in the driver's order; empty if it lists none, since some drivers don't implement these calls.

    Raises:
        OSError: the device is gone.
    """
    entries = []
    for _, _, _, description, number, *_ in _enumerate(node, ENUM_FMT, VIDEO_CAPTURE):
        words = description.partition(b"\0")[0].decode("utf-8", "replace")
        entries.append(PixelFormat(fourcc(number), words, tuple(_list_sizes(node, number))))
    return tuple(entries)


def _list_sizes(node: Node, number: int) -> Iterator[FrameSize]:
    for _, _, kind, *numbers in _enumerate(node, ENUM_SIZES, number):
        if kind == DISCRETE:
            width_px, height_px = numbers[:2]
            rates_fps, is_any_rate = _list_rates(node, number, width_px, height_px)
            yield FrameSize(width_px, height_px, rates_fps, is_any_rate)
            continue
        least_wide, most_wide, step_wide, least_high, most_high, step_high = numbers[:6]
        rates_fps, is_any_rate = _list_rates(node, number, most_wide, most_high)
        # A continuous range is a stepwise one with a step of 1, which the driver fills in itself.
        yield FrameSize(
            most_wide, most_high, rates_fps, is_any_rate, (least_wide, least_high), (max(1, step_wide), max(1, step_high))
        )
        return


def _list_rates(node: Node, number: int, width_px: int, height_px: int) -> tuple[tuple[float, ...], bool]:
    """Rates, highest first, and whether all rates between them are available. Drivers list seconds per frame."""
    rates_fps = set()
    for _, _, _, _, kind, *numbers in _enumerate(node, ENUM_INTERVALS, number, width_px, height_px):
        # A range is its shortest interval, its longest, and a step.
        intervals = [numbers[0:2]] if kind == DISCRETE else [numbers[0:2], numbers[2:4]]
        rates_fps |= {denominator / numerator for numerator, denominator in intervals if numerator and denominator}
        if kind != DISCRETE:
            return tuple(sorted(rates_fps, reverse=True)), True
    return tuple(sorted(rates_fps, reverse=True)), False


def _enumerate(node: Node, what: Call, *fields: int) -> Iterator[tuple[Any, ...]]:
    """Repeats a call with a rising index until the driver has no more entries, or doesn't know the call."""
    for index in range(MAX_ENTRIES):
        try:
            yield call(node, what, index, *fields)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ENODATA):
                return
            raise
