"""What this process takes of the machine's memory, and how it gives some back."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

from device.core.errors import BoardError
from device.machine.sysfs import read_text


class Memory(NamedTuple):
    """Of this process, in bytes: what is resident now, and the most that ever was."""

    rss_bytes: int
    peak_rss_bytes: int


def read_memory(root: Path = Path("/")) -> Memory:
    """Asks the kernel.

    Raises:
        BoardError: ``missing`` where ``/proc`` doesn't say.

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


# asm-generic/mman-common.h of the kernel; the same on x86-64 and arm64.
_MADV_DONTNEED = 4


def release_file_pages(*paths: Path, root: Path = Path("/")) -> int:
    """Gives back resident pages of files that this process has mapped: data that was read, code that has done its work.

    Nothing is lost: a page that is needed again comes from the file. Only shared read-only data and code are given back;
    private data may hold what the linker wrote into it, which no file has.

    Args:
        paths: files, or folders of files.
        root: where ``proc`` is.

    Returns:
        Size of the mappings that were released, in bytes.

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
