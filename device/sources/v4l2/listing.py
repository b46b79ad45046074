"""Lists the V4L2 cameras of a machine and what they offer, and says what is wrong with those that can't be used."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Literal

import msgspec

from device.machine.sysfs import read_text
from device.sources.base import Diagnosis
from device.sources.v4l2.formats import COSTS_NS, FrameSize, PixelFormat, list_formats
from device.sources.v4l2.locator import permission_error, video_nodes
from device.sources.v4l2.node import KernelNode, NodeOpener, opened, read_node_info

_SHOWN_FORMATS = 3


class CameraListing(msgspec.Struct, frozen=True):
    """A camera and what it offers.

    Attributes:
        path: ``/dev/video0``.
        name: the card's name in sysfs, as ``v4l2:name=`` takes it.
        driver: ``uvcvideo``.
        bus: where it is plugged in.
        formats: empty if it couldn't be queried.
        problem: why it couldn't be queried, in the system's words; otherwise empty.
        reason: the same for programs: ``permission``, or ``failed`` for everything else; empty if it could be queried.
    """

    path: str
    name: str
    driver: str = ""
    bus: str = ""
    formats: tuple[PixelFormat, ...] = ()
    problem: str = ""
    reason: Literal["", "permission", "failed"] = ""


def list_cameras(root: Path = Path("/"), open_node: NodeOpener = KernelNode) -> tuple[CameraListing, ...]:
    """Lists every node that captures pictures, with what it offers. Opens each node briefly, without capturing.

    Args:
        root: folder that holds ``sys`` and ``dev``.
        open_node: opens a node.
    """
    listings = (_list_camera(folder, root, open_node) for folder in video_nodes(root))
    return tuple(listing for listing in listings if listing is not None)


def _list_camera(folder: Path, root: Path, open_node: NodeOpener) -> CameraListing | None:
    path = root / "dev" / folder.name
    name = read_text(folder / "name") or folder.name
    try:
        with opened(path, open_node) as node:
            info = read_node_info(node)
            if not info.can_capture:
                return None
            return CameraListing(str(path), name, info.driver, info.bus, list_formats(node))
    except OSError as error:
        reason: Literal["permission", "failed"] = "permission" if error.errno in (errno.EACCES, errno.EPERM) else "failed"
        return CameraListing(str(path), name, problem=error.strerror or str(error), reason=reason)


def diagnose_camera(camera: CameraListing) -> Diagnosis:
    """Says whether a camera can be used."""
    path = camera.path
    if camera.reason:
        is_forbidden = camera.reason == "permission"
        remedy = permission_error(Path(path)).remedy if is_forbidden else "unplug it and plug it in again"
        return Diagnosis(path, "broken", f"{camera.name}: {camera.problem}", remedy)
    name = f"{camera.name} ({camera.driver})"
    readable = [entry for entry in camera.formats if entry.fourcc in COSTS_NS]
    if readable:
        shown = [f"{entry.fourcc} {_describe_largest(entry.sizes)}".strip() for entry in readable[:_SHOWN_FORMATS]]
        more = f", and {len(readable) - _SHOWN_FORMATS} more formats" if len(readable) > _SHOWN_FORMATS else ""
        return Diagnosis(path, "ok", f"{name}: {', '.join(shown)}{more}")
    if camera.formats:
        # A sensor on the ribbon cable has such nodes, whose raw pictures only libcamera can use.
        kinds = ", ".join(entry.fourcc for entry in camera.formats[:_SHOWN_FORMATS])
        return Diagnosis(path, "ok", f"{name}: raw formats only ({kinds}); read it as picamera2:0")
    return Diagnosis(path, "doubtful", f"{name}: lists no formats", "v4l2-ctl --list-formats-ext may say more")


def _describe_largest(sizes: tuple[FrameSize, ...]) -> str:
    """The largest size, with its highest rate: ``1920x1080@30``."""
    if not sizes:
        return ""
    largest = max(sizes, key=lambda size: (size.width_px * size.height_px, size.rates_fps[:1]))
    rate = f"@{largest.rates_fps[0]:.4g}" if largest.rates_fps else ""
    return f"{largest.width_px}x{largest.height_px}{rate}"
