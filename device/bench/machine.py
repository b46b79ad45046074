"""Names the machine: a figure is true of no other."""

from __future__ import annotations

from pathlib import Path

from device import __version__
from device.bench.result import BenchMachine
from device.board import detect_board
from device.sysfs import read_text


def describe_machine(root: Path = Path("/")) -> BenchMachine:
    """Asks the machine what it is; never raises.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    facts = detect_board(root)
    processor, is_virtual = _read_processor(root)
    return BenchMachine(
        board=facts.model,
        processor=processor or facts.machine,
        cores=facts.cores,
        memory_bytes=_read_memory_bytes(root),
        is_virtual=is_virtual,
        machine=facts.machine,
        kernel=facts.kernel,
        governor=facts.governor,
        python=facts.python,
        ghostwatt=__version__,
    )


def _read_processor(root: Path) -> tuple[str | None, bool]:
    """The processor's name, None where the kernel gives none (ARM), and whether it says that a hypervisor runs it.

    References:
        proc_cpuinfo(5); the x86 flag ``hypervisor`` is bit 31 of ECX in CPUID leaf 1.
    """
    lines = (read_text(root / "proc/cpuinfo") or "").split("\n\n")[0].splitlines()  # of the first processor
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name") or None, "hypervisor" in fields.get("flags", "").split()


def _read_memory_bytes(root: Path) -> int | None:
    """References: proc_meminfo(5), ``MemTotal`` in units of 1024 bytes."""
    words = (read_text(root / "proc/meminfo") or "").partition("\n")[0].split()
    return int(words[1]) * 1024 if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdecimal() else None


def format_machine(machine: BenchMachine) -> str:
    """One line: what the figures are true of."""
    words = [
        f"{machine.board}, {machine.processor}" if machine.board else machine.processor,
        f"{machine.cores} core" + ("s" if machine.cores > 1 else "") + (" (a virtual machine)" if machine.is_virtual else ""),
        f"{machine.machine}, Linux {machine.kernel}",
        f"governor {machine.governor}" if machine.governor else "no cpufreq",
        f"Python {machine.python}",
        f"ghostwatt {machine.ghostwatt}",
    ]
    return ", ".join(words)
