"""Describes the machine for ``bench.json``."""

from __future__ import annotations

from pathlib import Path

from device import __version__
from device.bench.result import BenchMachine
from device.machine.board import detect_board
from device.machine.identity import name_machine
from device.machine.memory import read_total_bytes


def describe_machine(root: Path = Path("/")) -> BenchMachine:
    """Describes this machine; never raises.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    return BenchMachine(**detect_board(root).shared_fields(), memory_bytes=read_total_bytes(root), ghostwatt=__version__)


def format_machine(machine: BenchMachine) -> str:
    """Formats the machine in one line."""
    return name_machine(machine, f"Python {machine.python}", f"ghostwatt {machine.ghostwatt}")
