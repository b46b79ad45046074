"""The machine that measures: what it is, and what else ran on it meanwhile. A latency is true of no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from device.core.clock import SystemClock
from device.machine.board import detect_board
from device.machine.identity import name_machine, read_processor
from device.machine.other_load import OtherLoadMeter
from device.protocols import Clock


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the latencies were measured, and what else ran there.

    Attributes:
        processor: its name.
        cores: that the system shows.
        is_virtual: whether a hypervisor says so.
        board: the device tree's model; None where there is no device tree.
        machine: as ``uname -m`` prints it.
        kernel: release.
        governor: of cpufreq; None where there is none.
        python: version.
        versions: of the runtimes, and of what converted.
        other_load_cores: processor time that other programs took during the measurement, as so many cores; None unmeasured.
        stolen_share: of the machine's processor time, what its hypervisor gave to others; None unmeasured.
    """

    processor: str
    cores: int
    is_virtual: bool
    board: str | None
    machine: str
    kernel: str
    governor: str | None
    python: str
    versions: dict[str, str]
    other_load_cores: float | None = None
    stolen_share: float | None = None


def describe_machine(versions: dict[str, str], root: Path = Path("/")) -> Machine:
    """Asks the machine what it is; never raises.

    Args:
        versions: of what measures.
        root: where ``proc`` and ``sys`` are.
    """
    facts = detect_board(root)
    processor = read_processor(root)
    return Machine(
        processor=processor.name or facts.machine,
        cores=facts.cores,
        is_virtual=processor.is_virtual,
        board=facts.model,
        machine=facts.machine,
        kernel=facts.kernel,
        governor=facts.governor,
        python=facts.python,
        versions=versions,
    )


def format_machine(machine: Machine) -> str:
    """One line: what latencies are true of, and what else ran meanwhile."""
    words: list[str] = []
    if machine.other_load_cores is not None:
        words.append(f"other programs took {machine.other_load_cores:.2f} cores meanwhile")
    if machine.stolen_share:
        words.append(f"its hypervisor {machine.stolen_share:.1%} of its time")
    return name_machine(machine, *words)


class LoadMeter:
    """What other programs take of the machine from now on.

    Args:
        root: where ``proc`` is.
        clock: measures the span.
        own_cpu_s: processor time that this process has taken.
    """

    def __init__(
        self, root: Path = Path("/"), clock: Clock | None = None, own_cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self._others = OtherLoadMeter(clock or SystemClock(), root, own_cpu_s)
        self._others.start()

    def finish(self, machine: Machine) -> Machine:
        """Adds what was seen since the start; adds nothing where the kernel doesn't say."""
        others = self._others.read()
        return msgspec.structs.replace(machine, other_load_cores=others.cores, stolen_share=others.stolen_share)
