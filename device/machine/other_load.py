"""Processor time taken by other programs, and by the hypervisor for other machines, during a measurement.

References:
    proc_stat(5): the ticks of ``cpu``, in units of 1/USER_HZ seconds.
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
    """Load by others over a span of time. None if the kernel doesn't count it.

    Attributes:
        cores: processor time of other programs, in cores.
        stolen_share: share of the machine's processor time that its hypervisor gave to others, 0..1.
    """

    cores: float | None
    stolen_share: float | None


class _Usage(NamedTuple):
    own_s: float
    clock_ns: int
    ticks: Ticks


class OtherLoadMeter:
    """Measures the load by others from `start` on.

    Args:
        clock: times the span.
        root: folder that holds ``proc``.
        own_cpu_s: returns the processor time of this process, which is subtracted.
    """

    def __init__(self, clock: Clock, root: Path = Path("/"), own_cpu_s: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._root = root
        self._own_cpu_s = own_cpu_s
        self._ticks_hz = os.sysconf("SC_CLK_TCK")
        self._begin: _Usage | None = None

    def start(self) -> None:
        """Starts a new span."""
        self._begin = self._sample()

    def read(self) -> OtherLoad:
        """Returns the load since the start; never raises."""
        begin, end = self._begin, self._sample()
        if begin is None or end is None or end.clock_ns <= begin.clock_ns:
            return OtherLoad(None, None)
        busy_s = (end.ticks.running - begin.ticks.running) / self._ticks_hz
        others_s = max(0.0, busy_s - (end.own_s - begin.own_s))
        return OtherLoad(others_s / ((end.clock_ns - begin.clock_ns) / 1e9), end.ticks.stolen_since(begin.ticks))

    def _sample(self) -> _Usage | None:
        try:
            ticks = read_ticks(self._root)
        except MeterError:
            return None
        return _Usage(self._own_cpu_s(), self._clock.now_ns(), ticks)
