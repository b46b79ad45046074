"""The kernel's V4L2 interface: its ioctl numbers, the layouts of their arguments, and an open device node.

OpenCV's V4L2 backend isn't used: it drops what reveals a damaged picture (bytes used, the error flag), assumes that a line is
as long as the picture is wide, asks for whole frames per second only, and waits 10 s for a camera that another program holds.

References:
    Linux kernel, include/uapi/linux/videodev2.h and include/uapi/asm-generic/ioctl.h. The layouts are those of 64-bit
    kernels, on which every field has its natural alignment.
    Documentation/userspace-api/media/v4l/: capture-example, buffer, vidioc-querycap, vidioc-enum-fmt, vidioc-dqbuf.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, Protocol

_WRITE, _READ = 1, 2


class Call(NamedTuple):
    """An ioctl and the layout of its argument.

    Attributes:
        request: the ioctl's number.
        layout: of its argument; numbers and texts in the order of the header.
    """

    request: int
    layout: Struct

    def pack(self, *fields: int | bytes) -> bytearray:
        """Packs an argument whose first fields are given; the rest is zero."""
        empty = self.layout.unpack(bytes(self.layout.size))
        return bytearray(self.layout.pack(*fields, *empty[len(fields) :]))


def _call(direction: int, number: int, layout: str) -> Call:
    argument = Struct("=" + layout)
    return Call(direction << 30 | argument.size << 16 | ord("V") << 8 | number, argument)


QUERYCAP = _call(_READ, 0, "16s32s32s6I")  # driver, card, bus, version, capabilities, those of this node, reserved
ENUM_FMT = _call(_READ | _WRITE, 2, "3I32s5I")  # index, type, flags, description, format, reserved
GET_FORMAT = _call(_READ | _WRITE, 4, "I4x12I152x")  # type, width, height, format, field, bytes a line, bytes, ...
SET_FORMAT = _call(_READ | _WRITE, 5, "I4x12I152x")
REQUEST_BUFFERS = _call(_READ | _WRITE, 8, "5I")  # count, type, memory, ...
QUERY_BUFFER = _call(_READ | _WRITE, 9, "5I4x2q16sIIQIIi4x")  # see `Buffer`
QUEUE_BUFFER = _call(_READ | _WRITE, 15, "5I4x2q16sIIQIIi4x")
DEQUEUE_BUFFER = _call(_READ | _WRITE, 17, "5I4x2q16sIIQIIi4x")
STREAM_ON = _call(_WRITE, 18, "I")
STREAM_OFF = _call(_WRITE, 19, "I")
GET_RATE = _call(_READ | _WRITE, 21, "11I160x")  # type, capability, mode, seconds a frame (two numbers), ...
SET_RATE = _call(_READ | _WRITE, 22, "11I160x")
ENUM_SIZES = _call(_READ | _WRITE, 74, "11I")  # index, format, kind, then a size, or least, most and step
ENUM_INTERVALS = _call(_READ | _WRITE, 75, "13I")  # index, format, width, height, kind, then one, or least, most and step

VIDEO_CAPTURE = 1
"""``V4L2_BUF_TYPE_VIDEO_CAPTURE``: the type of every buffer and format used here."""

MEMORY_MAPPED = 1
"""``V4L2_MEMORY_MMAP``."""

CAN_CAPTURE, CAN_CAPTURE_PLANES, CAN_STREAM, HAS_NODE_CAPABILITIES = 0x1, 0x1000, 0x0400_0000, 0x8000_0000
"""``V4L2_CAP_VIDEO_CAPTURE``, ``_VIDEO_CAPTURE_MPLANE``, ``_STREAMING``, ``_DEVICE_CAPS``."""

CAN_SET_RATE = 0x1000
"""``V4L2_CAP_TIMEPERFRAME``."""

DISCRETE = 1
"""``V4L2_FRMSIZE_TYPE_DISCRETE`` and ``V4L2_FRMIVAL_TYPE_DISCRETE``; 2 is continuous, 3 stepwise."""

IS_DAMAGED, CLOCK_MASK, CLOCK_IS_MONOTONIC = 0x40, 0xE000, 0x2000
"""``V4L2_BUF_FLAG_ERROR``, ``_TIMESTAMP_MASK``, ``_TIMESTAMP_MONOTONIC``."""


class Node(Protocol):
    """An open device node: the only layer that touches the kernel, and the one that tests replace."""

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Performs an ioctl, which may change the argument.

        Raises:
            OSError: with the driver's errno.
        """

    def map(self, length_bytes: int, offset_bytes: int) -> mmap.mmap:
        """Maps a buffer for reading.

        Raises:
            OSError: with the driver's errno.
        """

    def wait(self, timeout_s: float) -> bool:
        """Waits for a picture or an error to fetch; returns False if neither came in time."""

    def close(self) -> None:
        """Closes the node. Called once."""


