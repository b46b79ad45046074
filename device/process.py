"""What this process takes of the machine's memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from device.errors import BoardError
from device.sysfs import read_text


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
