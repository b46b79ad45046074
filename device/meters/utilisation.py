"""How busy the processor was, from the kernel's count of ticks.

References:
    proc_stat(5): the fields of ``cpu``, in ticks.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from device.errors import MeterError
from device.sysfs import read_text

# user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user's.
_FIELDS = 8
_IDLE, _IOWAIT = 3, 4


class Ticks(NamedTuple):
    """Of all cores together, since the machine's start."""

    busy: int
    total: int

    def utilisation_since(self, earlier: Ticks) -> float | None:
        """Share of the time in between that was busy, 0..1; None where no tick has passed."""
        if self.total <= earlier.total:
            return None
        # The kernel's idle and iowait ticks are known to step back now and then.
        return min(1.0, max(0.0, (self.busy - earlier.busy) / (self.total - earlier.total)))


def read_ticks(root: Path = Path("/")) -> Ticks:
    """Reads the count.

    Args:
        root: where ``proc`` is.

    Raises:
        MeterError: ``malformed``, or there is none.
    """
    path = root / "proc/stat"
    line = (read_text(path) or "").partition("\n")[0].split()
    if line[:1] != ["cpu"] or len(line) <= _FIELDS or not all(field.isdecimal() for field in line[1 : _FIELDS + 1]):
        raise MeterError(str(path), "no line of ticks", expected="cpu and eight numbers", reason="malformed")
    ticks = [int(field) for field in line[1 : _FIELDS + 1]]
    total = sum(ticks)
    return Ticks(total - ticks[_IDLE] - ticks[_IOWAIT], total)
