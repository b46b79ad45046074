"""Utilisation of the processor, from the kernel's tick counters.

References:
    proc_stat(5): the fields of ``cpu``, in ticks.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from device.core.errors import MeterError
from device.machine.sysfs import read_text

# user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user's.
_FIELDS = 8
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


class Ticks(NamedTuple):
    """Ticks of all cores together since the machine's start.

    Attributes:
        busy: ticks neither idle nor waiting for a disk; stolen ones count as busy.
        total: all ticks.
        stolen: ticks that a hypervisor gave to other machines.
    """

    busy: int
    total: int
    stolen: int

    @property
    def running(self) -> int:
        """Ticks in which this machine's programs and its kernel ran."""
        return self.busy - self.stolen

    def utilisation_since(self, earlier: Ticks) -> float | None:
        """Busy share of the time in between, 0..1; None if no tick has passed."""
        return _share(self.busy - earlier.busy, self.total - earlier.total)

    def stolen_since(self, earlier: Ticks) -> float | None:
        """Share of the time in between that a hypervisor gave to others, 0..1; None if no tick has passed."""
        return _share(self.stolen - earlier.stolen, self.total - earlier.total)


def _share(part: int, whole: int) -> float | None:
    # The kernel's idle and iowait ticks occasionally decrease.
    return min(1.0, max(0.0, part / whole)) if whole > 0 else None


def read_ticks(root: Path = Path("/")) -> Ticks:
    """Reads the tick counters.

    Args:
        root: folder that holds ``proc``.

    Raises:
        MeterError: ``malformed`` if they are missing or can't be parsed.
    """
    path = root / "proc/stat"
    line = (read_text(path) or "").partition("\n")[0].split()
    if line[:1] != ["cpu"] or len(line) <= _FIELDS or not all(field.isdecimal() for field in line[1 : _FIELDS + 1]):
        raise MeterError(str(path), "no line of ticks", expected="cpu and eight numbers", reason="malformed")
    ticks = [int(field) for field in line[1 : _FIELDS + 1]]
    total = sum(ticks)
    return Ticks(total - ticks[_IDLE] - ticks[_IOWAIT], total, ticks[_STEAL])
