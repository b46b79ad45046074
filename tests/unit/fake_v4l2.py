"""A V4L2 driver, as far as its calls go: what stands below `device.sources.v4l2.node.Node`, and nothing above it."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from device.sources.v4l2 import node as kernel
from device.sources.v4l2.formats import FrameSize, PixelFormat
from device.sources.v4l2.listing import CameraListing

LISTINGS = Path(__file__).parents[1] / "fixtures" / "v4l2"
TICK_S = 0.003

T = TypeVar("T")

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# UVC counts intervals in tenths of microseconds.
UVC_SECOND = 10_000_000


def load_listing(name: str) -> CameraListing:
    """What a camera lists: the C920 and the MJPG-only one as ``v4l2-ctl --list-formats-ext`` shows them, vivid as captured."""
    return msgspec.json.decode((LISTINGS / f"{name}.json").read_bytes(), type=CameraListing)


class Shot(NamedTuple):
    """A picture that the driver gives; ``sequence`` None counts on."""

    data: bytes
    flags: int = kernel.CLOCK_IS_MONOTONIC
    sequence: int | None = None
    age_s: float = 0.001


class FakeDriver:
    """A camera and its driver.

    Attributes:
        shoot: gives the shots that are ready, at each wait, by the count of waits; may take its time.
        refuse: errno by request.
        is_gone: everything fails, as behind an unplugged camera.
        nodes: that were opened.
        asked: the last format, size and interval that were asked for.
    """

    def __init__(
        self,
        formats: tuple[PixelFormat, ...],
        *,
        name: str = "HD Webcam",
        capabilities: int | None = None,
        padding_bytes: int = 0,
    ) -> None:
        self.formats = formats
        self.name = name
        self.capabilities = kernel.CAN_CAPTURE | kernel.CAN_STREAM if capabilities is None else capabilities
        self.padding_bytes = padding_bytes
        self.shoot: Callable[[int], list[Shot]] = lambda wait: []
        self.refuse: dict[int, int] = {}
        self.is_gone = False
        self.can_set_rate = True
        self.nodes: list[FakeNode] = []
        self.format: tuple[int, int, int] = (640, 480, kernel.fourcc_number(formats[0].fourcc) if formats else 0)
        self.interval = (1, 30)

    def open(self, path: Path) -> FakeNode:
        self.nodes.append(FakeNode(self))
        return self.nodes[-1]

    def sizes(self, number: int) -> tuple[FrameSize, ...]:
        return next((entry.sizes for entry in self.formats if kernel.fourcc_number(entry.fourcc) == number), ())


class FakeNode:
    """An open node of a `FakeDriver`."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.is_closed = False
        self.is_streaming = False
        self.waits = 0
        self.sequence = 0
        self.queued: deque[int] = deque()
        self.done: deque[tuple[int, Shot, int]] = deque()
        self.memory: list[mmap.mmap] = []
        self._answers: dict[int, tuple[kernel.Call, Callable[..., list[Any]]]] = {
            call.request: (call, answer)
            for call, answer in (
                (kernel.QUERYCAP, self._query),
                (kernel.ENUM_FMT, self._enumerate_formats),
                (kernel.ENUM_SIZES, self._enumerate_sizes),
                (kernel.ENUM_INTERVALS, self._enumerate_intervals),
                (kernel.GET_FORMAT, self._get_format),
                (kernel.SET_FORMAT, self._set_format),
                (kernel.GET_RATE, self._get_rate),
                (kernel.SET_RATE, self._set_rate),
                (kernel.REQUEST_BUFFERS, self._request_buffers),
                (kernel.QUERY_BUFFER, self._query_buffer),
                (kernel.QUEUE_BUFFER, self._queue_buffer),
                (kernel.DEQUEUE_BUFFER, self._dequeue_buffer),
                (kernel.STREAM_ON, self._stream_on),
                (kernel.STREAM_OFF, self._stream_off),
            )
        }

    def ioctl(self, request: int, argument: bytearray) -> None:
        assert not self.is_closed
        if self.driver.is_gone:
            raise fail(errno.ENODEV)
        if request in self.driver.refuse:
            raise fail(self.driver.refuse[request])
        call, answer = self._answers[request]
        fields = list(call.layout.unpack(argument))
        # The kernel refuses other kinds of buffers than those that this fake has.
        call.layout.pack_into(argument, 0, *overlay(fields, answer(*fields)))

    def map(self, length_bytes: int, offset_bytes: int) -> mmap.mmap:
        self.memory.append(mmap.mmap(-1, length_bytes))
        return self.memory[-1]

    def wait(self, timeout_s: float) -> bool:
        time.sleep(TICK_S)
        if self.driver.is_gone:
            return True
        for shot in self.driver.shoot(self.waits):
            self._expose(shot)
        self.waits += 1
        return bool(self.done)

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True

    def _expose(self, shot: Shot) -> None:
        sequence = self.sequence if shot.sequence is None else shot.sequence
        self.sequence = sequence + 1
        if not self.queued:
            return
        index = self.queued.popleft()
        self.memory[index][: len(shot.data)] = shot.data
        self.done.append((index, shot, sequence))

    # --- answers: the first fields of the argument that come back ------------------------------------------------------

    def _query(self, *_: Any) -> list[Any]:
        card = self.driver.name.encode()
        of_card = self.driver.capabilities | kernel.HAS_NODE_CAPABILITIES | kernel.CAN_CAPTURE
        return [b"uvcvideo", card, b"usb-0000:01:00.0-1.2", 0x60100, of_card, self.driver.capabilities]

    def _enumerate_formats(self, index: int, *_: Any) -> list[Any]:
        entry = pick(self.driver.formats, index)
        return [index, kernel.VIDEO_CAPTURE, 0, entry.description.encode(), kernel.fourcc_number(entry.fourcc)]

    def _enumerate_sizes(self, index: int, number: int, *_: Any) -> list[Any]:
        size = pick(self.driver.sizes(number), index)
        if size.least_px is None:
            return [index, number, kernel.DISCRETE, size.width_px, size.height_px]
        (least_wide, least_high), (step_wide, step_high) = size.least_px, size.step_px
        return [index, number, 3, least_wide, size.width_px, step_wide, least_high, size.height_px, step_high]

    def _enumerate_intervals(self, index: int, number: int, width_px: int, height_px: int, *_: Any) -> list[Any]:
        sizes = self.driver.sizes(number)
        size = next(size for size in sizes if (size.width_px, size.height_px) == (width_px, height_px))
        if size.is_any_rate:
            pick(size.rates_fps, index and len(size.rates_fps))
            shortest, longest = (interval(rate_fps) for rate_fps in (size.rates_fps[0], size.rates_fps[-1]))
            return [index, number, width_px, height_px, 2, *shortest, *longest, 1, UVC_SECOND]
        return [index, number, width_px, height_px, kernel.DISCRETE, *interval(pick(size.rates_fps, index))]

    def _get_format(self, *_: Any) -> list[Any]:
        width_px, height_px, number = self.driver.format
        return [kernel.VIDEO_CAPTURE, width_px, height_px, number]

    def _set_format(self, kind: int, width_px: int, height_px: int, number: int, *_: Any) -> list[Any]:
        assert kind == kernel.VIDEO_CAPTURE
        if self.driver.formats and number not in map(kernel.fourcc_number, (entry.fourcc for entry in self.driver.formats)):
            number = kernel.fourcc_number(self.driver.formats[0].fourcc)
        self.driver.format = (width_px, height_px, number)
        line_bytes = width_px * {"YUYV": 2, "RGB3": 3}.get(kernel.fourcc(number), 1) + self.driver.padding_bytes
        return [kind, width_px, height_px, number, 1, line_bytes, line_bytes * height_px]

    def _get_rate(self, kind: int, *_: Any) -> list[Any]:
        return [kind, kernel.CAN_SET_RATE if self.driver.can_set_rate else 0]

    def _set_rate(self, kind: int, _: int, mode: int, numerator: int, denominator: int, *__: Any) -> list[Any]:
        self.driver.interval = (numerator, denominator)
        return [kind, kernel.CAN_SET_RATE, mode, numerator, denominator]

    def _request_buffers(self, count: int, *_: Any) -> list[Any]:
        return [count]

    def _query_buffer(self, index: int, *_: Any) -> list[Any]:
        width_px, height_px, _number = self.driver.format
        length_bytes = (3 * width_px + self.driver.padding_bytes) * height_px
        return [*buffer(index, 0, 0, 0, 0), index * length_bytes, length_bytes]

    def _queue_buffer(self, index: int, *_: Any) -> list[Any]:
        assert index not in self.queued
        self.queued.append(index)
        return [index]

    def _dequeue_buffer(self, *_: Any) -> list[Any]:
        assert self.is_streaming
        if not self.done:
            raise fail(errno.EAGAIN)
        index, shot, sequence = self.done.popleft()
        stamp_ns = time.monotonic_ns() - round(shot.age_s * 1e9)
        return buffer(index, len(shot.data), shot.flags, stamp_ns, sequence)

    def _stream_on(self, *_: Any) -> list[Any]:
        self.is_streaming = True
        return []

    def _stream_off(self, *_: Any) -> list[Any]:
        self.is_streaming = False
        return []


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Waits for another thread to get somewhere."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(TICK_S)


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def overlay(fields: list[Any], answer: list[Any]) -> Iterator[Any]:
    yield from answer
    yield from fields[len(answer) :]


