"""Describes the machine for ``bench.json``."""

from __future__ import annotations

from pathlib import Path

from device import __version__
from device.bench.result import BenchMachine
from device.machine.board import detect_board
from device.machine.identity import name_machine, read_processor
from device.machine.sysfs import read_text


def describe_machine(root: Path = Path("/")) -> BenchMachine:
    """Describes this machine; never raises.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    facts = detect_board(root)
    processor = read_processor(root)
    return BenchMachine(
        board=facts.model,
        processor=processor.name or facts.machine,
        cores=facts.cores,
        memory_bytes=_read_memory_bytes(root),
        is_virtual=processor.is_virtual,
        machine=facts.machine,
        kernel=facts.kernel,
        governor=facts.governor,
        python=facts.python,
        ghostwatt=__version__,
    )


def _read_memory_bytes(root: Path) -> int | None:
    """References: proc_meminfo(5), ``MemTotal`` in units of 1024 bytes."""
    words = (read_text(root / "proc/meminfo") or "").partition("\n")[0].split()
    return int(words[1]) * 1024 if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdecimal() else None


def format_machine(machine: BenchMachine) -> str:
    """Formats the machine in one line."""
    return name_machine(machine, f"Python {machine.python}", f"ghostwatt {machine.ghostwatt}")
