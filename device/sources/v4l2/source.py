"""Frames of a V4L2 camera: USB cameras, and whatever else has a ``/dev/video*`` node.

References:
    Linux kernel, Documentation/userspace-api/media/v4l/buffer.rst: buffers are stamped with the monotonic clock by drivers
    that set ``V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC``, as uvcvideo does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

from device.core.errors import UsageError
from device.image.opencv import least_side_px
from device.sources.base import SourceOptions
from device.sources.live import LiveSource
from device.sources.v4l2.capture import V4l2Capture
from device.sources.v4l2.formats import Wish
from device.sources.v4l2.locator import Locator
from device.sources.v4l2.node import KernelNode, NodeOpener

_GRAMMAR = re.compile(
    r"(?:(?P<number>[0-9]{1,3})|(?P<path>/[^#]+)|name=(?P<name>.+?))(?:#(?P<fourcc>[0-9A-Za-z]{4}))?", re.DOTALL
)


class V4l2Source(LiveSource):
    """Keeps the newest frame of a camera.

    Asks for the cheapest of the camera's modes that has the size and the rate of the options: see
    `device.sources.v4l2.formats.choose_mode`. JPEGs that are much larger than the network's input are decoded at a half, a
    quarter or an eighth of their size.

    Args:
        locator: says where the camera is; remembers which one it was.
        uri: as given.
        fourcc: pixel format to insist on (``YUYV``, ``MJPG``); None for the cheapest.
        options: ``width_px``, ``height_px``, ``rate_fps``, ``preprocessing`` and ``clock`` are taken.
        root: where ``proc`` is.
        open_node: what opens the node.

    Raises:
        SourceError: ``missing`` where there is no such camera, ``ambiguous`` where several may be meant, ``permission``,
            ``busy``, ``format`` where it lacks the pixel format or has none that can be read, ``bandwidth``, ``stalled``
            where it doesn't open in time.
    """

    def __init__(
        self,
        locator: Locator,
        uri: str,
        fourcc: str | None = None,
        options: SourceOptions | None = None,
        *,
        root: Path = Path("/"),
        open_node: NodeOpener = KernelNode,
    ) -> None:
        options = options or SourceOptions()
        wish = Wish.of(options.width_px, options.height_px, options.rate_fps, fourcc)
        side_px = least_side_px(options.preprocessing)

        # In the thread that owns the camera: even to ask a driver what it is may hang.
        def open_capture() -> V4l2Capture:
            path = locator.locate()
            capture = V4l2Capture(path, wish, side_px, clock=options.clock, root=root, open_node=open_node)
            locator.remember(path)
            return capture

        super().__init__(uri, open_capture, options, remedy="unplug it and plug it in again")

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``v4l2:DEVICE[#FORMAT]``: see `opener`."""
        return cls.opener(rest, options)()

    @classmethod
    def opener(
        cls, rest: str, options: SourceOptions, *, root: Path = Path("/"), open_node: NodeOpener = KernelNode
    ) -> Callable[[], Self]:
        """Makes what opens ``v4l2:DEVICE[#FORMAT]``, and finds the camera again where it comes back under another number.

        Args:
            rest: a path (``/dev/video0``, ``/dev/v4l/by-id/...``), a number N for ``/dev/videoN``, or ``name=`` and the card's
                name or a part of it that no other has; then the format to insist on.
            options: see the class.
            root: where ``sys``, ``dev`` and ``proc`` are.
            open_node: what opens a node.

        Raises:
            UsageError: it can't be read.
        """
        match = _GRAMMAR.fullmatch(rest)
        if match is None:
            raise UsageError(
                "source",
                f"'v4l2:{rest}' can't be read",
                expected="v4l2:DEVICE[#FORMAT], such as v4l2:/dev/video0, v4l2:0#MJPG or v4l2:name=HD Webcam",
                reason="malformed_uri",
            )
        number, path, name, fourcc = match.groups()
        node = Path(path or f"/dev/video{number}") if name is None else None
        locator = Locator(node, name or "", root=root, open_node=open_node)
        return lambda: cls(locator, f"v4l2:{rest}", fourcc and fourcc.upper(), options, root=root, open_node=open_node)
