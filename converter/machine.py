"""The machine that measures: what it is, and what else ran on it meanwhile. A latency is true of no other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from device.board import detect_board
from device.sysfs import read_text

# Fields of the first line of /proc/stat, in USER_HZ; guests' time is part of `user` and `nice`.
_STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_BUSY = ("user", "nice", "system", "irq", "softirq")


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
    processor, is_virtual = read_processor(root)
    return Machine(
        processor=processor or facts.machine,
        cores=facts.cores,
        is_virtual=is_virtual,
        board=facts.model,
        machine=facts.machine,
        kernel=facts.kernel,
        governor=facts.governor,
        python=facts.python,
        versions=versions,
    )


def read_processor(root: Path = Path("/")) -> tuple[str | None, bool]:
    """The processor's name, None where the kernel doesn't give one (ARM), and whether it says that a hypervisor runs it.

    References:
        proc_cpuinfo(5); the x86 flag ``hypervisor`` is bit 31 of ECX in CPUID leaf 1, which hypervisors set.
    """
    lines = (read_text(root / "proc/cpuinfo") or "").split("\n\n")[0].splitlines()  # of the first processor
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name") or None, "hypervisor" in fields.get("flags", "").split()


def format_machine(machine: Machine) -> str:
    """One line: what latencies are true of."""
    words = [
        f"{machine.board}, {machine.processor}" if machine.board else machine.processor,
        f"{machine.cores} cores" + (" (a virtual machine)" if machine.is_virtual else ""),
        f"{machine.machine}, Linux {machine.kernel}",
        f"governor {machine.governor}" if machine.governor else "no cpufreq",
    ]
    if machine.other_load_cores is not None:
        words.append(f"other programs took {machine.other_load_cores:.2f} cores meanwhile")
    if machine.stolen_share:
        words.append(f"its hypervisor {machine.stolen_share:.1%} of its time")
    return ", ".join(words)


class LoadMeter:
    """What other programs take of the machine from now on.

    Args:
        root: where ``proc`` is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._ticks_hz = os.sysconf("SC_CLK_TCK")
        self._begin = self._read()

    def finish(self, machine: Machine) -> Machine:
        """Adds what was seen since the start; adds nothing where the kernel doesn't say."""
        end = self._read()
        if self._begin is None or end is None:
            return machine
        (own_s, wall_s, before), (own_end_s, wall_end_s, after) = self._begin, end
        ticks = {name: after[name] - before[name] for name in _STAT_FIELDS}
        others_s = sum(ticks[name] for name in _BUSY) / self._ticks_hz - (own_end_s - own_s)
        total = sum(ticks.values())
        return msgspec.structs.replace(
            machine,
            other_load_cores=round(max(others_s, 0.0) / max(wall_end_s - wall_s, 1e-9), 2),
            stolen_share=round(ticks["steal"] / total, 4) if total else 0.0,
        )

    def _read(self) -> tuple[float, float, dict[str, int]] | None:
        """Own processor time, the clock, and the machine's ticks.

        References:
            proc_stat(5).
        """
        words = (read_text(self._root / "proc/stat") or "").split()[: len(_STAT_FIELDS) + 1]
        if len(words) <= len(_STAT_FIELDS) or words[0] != "cpu" or not all(word.isdigit() for word in words[1:]):
            return None
        return time.process_time(), time.monotonic(), dict(zip(_STAT_FIELDS, map(int, words[1:]), strict=True))
