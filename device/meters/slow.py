"""Meters that take long to ask: over a network, or through a program."""

from __future__ import annotations

from abc import abstractmethod

from device.meters.meter import Meter
from device.protocols import Clock, PowerSample


class SlowMeter(Meter):
    """Base: asks its device no more often than makes sense, however often it is read.

    Between two questions `read` gives None, so that no answer and no failure counts twice. A subclass implements `_measure_w`,
    and gives up on its device by itself after ``timeout_s``.

    Args:
        clock: stamps the samples.

    Attributes:
        period_s: time from one question to the next.

    Raises:
        MeterError: what `_measure_w` raises; it is asked once, to see that the meter is there.
    """

    period_s: float

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_ns = clock.now_ns()
        self._measure_w()

    def read(self) -> PowerSample | None:
        """Asks if it is time to. See `PowerMeter.read`."""
        now_ns = self._clock.now_ns()
        if now_ns < self._due_ns:
            return None
        period_ns = round(self.period_s * 1e9)
        # Counted from when it was due, so that the period holds on average; missed questions aren't made up for.
        self._due_ns = max(self._due_ns + period_ns, now_ns + period_ns // 2)
        power_w = self._measure_w()
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=power_w, period_s=self.period_s)

    @abstractmethod
    def _measure_w(self) -> float:
        """Asks for the power now, in watts.

        Raises:
            MeterError: no answer, or none that is a power.
        """
