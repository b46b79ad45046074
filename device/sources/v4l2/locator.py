"""Finds a V4L2 camera by path, number or name, and finds it again under another number after it was unplugged.

References:
    Linux kernel, drivers/media/v4l2-core/v4l2-dev.c: ``name``, ``index`` and ``device`` of each node in sysfs.
    Documentation/driver-api/usb/usb.rst and Documentation/ABI/stable/sysfs-bus-usb: a USB device's folder is named after the
    port that it is plugged in, and holds ``serial``, ``idVendor`` and ``idProduct``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from device.core.errors import SourceError
from device.machine.sysfs import read_text
from device.sources.v4l2.node import KernelNode, NodeOpener, opened, read_node_info


class CameraIdentity(NamedTuple):
    """What distinguishes a camera from others, whatever its number.

    Attributes:
        name: name of the card.
        node_index: index of this node among the nodes of its card. UVC cameras have a second node, for metadata.
        product: USB vendor and product; empty if it isn't on USB.
        serial: serial number; empty if the maker gave none, as with most cheap cameras.
        interface: USB interface within the device: all that distinguishes the parts of a camera with two lenses or a depth
            sensor.
        port: the device's folder in sysfs: the USB port, or the platform device.
    """

    name: str
    node_index: str
    product: str
    serial: str
    interface: str
    port: str

    def may_be(self, other: CameraIdentity) -> bool:
        """Whether the other may be the same camera, plugged in at any port."""
        return self._replace(port=other.port) == other


class CameraNode(NamedTuple):
    """A device node that exists now, and the camera behind it."""

    path: Path
    identity: CameraIdentity


class Locator:
    """Finds a camera's device node each time that it is opened.

    After `remember`, the locator looks for that very camera: first where it was, then wherever it is now. An identical camera
    that was plugged in beside it all along is never taken for it. If only a name was given, any camera of that name is
    accepted.

    Args:
        path: the node, or a link to it; None to search by name.
        name: the card's name, or a part of it that is unique.
        root: folder that holds ``sys`` and ``dev``; ``path`` is absolute within it.
        open_node: opens a node, to ask whether it captures pictures.
    """

    def __init__(
        self,
        path: Path | None = None,
        name: str = "",
        *,
        root: Path = Path("/"),
        open_node: NodeOpener = KernelNode,
    ) -> None:
        self._path = path and root / path.relative_to("/")
        self._name = name
        self._root = root
        self._open_node = open_node
        self._known: CameraIdentity | None = None
        self._twin_ports: frozenset[str] = frozenset()

    def locate(self) -> Path:
        """Finds the camera.

        Raises:
            SourceError: ``missing`` if it isn't there, ``ambiguous`` if several cameras match, ``permission`` if a node that
                must be asked what it is can't be opened.
        """
        nodes = list_camera_nodes(self._root)
        if self._known is not None:
            return self._locate_again(self._known, nodes)
        return self._locate_first(nodes)

    def remember(self, path: Path) -> None:
        """Records which camera was opened.

        Args:
            path: as returned by `locate`. A node that sysfs doesn't know is ignored.
        """
        if self._known is not None:
            return
        nodes = list_camera_nodes(self._root)
        found = _at(path, nodes)
        if found is None:
            return
        self._known = found.identity
        others = (node.identity for node in nodes if node.path != found.path)
        self._twin_ports = frozenset(other.port for other in others if other.may_be(found.identity))

    def _locate_first(self, nodes: list[CameraNode]) -> Path:
        if self._path is None:
            return self._locate_by_name(nodes)
        if not self._path.is_char_device():
            is_there = self._path.exists()
            raise SourceError(
                str(self._path),
                "not a device" if is_there else "no such camera",
                expected="a V4L2 capture device",
                remedy=_describe_choice(nodes),
                reason="missing",
            )
        return self._path

    def _locate_again(self, known: CameraIdentity, nodes: list[CameraNode]) -> Path:
        same_spot = [node for node in nodes if node.identity == known]
        moved = [node for node in nodes if node.identity.may_be(known) and node.identity.port not in self._twin_ports]
        found = same_spot or moved
        if not found and self._path is None:
            return self._locate_by_name(nodes)
        if len(found) == 1:
            return found[0].path
        if found:
            raise _ambiguous(str(self._path or f"v4l2:name={self._name}"), known.name, found)
        raise SourceError(
            str(self._path),
            f"the camera {known.name!r} is gone",
            remedy=f"plug it in again; {_describe_choice(nodes)}",
            reason="missing",
        )

    def _locate_by_name(self, nodes: list[CameraNode]) -> Path:
        where, wanted = f"v4l2:name={self._name}", self._name.casefold()
        exact = [node for node in nodes if node.identity.name == self._name]
        alike = exact or [node for node in nodes if wanted in node.identity.name.casefold()]
        cameras = self._first_of_each_card([node for node in alike if self._captures(node.path)])
        if len(cameras) == 1:
            return cameras[0].path
        if cameras:
            raise _ambiguous(where, self._name, cameras)
        raise SourceError(
            where,
            "no camera has this name",
            expected="a camera's name, or a part of it",
            remedy=_describe_choice(nodes),
            reason="missing",
        )

    @staticmethod
    def _first_of_each_card(nodes: Iterable[CameraNode]) -> list[CameraNode]:
        first: dict[tuple[str, str], CameraNode] = {}
        for node in nodes:
            first.setdefault((node.identity.name, node.identity.port), node)
        return list(first.values())

    def _captures(self, path: Path) -> bool:
        try:
            with opened(path, self._open_node) as node:
                return read_node_info(node).can_capture
        except PermissionError as error:
            raise permission_error(path) from error
        except OSError:
            # It vanished meanwhile, or isn't a camera.
            return False


def video_nodes(root: Path) -> list[Path]:
    """Lists the folders of ``/dev/video*`` nodes under ``/sys/class/video4linux``, by number."""
    folders = (root / "sys/class/video4linux").glob("video*")
    numbered = [(int(match[1]), folder) for folder in folders if (match := re.fullmatch("video([0-9]{1,4})", folder.name))]
    return [folder for _, folder in sorted(numbered)]


def list_camera_nodes(root: Path) -> list[CameraNode]:
    """Lists every ``/dev/video*`` node, by number."""
    nodes = []
    for folder in video_nodes(root):
        device = (folder / "device").resolve()
        # The folder of a USB interface (1-1.2:1.0) lies in that of its device (1-1.2).
        owner = device.parent if (device.parent / "idVendor").exists() else device
        vendor, product = (read_text(owner / file) or "" for file in ("idVendor", "idProduct"))
        identity = CameraIdentity(
            name=read_text(folder / "name") or "",
            node_index=read_text(folder / "index") or "0",
            product=f"{vendor}:{product}" if vendor else "",
            serial=read_text(owner / "serial") or "",
            interface="" if owner == device else device.name.partition(":")[2],
            port=owner.name,
        )
        nodes.append(CameraNode(root / "dev" / folder.name, identity))
    return nodes


def permission_error(path: Path) -> SourceError:
    """The error for a node that this user may not open."""
    return SourceError(
        str(path),
        "this user has no permission to open it",
        expected="a member of the group video",
        remedy="sudo usermod -aG video $USER, then log in again",
        reason="permission",
    )


def _at(path: Path, nodes: Iterable[CameraNode]) -> CameraNode | None:
    """The node that a path resolves to, through udev's links."""
    target = path.resolve()
    return next((node for node in nodes if node.path.resolve() == target), None)


def _ambiguous(where: str, name: str, nodes: Iterable[CameraNode]) -> SourceError:
    return SourceError(
        where,
        f"several cameras match {name!r}: {_list(nodes)}",
        expected="one camera",
        remedy="give its path under /dev/v4l/by-id or /dev/v4l/by-path",
        reason="ambiguous",
    )


def _describe_choice(nodes: Iterable[CameraNode]) -> str:
    listed = _list(node for node in nodes if node.identity.node_index == "0")
    return f"found {listed}" if listed else "no V4L2 camera was found; lsusb lists USB cameras"


def _list(nodes: Iterable[CameraNode]) -> str:
    return ", ".join(f"{node.path} {node.identity.name!r} at {node.identity.port}" for node in nodes)
