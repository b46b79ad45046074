"""Runs other programs to their end, and reads why they failed.

Standard library alone: the installer runs this on a bare board.

References:
    timeout(1), "Exit status", for 124; the shell's 127 for a command that isn't found: POSIX.1-2017, XCU 2.8.2.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

NOT_THERE = 127
"""Exit code where there is no such program, as in a shell."""

HUNG = 124
"""Exit code where it didn't end in time, as that of `timeout`."""

_ERROR = "error: "


class Done(NamedTuple):
    """How a program ended: its exit code, or the negative number of the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """Why it failed, in one line: its last error line, or else the last line that it printed."""
        said = self.err.strip() or self.out.strip()
        return last_error(said) or (said.splitlines() or [f"exit code {self.code}"])[-1]


Run = Callable[[Sequence[str], float], Done]
"""Runs a program, for that many seconds at most."""


def run_program(argv: Sequence[str], timeout_s: float, *, stdin: Path | None = None) -> Done:
    """Runs a program of this machine. A program that is absent, hangs or fails is no exception but an exit code.

    Args:
        argv: the program and its arguments; ``/usr/sbin`` and ``/sbin`` are searched too.
        timeout_s: after which it is killed.
        stdin: a file that it reads; None for an empty one.

    Raises:
        OSError: ``stdin`` can't be read.
    """
    environment = os.environ | {"LC_ALL": "C", "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=timeout_s,
                stdin=source,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return Done(HUNG, "", f"gave no answer within {timeout_s:g} s")
        except OSError as error:
            return Done(NOT_THERE, "", error.strerror or str(error))
    return Done(done.returncode, done.stdout, done.stderr)


def last_error(text: str) -> str:
    """The last line that begins with ``error: ``, as errors of our commands do, without that; empty if there is none."""
    lines = [line for line in text.splitlines() if line.startswith(_ERROR)]
    return lines[-1].removeprefix(_ERROR) if lines else ""
