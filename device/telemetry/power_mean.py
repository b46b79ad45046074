"""Mean power over several intervals: what was counted, by the time that it was counted over."""

from __future__ import annotations

from device.protocols import IntervalRecord


class PowerMean:
    """Sums intervals up. A slow meter covers some intervals in part, or not at all: that time has no share in the mean.

    Watts of two meters have no mean, nor have those of a sensor and of a model: from another meter's first figure on, only
    that one counts.

    Attributes:
        newest: the latest interval with a figure; says whose it is. None where none had one.
    """

    def __init__(self) -> None:
        self.newest: IntervalRecord | None = None
        self._energy_j = self._covered_s = 0.0

    def add(self, record: IntervalRecord) -> None:
        """Takes an interval in; one without a figure changes nothing."""
        if record.energy_j is None or not record.power_covered_s:
            return
        if self.newest is not None and _meter(self.newest) != _meter(record):
            self._energy_j = self._covered_s = 0.0
        self.newest = record
        self._energy_j += record.energy_j
        self._covered_s += record.power_covered_s

    @property
    def power_w(self) -> float | None:
        """The mean of ``newest``'s meter; None where no interval had a figure."""
        return self._energy_j / self._covered_s if self._covered_s else None


def _meter(record: IntervalRecord) -> tuple[object, ...]:
    # A figure of which nobody says that it was measured wasn't.
    return record.power_source, record.power_scope, record.power_is_estimate is not False
