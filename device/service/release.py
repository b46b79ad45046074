"""Versions of the software on a board, each in a folder of its own; a link that is replaced atomically says which one runs.

Standard library alone: this runs before anything is installed.

References:
    PEP 405: ``pyvenv.cfg`` beside ``bin/python`` makes a virtual environment.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from device.core.durable import filling_folder, point_link
from device.core.errors import MissingDependencyError, ServiceError
from device.service.layout import Layout
from device.service.wheels import find_wheels, fingerprint, unpack

_ID_DIGITS = 12


def require_matching(wheels: list[Path], version: tuple[int, int]) -> None:
    """Refuses wheels that were made for another Python.

    Args:
        wheels: their files.
        version: of the Python that will run them.

    Raises:
        MissingDependencyError: ``wheel``.
    """
    abi = f"cp{version[0]}{version[1]}"
    for wheel in wheels:
        found = wheel.stem.split("-")[-2]
        if re.fullmatch(r"cp\d+", found) and found != abi:
            raise MissingDependencyError(
                wheel.name,
                f"is for Python {found.removeprefix('cp')[0]}.{found.removeprefix('cp')[1:]}",
                expected=f"one for this board's {version[0]}.{version[1]}",
                remedy="deploy again from the host: it asks the board",
                reason="wheel",
            )


def name_release(wheels: Sequence[Path], python: tuple[int, int], *, with_system_packages: bool) -> str:
    """Names the release that is made of these wheels."""
    kind = "-system" if with_system_packages else ""
    return f"{fingerprint(wheels)[:_ID_DIGITS]}-py{python[0]}.{python[1]}{kind}"


def make_release(layout: Layout, folder: Path, *, with_system_packages: bool) -> Path:
    """Makes a release beside the one that runs, unless it is there already.

    Args:
        layout: of the board.
        folder: of wheels, ours among them.
        with_system_packages: packages of the distribution can be imported too: picamera2 comes no other way.

    Returns:
        The release's folder.

    Raises:
        MissingDependencyError: ``wheel``, see `device.service.wheels`.
        ServiceError: ``disk``.
    """
    wheels = find_wheels(folder)
    require_matching(wheels, sys.version_info[:2])
    release = layout.releases / name_release(wheels, sys.version_info[:2], with_system_packages=with_system_packages)
    if release.is_dir():
        return release
    try:
        layout.releases.mkdir(parents=True, exist_ok=True)
        for left in layout.releases.glob(".*"):  # unfinished ones, left by a power cut
            shutil.rmtree(left, ignore_errors=True)
        with filling_folder(release) as scratch:
            site_packages = _make_environment(scratch, with_system_packages=with_system_packages)
            for wheel in wheels:
                unpack(wheel, site_packages)
    except OSError as error:
        raise ServiceError(
            str(layout.releases), f"can't be written ({error.strerror or error})", remedy="free some space", reason="disk"
        ) from error
    return release


def switch_release(layout: Layout, release: Path) -> None:
    """Makes a release the current one; keeps the one before it and removes older ones."""
    current = linked(layout.current)
    if current is not None and current.name != release.name:
        point_link(layout.previous, f"releases/{current.name}")
    point_link(layout.current, f"releases/{release.name}")
    # Compared by name: if the folder itself lies behind a link, resolved paths differ from those that are listed.
    kept = {found.name for found in (linked(layout.current), linked(layout.previous)) if found is not None}
    for folder in layout.releases.iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)


def linked(link: Path) -> Path | None:
    """The release that a link points to; None if there is none."""
    return link.resolve() if link.is_symlink() and link.exists() else None


def _make_environment(folder: Path, *, with_system_packages: bool) -> Path:
    """Writes an empty virtual environment; returns its folder of packages."""
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(interpreter)
    settings = {
        "home": str(interpreter.parent),
        "include-system-site-packages": str(with_system_packages).lower(),
        "version": ".".join(str(part) for part in sys.version_info[:3]),
    }
    (folder / "pyvenv.cfg").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    site_packages = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    site_packages.mkdir(parents=True)
    return site_packages
