"""The machine's memory, how much of it this process uses, and how to release some."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

from device.core.errors import BoardError
from device.machine.sysfs import read_text


class Memory(NamedTuple):
    """Resident memory of this process in bytes: now, and at its peak."""

    rss_bytes: int
    peak_rss_bytes: int


def read_memory(root: Path = Path("/")) -> Memory:
    """Reads this process's memory.

    Raises:
        BoardError: ``missing`` if ``/proc`` doesn't report it.

    References:
        proc_pid_status(5): VmRSS and VmHWM, in units of 1024 bytes.
    """
    path = root / "proc/self/status"
    fields = dict(line.partition(":")[::2] for line in (read_text(path) or "").splitlines())
    try:
        return Memory(_size_bytes(fields["VmRSS"]), _size_bytes(fields["VmHWM"]))
    except (KeyError, ValueError) as error:
        raise BoardError(str(path), f"no {error.args[0]}", expected="Linux's process status", reason="missing") from error


def _size_bytes(field: str) -> int:
    return int(field.removesuffix("kB")) * 1024


def read_total_bytes(root: Path = Path("/")) -> int | None:
    """Reads the machine's total memory, without what firmware and kernel keep; None if unknown.

    References:
        proc_meminfo(5): ``MemTotal``, in units of 1024 bytes.
    """
    words = (read_text(root / "proc/meminfo") or "").partition("\n")[0].split()
    return int(words[1]) * 1024 if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdecimal() else None


# The kernel's asm-generic/mman-common.h; the same on x86-64 and arm64.
_MADV_DONTNEED = 4


def release_file_pages(*paths: Path, root: Path = Path("/")) -> int:
    """Releases resident pages of files that this process has mapped, such as data and code that are no longer needed.

    Nothing is lost: a page that is needed again is read from its file. Only shared read-only data and code are released, since
    private data may contain what the linker has written to it.

    Args:
        paths: files, or folders of files.
        root: folder that holds ``proc``.

    Returns:
        Size of the released mappings, in bytes.

    References:
        madvise(2): MADV_DONTNEED. proc_pid_maps(5): the fields of a line.
    """
    wanted = [Path(os.path.realpath(path)) for path in paths]
    released_bytes = 0
    for line in (read_text(root / "proc/self/maps") or "").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[1] not in ("r--s", "r-xp"):
            continue
        if any(Path(fields[5]).is_relative_to(path) for path in wanted):
            released_bytes += _release(*(int(address, 16) for address in fields[0].split("-")))
    return released_bytes


def _release(start: int, end: int) -> int:
    done = ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
    return end - start if done == 0 else 0
