"""What a check is, what it may look at, and how checks are run: all at once, each in a thread of its own.

A check that crashes or hangs becomes a row that says so, and the others go on. What may crash the process, such as a runtime's
native library, is tried in a process of its own.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from device.bundle import Bundle
from device.contract import Profile
from device.core.errors import GhostwattError
from device.core.programs import Run, run_program
from device.machine.board import BoardFacts, detect_board

Verdict = Literal["ok", "warn", "fail", "unsupported"]
"""``unsupported``: this machine has no such thing, or can't tell. That isn't "ok"."""

COMMAND_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 8.0


class Check(msgspec.Struct, frozen=True):
    """A row.

    Attributes:
        check: what was looked at.
        verdict: of it.
        finding: what is there, in one line.
        fix: what to do, in one line; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    finding: str
    fix: str = ""


class Process(NamedTuple):
    """What this process is: no file of the machine says it."""

    pointer_bits: int
    python: tuple[int, int, int]
    libc: tuple[str, str]
    platform: str

    @classmethod
    def current(cls) -> Process:
        """The process that asks."""
        return cls(struct.calcsize("P") * 8, sys.version_info[:3], platform.libc_ver(), sys.platform)


class CheckContext(NamedTuple):
    """What checks may look at.

    Attributes:
        root: where ``sys``, ``proc``, ``dev`` and ``etc`` are.
        facts: of the board.
        bundle: to check against; None without one.
        bundle_error: why there is none; None where there is one.
        telemetry: where a run would keep its record.
        process: what this process is.
        environment: variables.
        command: runs programs.
    """

    root: Path
    facts: BoardFacts
    bundle: Bundle | None
    bundle_error: GhostwattError | None
    telemetry: Path
    process: Process
    environment: Mapping[str, str]
    command: Run

    @property
    def profile(self) -> Profile | None:
        """The bundle's profile; None without a bundle."""
        return self.bundle.manifest.profile if self.bundle else None

    @property
    def is_raspberry_pi(self) -> bool:
        """Whether the device tree names a Raspberry Pi."""
        return any(name.startswith("raspberrypi,") for name in self.facts.compatible)


Probe = tuple[str, Callable[[CheckContext], Iterable[Check]], float]
"""Name, check, and the most seconds that it may take."""


def examine(context: CheckContext, probes: Sequence[Probe]) -> list[Check]:
    """Runs all probes at once; gives their rows in the probes' order."""
    found: list[list[Check] | None] = [None] * len(probes)

    def look(index: int, name: str, probe: Callable[[CheckContext], Iterable[Check]]) -> None:
        try:
            found[index] = list(probe(context))
        except Exception as error:  # Whatever it is, the other rows are still worth having.
            found[index] = [describe_crash(name, error)]

    # Daemons: a thread that hangs in a driver's call can't be ended, and must not keep the process alive.
    threads = [
        threading.Thread(target=look, args=(index, name, probe), name=f"doctor-{name}", daemon=True)
        for index, (name, probe, _) in enumerate(probes)
    ]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread, (_, _, limit_s) in zip(threads, probes, strict=True):
        thread.join(max(0.0, started_s + limit_s - time.monotonic()))
    rows: list[Check] = []
    for (name, _, limit_s), checks in zip(probes, found, strict=True):
        rows += [Check(name, "fail", f"gave no answer within {limit_s:g} s", _REPORT)] if checks is None else checks
    return rows


def describe_crash(name: str, error: Exception) -> Check:
    """The row of a check that raised an error."""
    if isinstance(error, GhostwattError):
        return of_error(name, error)
    return Check(name, "fail", f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())}", _REPORT)


def of_error(name: str, error: GhostwattError, verdict: Verdict = "fail") -> Check:
    """The row of an error of ours, whose remedy is the fix."""
    found = f"{error.where}: {error.found}" + (f"; expected {error.expected}" if error.expected else "")
    return Check(name, verdict, " ".join(found.split()), " ".join(error.remedy.split()))


def read_long(path: Path) -> str:
    """Reads a file of ``/proc`` that may be longer than an attribute; empty where it can't be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_CHARACTERS)
    except OSError:
        return ""


def make_context(
    root: Path, bundle: Bundle | None, bundle_error: GhostwattError | None, telemetry: Path, command: Run = run_program
) -> CheckContext:
    """The context of this machine and this process."""
    return CheckContext(root, detect_board(root), bundle, bundle_error, telemetry, Process.current(), os.environ, command)


_MAX_CHARACTERS = 1 << 20

_REPORT = "please report it, with the output of python -m device.doctor --json"
