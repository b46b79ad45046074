"""What the machine says of itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from device.machine.identity import Machine, read_processor
from device.machine.sysfs import read_text

CONFIG_TXT = "/boot/firmware/config.txt"
"""Where Raspberry Pi OS keeps what the firmware sets up at boot."""


class BoardFacts(Machine, frozen=True):
    """The machine that this process runs on.

    Attributes:
        compatible: the device tree's, for programs, most specific first; empty without a device tree.
    """

    compatible: tuple[str, ...]


def detect_board(root: Path = Path("/")) -> BoardFacts:
    """Asks the machine; never raises.

    Args:
        root: where ``proc`` and ``sys`` are. Machine, kernel, Python and cores are always this process's own.
    """
    processor = read_processor(root)
    return BoardFacts(
        processor=processor.name or platform.machine(),
        cores=os.cpu_count() or 1,
        is_virtual=processor.is_virtual,
        board=read_model(root),
        machine=platform.machine(),
        kernel=platform.release(),
        governor=read_governor(root),
        python=platform.python_version(),
        compatible=read_compatible(root),
    )


def read_model(root: Path = Path("/")) -> str | None:
    """Reads the device tree's model; None where there is none."""
    model = read_text(root / "proc/device-tree/model")
    return model if model and model.isprintable() else None


def read_compatible(root: Path = Path("/")) -> tuple[str, ...]:
    """Reads the device tree's list of compatible names, most specific first.

    References:
        Devicetree Specification v0.4, section 2.3.1: strings, each ended by NUL.
    """
    text = read_text(root / "proc/device-tree/compatible") or ""
    return tuple(name for name in text.split("\0") if name and name.isprintable())


def read_governor(root: Path = Path("/")) -> str | None:
    """Reads which cpufreq governor is at work."""
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    governors = {governor for path in paths if (governor := read_text(path))}
    return ",".join(sorted(governors)) or None
