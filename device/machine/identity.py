"""Names the machine: a figure that was measured is true of no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from device.machine.sysfs import read_text


class Processor(NamedTuple):
    """What the kernel says of the first processor.

    Attributes:
        name: None where it gives none (ARM).
        is_virtual: it says that a hypervisor runs it.
    """

    name: str | None
    is_virtual: bool


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine that figures are measured on. Records that hold more of it extend this one.

    Attributes:
        processor: its name.
        cores: that the system shows.
        is_virtual: whether a hypervisor says that it runs this machine.
        board: the device tree's model, for people (``Raspberry Pi 4 Model B Rev 1.4``); None without a device tree.
        machine: as ``uname -m`` prints it.
        kernel: release, as ``uname -r`` prints it.
        governor: of cpufreq; several, joined by commas, if cores differ; None without cpufreq.
        python: version of the interpreter.
    """

    processor: str
    cores: int
    is_virtual: bool
    board: str | None
    machine: str
    kernel: str
    governor: str | None
    python: str

    def shared_fields(self) -> dict[str, Any]:
        """The fields of `Machine` alone, to make another record of the same machine from."""
        return {field.name: getattr(self, field.name) for field in msgspec.structs.fields(Machine)}


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


def name_machine(machine: Machine, *more: str) -> str:
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
