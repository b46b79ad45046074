"""What V4L2 cameras offer, and which of it to take: the formats, sizes and rates that a driver lists.

References:
    Linux kernel, Documentation/userspace-api/media/v4l/: vidioc-enum-fmt, vidioc-enum-framesizes,
    vidioc-enum-frameintervals.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from device.contract import Camera
from device.machine.sysfs import read_text
from device.sources.v4l2.node import (
    DISCRETE,
    ENUM_FMT,
    ENUM_INTERVALS,
    ENUM_SIZES,
    VIDEO_CAPTURE,
    Call,
    KernelNode,
    Node,
    NodeOpener,
    call,
    fourcc,
    opened,
    read_card,
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
"""Processor time to bring a pixel to RGB, by format: those that we can read. Measured by
``python -m tests.benchmarks.pixel_formats`` on the machine that converts (one thread of an x86-64 server, OpenCV 5.0 with
libjpeg-turbo). Only their order and ratios are used."""

MAX_ENTRIES = 256
"""Of any list: a driver that never ends one must not keep us."""

RATE_TOLERANCE = 0.01
"""30 frames a second are also 29.97, which is what cameras that follow NTSC offer for it."""


class FrameSize(msgspec.Struct, frozen=True):
    """A size, or a span of sizes, in one format.

    Attributes:
        width_px: of the picture, or the widest of a span.
        height_px: likewise.
        rates_fps: highest first; empty where the driver doesn't say.
        is_any_rate: every rate between the highest and the lowest can be had.
        least_px: width and height where a span begins; None for a single size.
        step_px: from one size of a span to the next, across and down.
    """

    width_px: int
    height_px: int
    rates_fps: tuple[float, ...] = ()
    is_any_rate: bool = False
    least_px: tuple[int, int] | None = None
    step_px: tuple[int, int] = (1, 1)


class PixelFormat(msgspec.Struct, frozen=True):
    """A format, and the sizes that it comes in.

    Attributes:
        fourcc: its name in four letters.
        description: the driver's words for it.
        sizes: empty where the driver doesn't say.
    """

    fourcc: str
    description: str
    sizes: tuple[FrameSize, ...] = ()


class CameraListing(msgspec.Struct, frozen=True):
    """A camera's node, for people.

    Attributes:
        path: ``/dev/video0``.
        name: the card's in sysfs, as ``v4l2:name=`` takes it.
        driver: ``uvcvideo``.
        bus: where it is plugged in.
        formats: empty where ``problem`` says why.
        problem: why it couldn't be asked; empty where it could.
    """

    path: str
    name: str
    driver: str = ""
    bus: str = ""
    formats: tuple[PixelFormat, ...] = ()
    problem: str = ""


# --- the choice -------------------------------------------------------------------------------------------------------


class Wish(NamedTuple):
    """What is wanted of a camera.

    Attributes:
        width_px: at least.
        height_px: at least.
        rate_fps: at least.
        fourcc: to insist on; None for the cheapest.
    """

    width_px: int
    height_px: int
    rate_fps: float
    fourcc: str | None = None

    @classmethod
    def of(cls, width_px: int | None, height_px: int | None, rate_fps: float | None, fourcc: str | None) -> Wish:
        """Fills what nobody asked for with the profile's defaults."""
        default = Camera(uri="v4l2:0")
        return cls(width_px or default.width_px, height_px or default.height_px, rate_fps or default.rate_fps, fourcc)


class Mode(NamedTuple):
    """What to ask a driver for."""

    fourcc: str
    width_px: int
    height_px: int
    rate_fps: float


def choose_mode(formats: Iterable[PixelFormat], wish: Wish) -> Mode | None:
    """Chooses the cheapest of a camera's modes that satisfies a wish.

    Those that have both the size and the rate come first. Among them the smallest size, then the nearest rate, then the
    format that takes the least processor time. Where none has both, the size goes before the rate, and the largest size or
    the highest rate that there is stands for one that is too much to ask. Pictures without colours come last of all.

    Args:
        formats: as `list_formats` gives them; those that can't be read are passed over.
        wish: what is wanted.

    Returns:
        The mode, or None where no format can be read.
    """
    modes = [mode for entry in formats for mode in _offers(entry, wish)]
    return min(modes, key=lambda mode: _rank(mode, wish), default=None)


def _offers(entry: PixelFormat, wish: Wish) -> Iterator[Mode]:
    if entry.fourcc not in COSTS_NS or wish.fourcc not in (None, entry.fourcc):
        return
    if not entry.sizes:
        # The driver doesn't list them: it takes the nearest that it has.
        yield Mode(entry.fourcc, wish.width_px, wish.height_px, wish.rate_fps)
    for size in entry.sizes:
        width_px, height_px = _nearest_size(size, wish)
        for rate_fps in _nearest_rates(size, wish):
            yield Mode(entry.fourcc, width_px, height_px, rate_fps)


def _nearest_size(size: FrameSize, wish: Wish) -> tuple[int, int]:
    if size.least_px is None:
        return size.width_px, size.height_px
    width_px = _up_to_step(wish.width_px, size.least_px[0], size.width_px, size.step_px[0])
    return width_px, _up_to_step(wish.height_px, size.least_px[1], size.height_px, size.step_px[1])


