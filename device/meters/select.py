"""From a profile's list of meters to those that are there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from device.contract import Board, Power
from device.core.clock import SystemClock
from device.core.errors import MeterError, MissingDependencyError
from device.meters.registry import METERS
from device.protocols import Clock, PowerMeter


def open_meters(
    power: Power, board: Board, root: Path = Path("/"), clock: Clock | None = None
) -> tuple[list[PowerMeter], list[str]]:
    """Opens every meter that a profile names and that is there, in the profile's order.

    Args:
        power: the profile's meters.
        board: the profile's board.
        root: where ``sys`` and ``proc`` are.
        clock: stamps the samples.

    Returns:
        The open meters, of which the first gives the headline figure, and for each of the others one line why it isn't
        there, beginning with its kind.

    Raises:
        UsageError: the profile names a meter that doesn't exist; none stays open.
    """
    meters: list[PowerMeter] = []
    reasons: list[str] = []
    clock = clock or SystemClock()
    with ExitStack() as opened:
        for config in power.meters:
            try:
                meter: PowerMeter = METERS.load(config.kind).open(config, board, root, clock)
            except (MeterError, MissingDependencyError) as error:
                reason = str(error)
                reasons.append(reason if reason.startswith(f"{config.kind}:") else f"{config.kind}: {reason}")
            else:
                meters.append(opened.enter_context(meter))
        opened.pop_all()
    return meters, reasons
