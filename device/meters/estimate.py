"""No sensor, but a known board: power guessed from how busy its processor is. Always marked as an estimate.

References:
    PowerJoular (A. Noureddine, https://github.com/joular/powerjoular), ``raspberry_pi_cpu_formula.adb``: linear regressions
    ``rbp3b1.2``, ``rbp3b+1.3``, ``rbp4b1.2-64`` and ``rbp51.0-64`` of measured whole-board power on utilisation.
    Noureddine, PowerJoular and JoularJX: Multi-Platform Software Power Monitoring Tools, Intelligent Environments 2022.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from device.core.errors import MeterError
from device.machine.board import read_compatible
from device.machine.utilisation import Ticks, read_ticks
from device.meters.calibration import PowerModel, read_calibration
from device.meters.meter import Meter, MeterContext
from device.protocols import Clock, PowerOrigin, PowerSample

POWER_MODELS = {
    "raspberrypi,3-model-b": PowerModel(1.0782, 3.4774),
    "raspberrypi,3-model-b-plus": PowerModel(2.0022, 3.2983),
    "raspberrypi,4-model-b": PowerModel(2.2857, 4.5344),
    "raspberrypi,5-model-b": PowerModel(4.4032, 3.4579),
}
"""By the device tree's name of the board. The two of the Pi 3 were measured on a 32-bit system: none is published for 64."""


class EstimateMeter(Meter):
    """A board's power, guessed from its processor's utilisation. Knows nothing of cameras, USB or the network.

    The model is the board's own where `device.calibrate` has measured one, and else the published one of the board that
    the device tree names, whatever the profile says: a model of another board would be wrong. A measured model that can't be
    used is an error: the published one does not replace it.

    Args:
        root: where ``proc``, ``sys`` and the state folder are.
        clock: stamps the samples.

    Raises:
        MeterError: ``missing`` where no model of this board is known; ``other_board``, ``malformed`` or ``permission`` where
            the file with its measured model can't be used.
    """

    # ``resolution_w`` stays None: the model's figures have many digits, but are rough.

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        calibration = read_calibration(root)
        model = f"two-point calibration, {calibration.date}" if calibration else "utilisation, PowerJoular's model"
        self.origin = PowerOrigin(
            source=f"estimate ({model})", scope=calibration.scope if calibration else "board", is_estimate=True
        )
        self._model = calibration.model if calibration else find_published_model(root)
        self._last: tuple[Ticks, int] | None = None
        read_ticks(root)

    @classmethod
    def open(cls, _options: Any, context: MeterContext) -> Self:
        """Opens the model of this board."""
        return cls(context.root, context.clock)

    def read(self) -> PowerSample | None:
        """Estimates the mean since the previous read. See `PowerMeter.read`; None too where no tick has passed since."""
        previous, self._last = self._last, None
        ticks, now_ns = read_ticks(self._root), self._clock.now_ns()
        if previous is None:
            self._last = ticks, now_ns
            return None
        utilisation = ticks.utilisation_since(previous[0])
        if utilisation is None or now_ns <= previous[1]:
            self._last = previous
            return None
        self._last = ticks, now_ns
        power_w = self._model.idle_w + self._model.span_w * utilisation
        return PowerSample(timestamp_ns=now_ns, power_w=power_w, energy_j=power_w * (now_ns - previous[1]) / 1e9)


def find_published_model(root: Path = Path("/")) -> PowerModel:
    """Finds the model of the board that the device tree names.

    Raises:
        MeterError: ``missing``.
    """
    compatible = read_compatible(root)
    for name in compatible:
        if name in POWER_MODELS:
            return POWER_MODELS[name]
    raise MeterError(
        "estimate",
        f"no model of the power of {compatible[0] if compatible else 'a machine without a device tree'}",
        expected=f"one of {', '.join(sorted(POWER_MODELS))}",
        remedy="fit a sensor, or measure the board's own model once: python -m device.calibrate",
        reason="missing",
    )
