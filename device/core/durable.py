"""Files that survive a power cut: written beside their place, made durable, and moved there in one step.

References:
    rename(2): replaces atomically. fsync(2): a file's data, and of a folder the names in it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def is_full(error: OSError) -> bool:
    """True where the disk takes no more, whatever was to be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable: new files, renames, removals."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces a file: after a power cut it is the old one or the new one, whole.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask: a service's is strict, and others read what it writes
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def point_link(link: Path, target: str) -> None:
    """Makes or replaces a symbolic link in one step, durably.

    Args:
        link: where it lies.
        target: what it points to, relative to the link's folder.
    """
    scratch = link.with_name(f".{link.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(link)
    sync_folder(link.parent)
