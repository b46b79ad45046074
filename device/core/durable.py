"""Files that survive a power cut: written beside their place, synced, and moved there in one step.

The scratch file lies in the same folder under a hidden name of its own, so that writers in other threads and processes don't
meet. Standard library alone: the installer runs this on a bare board.

References:
    rename(2): replaces atomically. fsync(2): a file's data, and of a folder the names in it. sync(2): on Linux it waits until
    everything is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

_MANY = 100
"""Beyond this one sync of everything is quicker: syncing a thousand files one by one takes an SD card minutes."""


def is_full(error: OSError) -> bool:
    """True where the disk takes no more, whatever was to be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable: new files, renames, removals."""
    _sync(folder, os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Makes a folder durable with all that is in it; symbolic links are not followed."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink() and (path.is_file() or path.is_dir())]
    if len(paths) > _MANY:
        os.sync()
    else:
        for path in paths:
            _sync(path)
    sync_folder(folder)


def write_durably(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replaces a file: after a power cut it is the old one or the new one, whole.

    Args:
        path: of the file; its folder exists.
        data: its content; text is written as UTF-8.
        mode: of the file, whatever the umask: that of a service is strict, and others read what it writes.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    with replacing_file(path, mode=mode) as scratch:
        scratch.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing_file(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Gives an empty file beside ``path`` to write to, and moves it there when the block ends.

    Args:
        path: the file to make or replace; its folder exists.
        mode: see `write_durably`.

    Yields:
        The scratch file, with the suffix of ``path``. The block may replace it. If the block fails, it is removed.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    scratch = _beside(path)
    try:
        scratch.unlink(missing_ok=True)
        os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield scratch
        scratch.chmod(mode)
        _sync(scratch)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def filling_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder beside ``path`` to fill, and moves it there when the block ends.

    For folders that are named after their content: where another process has made the same one meanwhile, that one stays.

    Args:
        path: the folder to make; its parent exists.

    Yields:
        The scratch folder. If the block fails, it is removed.

    Raises:
        OSError: it can't be written; there is no folder at ``path``, or another's.
    """
    scratch = _beside(path)
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
        sync_tree(scratch)
        try:
            scratch.rename(path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(path: Path, *, mode: int = 0o755) -> Iterator[Path]:
    """Gives an empty folder beside ``path`` to fill, and puts it in the place of the old one when the block ends.

    Args:
        path: the folder to make or replace; its parent exists.
        mode: of the folder, whatever the umask.

    Yields:
        The scratch folder. If the block fails, it is removed.

    Raises:
        OSError: it can't be written; the old folder is as it was.
    """
    scratch, old = _beside(path), _beside(path.with_name(f"{path.name}-old"))
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
        scratch.chmod(mode)
        sync_tree(scratch)
        try:
            if path.is_dir():
                path.rename(old)
            scratch.rename(path)
        except BaseException:
            if old.is_dir():
                old.rename(path)
            raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def point_link(link: Path, target: str) -> None:
    """Makes or replaces a symbolic link in one step, durably.

    Args:
        link: where it lies.
        target: what it points to, relative to the link's folder.
    """
    scratch = _beside(link)
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(link)
    sync_folder(link.parent)


def _beside(path: Path) -> Path:
    # On Linux a thread's number is unique among all processes.
    return path.with_name(f".{path.stem}.{threading.get_native_id()}{path.suffix}")


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
