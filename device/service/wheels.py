"""Unpacks wheels into a folder of packages: a board needs neither pip nor a network for it.

Standard library alone: this runs before anything is installed.

References:
    Python packaging's "Binary distribution format" and "Recording installed projects": the parts of a wheel, and ``RECORD``.
"""

from __future__ import annotations

import base64
import csv
import fnmatch
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from device.core.durable import is_full
from device.core.errors import MissingDependencyError

LEFT_OUT = (
    # Tests, type stubs, headers and compilers' helpers of packages.
    "*/tests/*",
    "*.pyi",
    "numpy/f2py/*",
    "numpy/*/include/*",
    "numpy/*.a",
    # LiteRT for graphics processors and for compiling ahead: the daemon runs XNNPACK on the processor.
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "ai_edge_litert/aot/*",
    "ai_edge_litert/tools/*",
    # LiteRT's other interface, `CompiledModel`: the daemon uses `Interpreter`.
    "ai_edge_litert/libLiteRt.so",
    # OpenCV's trained detectors of faces.
    "cv2/data/*.xml",
)
"""Files that a board never loads; a third of the whole."""

_NAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-[^-]+)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl")


def find_wheels(folder: Path) -> list[Path]:
    """The wheels in a folder, sorted.

    Raises:
        MissingDependencyError: ``wheel``: there is none, or two of one package.
    """
    wheels = sorted(folder.glob("*.whl"))
    names = [wheel.name.partition("-")[0].lower() for wheel in wheels]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not wheels or twice:
        found = f"holds two versions of {', '.join(twice)}" if twice else "holds no wheels"
        raise MissingDependencyError(str(folder), found, remedy="make it anew: make deploy, or make install", reason="wheel")
    return wheels


def fingerprint(wheels: Sequence[Path]) -> str:
    """Sha256 of the wheels' names and contents, and of what is left out: equal ones make equal releases."""
    digest = hashlib.sha256("\n".join(LEFT_OUT).encode())
    for wheel in wheels:
        with wheel.open("rb") as file:
            digest.update(f"{wheel.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def unpack(wheel: Path, site_packages: Path) -> None:
    """Unpacks one wheel, each file checked by the wheel's own list of hashes.

    Raises:
        MissingDependencyError: ``wheel``: it is damaged, or holds a path outside of the folder.
        OSError: the disk is full, or can't be written.
    """
    if not _NAME.fullmatch(wheel.name):
        raise _refusal(wheel, "has no wheel's name")
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, content in _checked_files(archive, wheel):
                path = site_packages / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, OSError) and is_full(error):
            raise
        raise _refusal(wheel, f"can't be unpacked ({error})") from error


def _checked_files(archive: zipfile.ZipFile, wheel: Path) -> Iterator[tuple[str, bytes]]:
    listed = _read_record(archive)
    for name in archive.namelist():
        if name.endswith("/") or any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT):
            continue
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise _refusal(wheel, f"holds {name!r}, which leads elsewhere")
        top = name.partition("/")[0]
        if top.endswith(".data"):
            # Scripts and files for other places; no package that we need has code there.
            continue
        content = archive.read(name)
        if not name.endswith((".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")):
            _check(content, listed.get(name), name, wheel)
        yield name, content


def _read_record(archive: zipfile.ZipFile) -> dict[str, str]:
    (record,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
    rows = csv.reader(io.StringIO(archive.read(record).decode()))
    return {row[0]: row[1] for row in rows if len(row) == 3}


def _check(content: bytes, expected: str | None, name: str, wheel: Path) -> None:
    algorithm, _, digest = (expected or "").partition("=")
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise _refusal(wheel, f"lists no hash for {name}")
    found = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
    if found != digest:
        raise _refusal(wheel, f"{name} is not what its list of hashes says")


def _refusal(wheel: Path, found: str) -> MissingDependencyError:
    return MissingDependencyError(str(wheel), found, remedy="copy it again", reason="wheel")
