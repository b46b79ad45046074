"""Frames of a V4L2 camera: a USB camera, or whatever else has a ``/dev/video*`` node.

References:
    Linux kernel, Documentation/userspace-api/media/v4l/buffer.rst: drivers that set ``V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC``,
    such as uvcvideo, stamp their buffers by the monotonic clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Self

from device.core.errors import UsageError
from device.core.plugin import Needs, import_package
from device.core.programs import Run
from device.image.preprocess import least_side_px
from device.sources.base import OPENCV, Diagnosis, SourceOptions
from device.sources.live import LiveSource
from device.sources.v4l2.capture import V4l2Capture
from device.sources.v4l2.formats import ModeRequest
from device.sources.v4l2.listing import diagnose_camera, list_cameras
from device.sources.v4l2.locator import Locator
from device.sources.v4l2.node import KernelNode, NodeOpener

_GRAMMAR = re.compile(
    r"(?:(?P<number>[0-9]{1,3})|(?P<path>/[^#]+)|name=(?P<name>.+?))(?:#(?P<fourcc>[0-9A-Za-z]{4}))?", re.DOTALL
)


class V4l2Source(LiveSource):
    """A V4L2 camera, such as one on USB; keeps its newest frame.

    Asks for the cheapest of the camera's modes that has the size and the rate of the options; see
    `device.sources.v4l2.formats.choose_mode`. JPEGs much larger than the network's input are decoded at a half, a quarter or an
    eighth of their size.

    Args:
        locator: finds the camera, and remembers which one it was.
        uri: as given.
        fourcc: the required pixel format (``YUYV``, ``MJPG``); None for the cheapest.
        options: ``width_px``, ``height_px``, ``rate_fps``, ``preprocessing`` and ``clock`` are used.
        root: folder that holds ``proc``.
        open_node: opens the node.

    Raises:
        SourceError: ``missing`` if there is no such camera, ``ambiguous`` if several match, ``permission``, ``busy``,
            ``format`` if it lacks the pixel format or has none that can be read, ``bandwidth``, ``stalled`` if it doesn't open
            in time.
    """

    needs: ClassVar[Needs] = OPENCV._replace(devices=("char-video4linux",), groups=("video",))

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
        import_package("device.image.opencv", self.needs, "source v4l2")
        request = ModeRequest(*options.requested_mode, fourcc)
        side_px = least_side_px(options.preprocessing)

        # Runs in the thread that owns the camera: even a query to its driver may hang.
        def open_capture() -> V4l2Capture:
            path = locator.locate()
            capture = V4l2Capture(path, request, side_px, clock=options.clock, root=root, open_node=open_node)
            locator.remember(path)
            return capture

        super().__init__(uri, open_capture, options, remedy="unplug it and plug it in again")

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``v4l2:DEVICE[#FORMAT]``; see `opener`."""
        return cls.opener(rest, options)()

    @classmethod
    def opener(
        cls, rest: str, options: SourceOptions, *, root: Path = Path("/"), open_node: NodeOpener = KernelNode
    ) -> Callable[[], Self]:
        """Returns a function that opens ``v4l2:DEVICE[#FORMAT]``, and finds the camera again if its number has changed.

        Args:
            rest: a path (``/dev/video0``, ``/dev/v4l/by-id/...``), a number N for ``/dev/videoN``, or ``name=`` and the card's
                name or a unique part of it; then the required format.
            options: see the class.
            root: folder that holds ``sys``, ``dev`` and ``proc``.
            open_node: opens a node.

        Raises:
            UsageError: the URI is malformed.
        """
        match = _GRAMMAR.fullmatch(rest)
        if match is None:
            raise UsageError(
                "source",
                f"'v4l2:{rest}' is malformed",
                expected="v4l2:DEVICE[#FORMAT], such as v4l2:/dev/video0, v4l2:0#MJPG or v4l2:name=HD Webcam",
                reason="malformed_uri",
            )
        number, path, name, fourcc = match.groups()
        node = Path(path or f"/dev/video{number}") if name is None else None
        locator = Locator(node, name or "", root=root, open_node=open_node)
        return lambda: cls(locator, f"v4l2:{rest}", fourcc and fourcc.upper(), options, root=root, open_node=open_node)

    @classmethod
    def diagnose(cls, root: Path, run: Run) -> Iterator[Diagnosis]:  # noqa: ARG003  # of others
        """Every camera that V4L2 knows, and what it offers."""
        cameras = list_cameras(root)
        if not cameras:
            remedy = "plug it in (lsusb lists what is there), or name another source: --source"
            yield Diagnosis("v4l2", "absent", "no /dev/video* gives pictures", remedy)
        yield from map(diagnose_camera, cameras)
