"""Describes the machine for ``bench.json``."""

from __future__ import annotations

from pathlib import Path

from device import __version__
from device.bench.result import BenchMachine
from device.machine.board import detect_board
from device.machine.identity import name_machine, read_processor
from device.machine.memory import read_total_bytes


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
        memory_bytes=read_total_bytes(root),
        is_virtual=processor.is_virtual,
        machine=facts.machine,
        kernel=facts.kernel,
        governor=facts.governor,
        python=facts.python,
        ghostwatt=__version__,
    )


def format_machine(machine: BenchMachine) -> str:
    """Formats the machine in one line."""
    return name_machine(machine, f"Python {machine.python}", f"ghostwatt {machine.ghostwatt}")