def _up_to_step(wanted: int, least: int, most: int, step: int) -> int:
    steps = -(-(wanted - least) // max(1, step))
    return min(most, max(least, least + steps * max(1, step)))


def _nearest_rates(size: FrameSize, wish: Wish) -> tuple[float, ...]:
    if not size.rates_fps:
        return (wish.rate_fps,)
    if size.is_any_rate:
        return (min(max(wish.rate_fps, size.rates_fps[-1]), size.rates_fps[0]),)
    return size.rates_fps


def _rank(mode: Mode, wish: Wish) -> tuple[bool, bool, int, int, bool, float, float, Mode]:
    """Orders modes, the best first; see `choose_mode`. The mode itself makes the order total."""
    missing_px = max(0, wish.width_px - mode.width_px) + max(0, wish.height_px - mode.height_px)
    is_slow = mode.rate_fps < wish.rate_fps * (1 - RATE_TOLERANCE)
    # In whole frames a second: 30 and 30.00003, from intervals in tenths of microseconds, are the same.
    off_fps = abs(round(mode.rate_fps) - round(wish.rate_fps))
    pixels = mode.width_px * mode.height_px
    is_lacking = missing_px > 0 or is_slow
    return mode.fourcc == "GREY", is_lacking, missing_px, pixels, is_slow, off_fps, COSTS_NS[mode.fourcc], mode


# --- what a driver lists ----------------------------------------------------------------------------------------------


def list_formats(node: Node) -> tuple[PixelFormat, ...]:
    """Asks a driver for its formats, their sizes, and the rates of those.

    Returns:
        In the driver's order. Empty where it lists none: some leave the calls out.

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
        # A continuous span is a stepwise one with a step of 1, which the driver fills in itself.
        yield FrameSize(
            most_wide, most_high, rates_fps, is_any_rate, (least_wide, least_high), (max(1, step_wide), max(1, step_high))
        )
        return


def _list_rates(node: Node, number: int, width_px: int, height_px: int) -> tuple[tuple[float, ...], bool]:
    """Rates, highest first, and whether all between them can be had; drivers list seconds a frame."""
    rates_fps = set()
    for _, _, _, _, kind, *numbers in _enumerate(node, ENUM_INTERVALS, number, width_px, height_px):
        # A span is its shortest interval, its longest, and a step.
        intervals = [numbers[0:2]] if kind == DISCRETE else [numbers[0:2], numbers[2:4]]
        rates_fps |= {denominator / numerator for numerator, denominator in intervals if numerator and denominator}
        if kind != DISCRETE:
            return tuple(sorted(rates_fps, reverse=True)), True
    return tuple(sorted(rates_fps, reverse=True)), False


def _enumerate(node: Node, what: Call, *fields: int) -> Iterator[tuple[Any, ...]]:
    """Calls with a rising index until the driver has no more, or doesn't know the call."""
    for index in range(MAX_ENTRIES):
        try:
            yield call(node, what, index, *fields)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ENODATA):
                return
            raise


# --- for people -------------------------------------------------------------------------------------------------------


def list_cameras(root: Path = Path("/"), open_node: NodeOpener = KernelNode) -> tuple[CameraListing, ...]:
    """Lists every node that gives pictures, and what it offers. Opens each for a moment, and takes no picture.

    Args:
        root: where ``sys`` and ``dev`` are.
        open_node: what opens one.
    """
    listings = (_list_camera(folder, root, open_node) for folder in video_nodes(root))
    return tuple(listing for listing in listings if listing is not None)


def video_nodes(root: Path) -> list[Path]:
    """The folders of ``/dev/video*`` nodes under ``/sys/class/video4linux``, by number."""
    folders = (root / "sys/class/video4linux").glob("video*")
    numbered = [(int(match[1]), folder) for folder in folders if (match := re.fullmatch("video([0-9]{1,4})", folder.name))]
    return [folder for _, folder in sorted(numbered)]


def _list_camera(folder: Path, root: Path, open_node: NodeOpener) -> CameraListing | None:
    path = root / "dev" / folder.name
    name = read_text(folder / "name") or folder.name
    try:
        with opened(path, open_node) as node:
            card = read_card(node)
            if not card.can_capture:
                return None
            return CameraListing(str(path), name, card.driver, card.bus, list_formats(node))
    except OSError as error:
        return CameraListing(str(path), name, problem=error.strerror or str(error))


def format_cameras(cameras: Iterable[CameraListing]) -> str:
    """A table for people: each camera, and its sizes and rates by format."""
    return "\n".join(line for camera in cameras for line in _format_camera(camera))


def _format_camera(camera: CameraListing) -> Iterator[str]:
    where = f" ({', '.join(part for part in (camera.driver, camera.bus) if part)})" if camera.driver or camera.bus else ""
    yield f"{camera.path}  {camera.name}{where}"
    if camera.problem:
        yield f"  can't be asked: {camera.problem}"
    # Most cameras have the same sizes in several formats.
    alike: dict[tuple[FrameSize, ...], list[str]] = {}
    for entry in camera.formats:
        if entry.fourcc in COSTS_NS:
            alike.setdefault(entry.sizes, []).append(entry.fourcc)
    for sizes, names in alike.items():
        yield f"  {', '.join(names)}" + ("" if sizes else ": sizes aren't listed")
        for size in sizes:
            yield f"    {_format_size(size):<24}{_format_rates(size)}".rstrip()
    unreadable = [entry.fourcc for entry in camera.formats if entry.fourcc not in COSTS_NS]
    if unreadable:
        yield f"  can't be read: {', '.join(unreadable)}"


def _format_size(size: FrameSize) -> str:
    if size.least_px is None:
        return f"{size.width_px}x{size.height_px}"
    return f"{size.least_px[0]}x{size.least_px[1]} to {size.width_px}x{size.height_px}"


def _format_rates(size: FrameSize) -> str:
    shown = [f"{rate_fps:.4g}" for rate_fps in size.rates_fps]
    if not shown:
        return ""
    return (f"{shown[-1]} to {shown[0]}" if size.is_any_rate else ", ".join(shown)) + " fps"
