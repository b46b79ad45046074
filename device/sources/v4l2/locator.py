"""Finds a V4L2 camera: by path, by number or by name; and again, under another number, after it was unplugged.

References:
    Linux kernel, drivers/media/v4l2-core/v4l2-dev.c: ``name``, ``index`` and ``device`` of each node in sysfs.
    Documentation/driver-api/usb/usb.rst and Documentation/ABI/stable/sysfs-bus-usb: a USB device's folder is named after the
    port that it is plugged in, and holds ``serial``, ``idVendor`` and ``idProduct``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from device.core.errors import SourceError
from device.machine.sysfs import read_text
from device.sources.v4l2.formats import video_nodes
from device.sources.v4l2.node import KernelNode, NodeOpener, opened, read_card


class Identity(NamedTuple):
    """What tells a camera from others, whatever its number.

    Attributes:
        name: the card's.
        node_index: of the node among its card's: UVC cameras have a second one, for metadata.
        product: USB's vendor and product; empty for what isn't on USB.
        serial: empty where the maker gave none, as with most cheap cameras.
        interface: of the USB device that it is; cameras with two lenses or a depth sensor differ in nothing else.
        port: folder of the device in sysfs: the USB port, or the platform device.
    """

    name: str
    node_index: str
    product: str
    serial: str
    interface: str
    port: str

    def may_be(self, other: Identity) -> bool:
        """True where the other may be the same camera, plugged in anywhere."""
        return self._replace(port=other.port) == other


class Place(NamedTuple):
    """A node that there is now."""

    path: Path
    identity: Identity


class Locator:
    """Says where a camera is, each time that it is opened.

    Once `remember` was called, it is that very camera that is looked for: where it was, or else wherever it is now. A twin
    that was plugged in beside it all along is never taken for it. Where only a name was given, another camera of that name
    will do as well.

    Args:
        path: the node, or a link to it; None to go by name.
        name: the card's, or a part of it that no other has.
        root: where ``sys`` and ``dev`` are; ``path`` is absolute in it.
        open_node: what opens a node, to ask whether it gives pictures.
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
        self._known: Identity | None = None
        self._twin_ports: frozenset[str] = frozenset()

    def locate(self) -> Path:
        """Finds the camera.

        Raises:
            SourceError: ``missing`` where it isn't there, ``ambiguous`` where several may be meant, ``permission`` where a
                node may not be asked what it is.
        """
        places = list_places(self._root)
        if self._known is not None:
            return self._locate_again(self._known, places)
        return self._locate_first(places)

    def remember(self, path: Path) -> None:
        """Notes which camera it is that was opened.

        Args:
            path: as `locate` gave it. Nothing is noted of a node that sysfs doesn't know.
        """
        if self._known is not None:
            return
        places = list_places(self._root)
        found = _at(path, places)
        if found is None:
            return
        self._known = found.identity
        others = (place.identity for place in places if place.path != found.path)
        self._twin_ports = frozenset(other.port for other in others if other.may_be(found.identity))

    def _locate_first(self, places: list[Place]) -> Path:
        if self._path is None:
            return self._locate_by_name(places)
        if not self._path.is_char_device():
            is_there = self._path.exists()
            raise SourceError(
                str(self._path),
                "not a device" if is_there else "no such camera",
                expected="a V4L2 capture device",
                remedy=_describe_choice(places),
                reason="missing",
            )
        return self._path

    def _locate_again(self, known: Identity, places: list[Place]) -> Path:
        same_spot = [place for place in places if place.identity == known]
        moved = [place for place in places if place.identity.may_be(known) and place.identity.port not in self._twin_ports]
        found = same_spot or moved
        if not found and self._path is None:
            return self._locate_by_name(places)
        if len(found) == 1:
            return found[0].path
        if found:
            raise _ambiguous(str(self._path or f"v4l2:name={self._name}"), known.name, found)
        raise SourceError(
            str(self._path),
            f"the camera {known.name!r} is gone",
            remedy=f"plug it in again; {_describe_choice(places)}",
            reason="missing",
        )

    def _locate_by_name(self, places: list[Place]) -> Path:
        where, wanted = f"v4l2:name={self._name}", self._name.casefold()
        exact = [place for place in places if place.identity.name == self._name]
        alike = exact or [place for place in places if wanted in place.identity.name.casefold()]
        cameras = self._first_of_each_card([place for place in alike if self._captures(place.path)])
        if len(cameras) == 1:
            return cameras[0].path
        if cameras:
            raise _ambiguous(where, self._name, cameras)
        raise SourceError(
            where, "no camera of that name", expected="a part of a name", remedy=_describe_choice(places), reason="missing"
        )

    @staticmethod
    def _first_of_each_card(places: Iterable[Place]) -> list[Place]:
        first: dict[tuple[str, str], Place] = {}
        for place in places:
            first.setdefault((place.identity.name, place.identity.port), place)
        return list(first.values())

    def _captures(self, path: Path) -> bool:
        try:
            with opened(path, self._open_node) as node:
                return read_card(node).can_capture
        except PermissionError as error:
            raise permission_error(path) from error
        except OSError:
            # It went away between two looks, or is no camera.
            return False


def list_places(root: Path) -> list[Place]:
    """Every ``/dev/video*`` node that there is, by number."""
    places = []
    for folder in video_nodes(root):
        device = (folder / "device").resolve()
        # A USB interface (1-1.2:1.0) stands in the folder of its device (1-1.2).
        owner = device.parent if (device.parent / "idVendor").exists() else device
        vendor, product = (read_text(owner / file) or "" for file in ("idVendor", "idProduct"))
        identity = Identity(
            name=read_text(folder / "name") or "",
            node_index=read_text(folder / "index") or "0",
            product=f"{vendor}:{product}" if vendor else "",
            serial=read_text(owner / "serial") or "",
            interface="" if owner == device else device.name.partition(":")[2],
            port=owner.name,
        )
        places.append(Place(root / "dev" / folder.name, identity))
    return places


def permission_error(path: Path) -> SourceError:
    """What to say of a node that this user may not open."""
    return SourceError(
        str(path),
        "this user may not open it",
        expected="a member of the group video",
        remedy="sudo usermod -aG video $USER, then log in again",
        reason="permission",
    )


def _at(path: Path, places: Iterable[Place]) -> Place | None:
    """The place that a path leads to, through udev's links."""
    node = path.resolve()
    return next((place for place in places if place.path.resolve() == node), None)


def _ambiguous(where: str, name: str, places: Iterable[Place]) -> SourceError:
    return SourceError(
        where,
        f"several cameras may be {name!r}: {_list(places)}",
        expected="one",
        remedy="name its path under /dev/v4l/by-id or /dev/v4l/by-path",
        reason="ambiguous",
    )


def _describe_choice(places: Iterable[Place]) -> str:
    listed = _list(place for place in places if place.identity.node_index == "0")
    return f"there are {listed}" if listed else "there is no V4L2 camera; a USB one shows in lsusb"


def _list(places: Iterable[Place]) -> str:
    return ", ".join(f"{place.path} {place.identity.name!r} at {place.identity.port}" for place in places)
