"""Names the machine: a figure that was measured is true of no other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from device.machine.sysfs import read_text


class Processor(NamedTuple):
    """What the kernel says of the first processor.

    Attributes:
        name: None where it gives none (ARM).
        is_virtual: it says that a hypervisor runs it.
    """

    name: str | None
    is_virtual: bool


class NamedMachine(Protocol):
    """What a record has to tell of its machine: see `device.machine.board.BoardFacts` and `Processor`."""

    @property
    def board(self) -> str | None:
        """The device tree's model."""

    @property
    def processor(self) -> str:
        """Its name."""

    @property
    def cores(self) -> int:
        """That the system shows."""

    @property
    def is_virtual(self) -> bool:
        """A hypervisor says that it runs this machine."""

    @property
    def machine(self) -> str:
        """As ``uname -m`` prints it."""

    @property
    def kernel(self) -> str:
        """Release."""

    @property
    def governor(self) -> str | None:
        """Of cpufreq; None where there is none."""


def read_processor(root: Path = Path("/")) -> Processor:
    """Asks the kernel; never raises.

    Args:
        root: where ``proc`` is.

    References:
        proc_cpuinfo(5); the x86 flag ``hypervisor`` is bit 31 of ECX in CPUID leaf 1, which hypervisors set.
    """
    lines = (read_text(root / "proc/cpuinfo") or "").split("\n\n")[0].splitlines()  # of the first processor
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Processor(fields.get("model name") or None, "hypervisor" in fields.get("flags", "").split())


def name_machine(machine: NamedMachine, *more: str) -> str:
    """One line: what figures are true of.

    Args:
        machine: that was measured.
        more: what else is to be said, at the end.
    """
    words = [
        f"{machine.board}, {machine.processor}" if machine.board else machine.processor,
        f"{machine.cores} core" + ("s" if machine.cores > 1 else "") + (" (a virtual machine)" if machine.is_virtual else ""),
        f"{machine.machine}, Linux {machine.kernel}",
        f"governor {machine.governor}" if machine.governor else "no cpufreq",
    ]
    return ", ".join([*words, *more])
