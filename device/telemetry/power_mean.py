"""Mean power over several intervals: the energy that was counted, by the time that it was counted over."""

from __future__ import annotations

from device.protocols import PowerFigure


class PowerMean:
    """Sums intervals up. A slow meter covers some intervals in part, or not at all: the rest of the time has no share.

    Watts of two meters have no mean, nor have those of a sensor and of a model: from another meter's first figure on, only
    that one counts.

    Attributes:
        figure: of the meter that gave the latest figure, over all of its time since it became that; None where there was none.
    """

    def __init__(self) -> None:
        self.figure: PowerFigure | None = None

    def add(self, figure: PowerFigure | None) -> None:
        """Adds an interval's figure; None, or one that covers no time, changes nothing."""
        if figure is None or not figure.covered_s:
            return
        energy_j, covered_s = figure.energy_j, figure.covered_s
        if self.figure is not None and self.figure.origin == figure.origin:
            energy_j += self.figure.energy_j
            covered_s += self.figure.covered_s
        self.figure = PowerFigure(
            source=figure.source,
            scope=figure.scope,
            is_estimate=figure.is_estimate,
            power_w=energy_j / covered_s,
            energy_j=energy_j,
            covered_s=covered_s,
        )