class KernelNode:
    """A node under ``/dev``.

    Raises:
        OSError: the node doesn't exist, may not be opened, or its device is gone.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def ioctl(self, request: int, argument: bytearray) -> None:
        """See `Node.ioctl`."""
        fcntl.ioctl(self._file, request, argument)

    def map(self, length_bytes: int, offset_bytes: int) -> mmap.mmap:
        """See `Node.map`."""
        return mmap.mmap(self._file, length_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset_bytes)

    def wait(self, timeout_s: float) -> bool:
        """See `Node.wait`."""
        return bool(self._poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """See `Node.close`."""
        os.close(self._file)


NodeOpener = Callable[[Path], Node]


def call(node: Node, what: Call, *fields: int | bytes) -> tuple[Any, ...]:
    """Performs an ioctl whose argument's first fields are given.

    Returns:
        The argument's fields as the driver returned them.

    Raises:
        OSError: with the driver's errno.
    """
    argument = what.pack(*fields)
    node.ioctl(what.request, argument)
    return what.layout.unpack(argument)


class NodeInfo(NamedTuple):
    """What a node reports about itself and the card behind it.

    Attributes:
        driver: ``uvcvideo``.
        name: of the card: ``HD Pro Webcam C920``.
        bus: ``usb-0000:01:00.0-1.2``.
        capabilities: of this node, which may be fewer than its card's.
    """

    driver: str
    name: str
    bus: str
    capabilities: int

    @property
    def can_capture(self) -> bool:
        """Whether the node captures pictures in a single plane, through mapped buffers."""
        return bool(self.capabilities & CAN_CAPTURE and self.capabilities & CAN_STREAM)


def read_node_info(node: Node) -> NodeInfo:
    """Asks a node what it is.

    Raises:
        OSError: ``ENOTTY`` if it isn't a V4L2 device.
    """
    driver, name, bus, _, capabilities, of_node, *_ = call(node, QUERYCAP)
    return NodeInfo(_text(driver), _text(name), _text(bus), of_node if capabilities & HAS_NODE_CAPABILITIES else capabilities)


@contextmanager
def opened(path: Path, open_node: NodeOpener) -> Iterator[Node]:
    """Opens a node for the length of a ``with`` block."""
    node = open_node(path)
    try:
        yield node
    finally:
        node.close()


class Buffer(NamedTuple):
    """The fields of ``struct v4l2_buffer`` that are used here."""

    number: int
    used_bytes: int
    flags: int
    seconds: int
    microseconds: int
    sequence: int
    offset_bytes: int
    length_bytes: int

    @property
    def timestamp_ns(self) -> int | None:
        """When the driver stamped the buffer; None if it did so by another clock than the monotonic one."""
        is_monotonic = self.flags & CLOCK_MASK == CLOCK_IS_MONOTONIC
        return self.seconds * 10**9 + self.microseconds * 1000 if is_monotonic else None


def call_buffer(node: Node, what: Call, index: int) -> Buffer:
    """Performs one of the ioctls that take a buffer.

    Raises:
        OSError: with the driver's errno.
    """
    fields = call(node, what, index, VIDEO_CAPTURE, 0, 0, 0, 0, 0, b"", 0, MEMORY_MAPPED)
    index, _, used, flags, _, seconds, micros, _, sequence, _, offset, length, *_ = fields
    return Buffer(index, used, flags, seconds, micros, sequence, offset, length)


def fourcc(number: int) -> str:
    """Turns a format's number into its four characters (``MJPG``)."""
    return (number & 0x7FFF_FFFF).to_bytes(4, "little").decode("latin-1").rstrip(" ")


def fourcc_number(name: str) -> int:
    """Turns a format's four characters into its number."""
    return int.from_bytes(name.ljust(4).encode("latin-1"), "little")


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace").strip()
