"""The machine that latencies were measured on, and what else ran there: they are true of no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from device.core.clock import SystemClock
from device.machine.board import detect_board
from device.machine.identity import Machine, name_machine
from device.machine.other_load import OtherLoadMeter
from device.protocols import Clock


class MeasuredMachine(Machine, frozen=True):
    """Where latencies were measured, and what else ran there.

    Attributes:
        versions: of the runtimes, and of what converted.
        other_load_cores: processor time that other programs took during the measurement, in cores; None if unmeasured.
        stolen_share: of the machine's processor time, what its hypervisor gave to others; None if unmeasured.
    """

    versions: dict[str, str]
    other_load_cores: float | None = None
    stolen_share: float | None = None


def describe_machine(versions: dict[str, str], root: Path = Path("/")) -> MeasuredMachine:
    """Asks the machine what it is; never raises.

    Args:
        versions: of what measures.
        root: where ``proc`` and ``sys`` are.
    """
    return MeasuredMachine(**detect_board(root).shared_fields(), versions=versions)


def format_machine(machine: MeasuredMachine) -> str:
    """One line: the machine that latencies are true of, and what else ran meanwhile."""
    words: list[str] = []
    if machine.other_load_cores is not None:
        words.append(f"other programs took {machine.other_load_cores:.2f} cores meanwhile")
    if machine.stolen_share:
        words.append(f"its hypervisor {machine.stolen_share:.1%} of its time")
    return name_machine(machine, *words)


class LoadMeter:
    """Measures what other programs take of the machine, from its creation on.

    Args:
        root: where ``proc`` is.
        clock: measures the time span.
        own_cpu_s: gives the processor time that this process has taken.
    """

    def __init__(
        self, root: Path = Path("/"), clock: Clock | None = None, own_cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self._others = OtherLoadMeter(clock or SystemClock(), root, own_cpu_s)
        self._others.start()

    def finish(self, machine: MeasuredMachine) -> MeasuredMachine:
        """Adds the load since the start to the machine's description; adds nothing if the kernel doesn't report it."""
        others = self._others.read()
        return msgspec.structs.replace(machine, other_load_cores=others.cores, stolen_share=others.stolen_share)
