"""No sensor, but a known board: power guessed from how busy its processor is. Always marked as an estimate.

References:
    PowerJoular (A. Noureddine, https://github.com/joular/powerjoular), ``raspberry_pi_cpu_formula.adb``: linear regressions
    ``rbp3b1.2``, ``rbp3b+1.3``, ``rbp4b1.2-64`` and ``rbp51.0-64`` of measured whole-board power on utilisation.
    Noureddine, PowerJoular and JoularJX: Multi-Platform Software Power Monitoring Tools, Intelligent Environments 2022.
    proc_stat(5): the fields of ``cpu``, in ticks.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

from device.board import read_compatible
from device.clock import SystemClock
from device.contract import Board, Meter
from device.contract.profile import Scope
from device.errors import MeterError
from device.protocols import Clock, PowerSample
from device.resources import Resource
from device.sysfs import read_text


class PowerModel(NamedTuple):
    """Power of a board: ``idle_w + span_w * utilisation``, with the utilisation of all cores together in 0..1."""

    idle_w: float
    span_w: float


POWER_MODELS = {
    "raspberrypi,3-model-b": PowerModel(1.0782, 3.4774),
    "raspberrypi,3-model-b-plus": PowerModel(2.0022, 3.2983),
    "raspberrypi,4-model-b": PowerModel(2.2857, 4.5344),
    "raspberrypi,5-model-b": PowerModel(4.4032, 3.4579),
}
"""By the device tree's name of the board. The two of the Pi 3 were measured on a 32-bit system: none is published for 64."""

# user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user's.
_FIELDS = 8
_IDLE, _IOWAIT = 3, 4


class EstimateMeter(Resource):
    """A board's power by a model of its processor's utilisation. Knows nothing of cameras, USB or the network.

    The board is the one that the device tree names, whatever the profile says: a model of another board would be a lie.

    Args:
        root: where ``proc`` is.
        clock: stamps the samples.

    Raises:
        MeterError: ``missing`` where no model of this board is known.
    """

    source = "estimate (utilisation, PowerJoular's model)"
    scope: Scope = "board"
    is_estimate = True

    def __init__(self, root: Path, clock: Clock) -> None:
        self._clock = clock
        self._path = root / "proc/stat"
        self._model = _find_model(root)
        self._last: tuple[int, int, int] | None = None
        self._read_ticks()

    @classmethod
    def open(cls, config: Meter, board: Board, root: Path = Path("/"), clock: Clock | None = None) -> Self:  # noqa: ARG003
        """Opens the meter that a profile names."""
        return cls(root, clock or SystemClock())

    def read(self) -> PowerSample | None:
        """Estimates the mean since the previous read. See `PowerMeter.read`; None too where no tick has passed since."""
        previous, self._last = self._last, None
        busy, total = self._read_ticks()
        now_ns = self._clock.now_ns()
        if previous is not None and (total <= previous[1] or now_ns <= previous[2]):
            self._last = previous
            return None
        self._last = busy, total, now_ns
        if previous is None:
            return None
        # The kernel's idle and iowait ticks are known to step back now and then.
        utilisation = min(1.0, max(0.0, (busy - previous[0]) / (total - previous[1])))
        power_w = self._model.idle_w + self._model.span_w * utilisation
        return PowerSample(timestamp_ns=now_ns, power_w=power_w, energy_j=power_w * (now_ns - previous[2]) / 1e9)

    def _read_ticks(self) -> tuple[int, int]:
        """Busy and all ticks of all cores since the start."""
        line = (read_text(self._path) or "").partition("\n")[0].split()
        if line[:1] != ["cpu"] or len(line) <= _FIELDS or not all(field.isdecimal() for field in line[1 : _FIELDS + 1]):
            raise MeterError(str(self._path), "no line of ticks", expected="cpu and eight numbers", reason="malformed")
        ticks = [int(field) for field in line[1 : _FIELDS + 1]]
        total = sum(ticks)
        return total - ticks[_IDLE] - ticks[_IOWAIT], total


def _find_model(root: Path) -> PowerModel:
    compatible = read_compatible(root)
    for name in compatible:
        if name in POWER_MODELS:
            return POWER_MODELS[name]
    raise MeterError(
        "estimate",
        f"no model of the power of {compatible[0] if compatible else 'a machine without a device tree'}",
        expected=f"one of {', '.join(sorted(POWER_MODELS))}",
        remedy="fit a sensor; nothing is guessed for other boards",
        reason="missing",
    )
