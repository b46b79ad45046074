"""What other programs take of the machine while something is measured, and what its hypervisor gives to other machines.

References:
    proc_stat(5): the ticks of ``cpu``, USER_HZ of them a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from device.core.errors import MeterError
from device.machine.utilisation import Ticks, read_ticks
from device.protocols import Clock


class OtherLoad(NamedTuple):
    """Over a stretch of time. None where the kernel doesn't count, which isn't 0.

    Attributes:
        cores: processor time that other programs took, as so many cores.
        stolen_share: of the machine's processor time, what its hypervisor gave to others, 0..1.
    """

    cores: float | None
    stolen_share: float | None


class _Usage(NamedTuple):
    own_s: float
    clock_ns: int
    ticks: Ticks


class OtherLoadMeter:
    """Counts from `start` on.

    Args:
        clock: measures the span.
        root: where ``proc`` is.
        own_cpu_s: processor time that this process has taken: not the others'.
    """

    def __init__(self, clock: Clock, root: Path = Path("/"), own_cpu_s: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._root = root
        self._own_cpu_s = own_cpu_s
        self._ticks_hz = os.sysconf("SC_CLK_TCK")
        self._begin: _Usage | None = None

    def start(self) -> None:
        """Begins anew."""
        self._begin = self._look()

    def read(self) -> OtherLoad:
        """What it was since the start; never raises."""
        begin, end = self._begin, self._look()
        if begin is None or end is None or end.clock_ns <= begin.clock_ns:
            return OtherLoad(None, None)
        busy_s = (end.ticks.running - begin.ticks.running) / self._ticks_hz
        others_s = max(0.0, busy_s - (end.own_s - begin.own_s))
        return OtherLoad(others_s / ((end.clock_ns - begin.clock_ns) / 1e9), end.ticks.stolen_since(begin.ticks))

    def _look(self) -> _Usage | None:
        try:
            ticks = read_ticks(self._root)
        except MeterError:
            return None
        return _Usage(self._own_cpu_s(), self._clock.now_ns(), ticks)