def pick(items: tuple[T, ...], index: int) -> T:
    if index >= len(items):
        raise fail(errno.EINVAL)
    return items[index]


def interval(rate_fps: float) -> tuple[int, int]:
    return int(UVC_SECOND / rate_fps), UVC_SECOND


def buffer(index: int, used_bytes: int, flags: int, stamp_ns: int, sequence: int) -> list[Any]:
    seconds, rest_ns = divmod(stamp_ns, 10**9)
    kind, memory = kernel.VIDEO_CAPTURE, kernel.MEMORY_MAPPED
    return [index, kind, used_bytes, flags, 1, seconds, rest_ns // 1000, bytes(16), sequence, memory]


def make_tree(root: Path, *cameras: dict[str, str]) -> None:
    """Lays out sysfs and ``/dev`` as the kernel does for USB cameras.

    Args:
        root: of the tree; what was there of it before is replaced.
        cameras: ``node`` (``video0``), ``name``, ``port``, and what else differs: ``index``, ``serial``, ``product``,
            ``interface`` (``1.3``).
    """
    for folder in (root / "sys/class/video4linux", root / "dev"):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.glob("video*"):
            entry.unlink()
    for camera in cameras:
        usb = root / "sys/devices/usb1" / camera["port"]
        node = usb / f"{camera['port']}:{camera.get('interface', '1.0')}" / "video4linux" / camera["node"]
        node.mkdir(parents=True, exist_ok=True)
        write(usb / "idVendor", "046d")
        write(usb / "idProduct", camera.get("product", "082d"))
        (usb / "serial").unlink(missing_ok=True)
        if "serial" in camera:
            write(usb / "serial", camera["serial"])
        write(node / "name", camera["name"])
        write(node / "index", camera.get("index", "0"))
        (node / "device").unlink(missing_ok=True)
        (node / "device").symlink_to("../..")
        (root / "sys/class/video4linux" / camera["node"]).symlink_to(node)
        # Any device will do, as long as neighbours are different ones.
        (root / "dev" / camera["node"]).symlink_to(DEVICES[int(camera["node"].removeprefix("video")) % 5])


def write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n")
