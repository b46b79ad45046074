"""A bundle as one file: a tar archive, plain or compressed, that is not trusted before it is checked.

References:
    Python's tarfile, "Extraction filters": what an archive may try. `extract` is not used here: members are read one by one
    and written under plain names in a fresh folder.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from device.bundle.reader import list_names, open_bundle
from device.core.durable import is_full, replacing_file
from device.core.errors import BundleError

MAX_FILES = 64
MAX_BYTES = 256 * 1024 * 1024
"""Of all files together, unpacked: twenty times the size of GhostNet's bundle."""

MAX_HEADER_BYTES = 256 * 1024
"""Of all headers and padding together: tarfile reads names and comments into memory, however long they are."""

_CHUNK_BYTES = 1 << 20
_MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def unpack(archive: Path, folder: Path) -> None:
    """Writes an archive's files into a folder.

    Args:
        archive: a tar file; may be compressed by gzip, bzip2 or xz.
        folder: exists, and is empty.

    Raises:
        BundleError: ``archive``: it is no tar file, is cut short, or holds anything but a few plain files of modest size.
        OSError: the folder's disk is full, or can't be written.
    """
    try:
        with _open_plain(archive) as plain:
            bounded = _Bounded(plain)
            with tarfile.open(fileobj=bounded, mode="r|") as members:  # type: ignore[call-overload]  # `read` is all it needs
                _write_members(members, bounded, archive, folder)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and is_full(error):
            raise
        raise _refusal(archive, f"can't be read as an archive ({error})", "copy it again") from error


def _open_plain(archive: Path) -> IO[bytes]:
    """Opens the tar file, decompressed as it is read."""
    with archive.open("rb") as file:
        start = file.read(max(map(len, _MAGIC)))
    for magic, opener in _MAGIC.items():
        if start.startswith(magic):
            return opener(archive, "rb")  # type: ignore[no-any-return, operator]
    return archive.open("rb")


class _Bounded:
    """Reads no further than was allowed: the headers, and the files that were accepted."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left_bytes = MAX_HEADER_BYTES

    def allow(self, size_bytes: int) -> None:
        """Allows a file of this size to be read."""
        self._left_bytes += size_bytes

    def read(self, size: int) -> bytes:
        """Reads as a file does; `tarfile` asks for a few kilobytes at a time.

        Raises:
            ReadError: more was asked for.
        """
        data = self._file.read(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise tarfile.ReadError(f"its headers have more than {MAX_HEADER_BYTES} bytes")
        return data


def pack(folder: Path, archive: Path) -> None:
    """Writes a bundle's files into an archive; equal files give equal bytes. Other files in the folder are left out.

    Args:
        folder: the bundle.
        archive: the file to write or replace; compressed if its name ends in ``.gz``, ``.bz2`` or ``.xz``.

    Raises:
        BundleError: the folder holds no complete bundle.
    """
    names = list_names(open_bundle(folder).manifest)
    with replacing_file(archive) as scratch, scratch.open("wb") as file, _compress(file, archive.suffix) as stream:
        _write_tar(stream, [folder / name for name in sorted(names) if (folder / name).exists()])


@contextlib.contextmanager
def _compress(file: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """Gives a compressing stream into a file. By default gzip's header holds a name and a time, which would differ."""
    if suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream:
            yield stream  # type: ignore[misc]  # as good as a binary file for tarfile
    elif suffix == ".bz2":
        with bz2.BZ2File(file, "wb") as stream:
            yield stream  # type: ignore[misc]
    elif suffix == ".xz":
        with lzma.LZMAFile(file, "wb") as stream:
            yield stream  # type: ignore[misc]
    else:
        yield file


def _write_tar(stream: BinaryIO, paths: Iterable[Path]) -> None:
    with tarfile.open(fileobj=stream, mode="w") as members:
        for path in paths:
            _add(members, path)


def _add(members: tarfile.TarFile, path: Path) -> None:
    member = tarfile.TarInfo(path.name)
    member.size = path.stat().st_size
    member.mode = 0o644
    with path.open("rb") as file:
        members.addfile(member, file)


def _write_members(members: tarfile.TarFile, bounded: _Bounded, archive: Path, folder: Path) -> None:
    names: set[str] = set()
    left_bytes = MAX_BYTES
    for member in members:
        name = member.name.removeprefix("./")
        if member.isdir() and name in ("", "."):
            continue
        if not member.isreg():
            raise _refusal(archive, f"holds {member.name!r}, which is no plain file", "pack the bundle's files alone")
        if not _PLAIN_NAME.fullmatch(name):
            raise _refusal(
                archive, f"holds {member.name!r}, which is no plain name", "pack the bundle's files without a folder"
            )
        if name in names:
            raise _refusal(archive, f"holds {name} twice", "pack it again")
        if len(names) == MAX_FILES:
            raise _refusal(archive, f"holds more than {MAX_FILES} files", "pack the bundle's files alone")
        names.add(name)
        if member.size > left_bytes:
            raise _refusal(archive, f"unpacks to more than {MAX_BYTES} bytes", "a bundle is smaller")
        left_bytes -= member.size
        bounded.allow(member.size)
        _write_member(members, member, folder / name)


def _write_member(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Writes one file, whose size was checked before."""
    content = members.extractfile(member)
    assert content is not None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            file.write(chunk)


def _refusal(archive: Path, found: str, remedy: str) -> BundleError:
    return BundleError(str(archive), found, remedy=remedy, reason="archive")
