"""Runs the board's own programs (systemctl, useradd, …)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

from device.errors import ServiceError

TIMEOUT_S = 900.0
"""For the slowest: the self-test on an emulated board."""


class Done(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """What it said last."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"exit code {self.code}"


Run = Callable[[Sequence[str]], Done]
"""Runs a program to its end; raises `OSError` where it isn't there."""


def run_program(argv: Sequence[str]) -> Done:
    """Runs a program of this machine; those for administrators are found even where the caller's path has them not."""
    environment = os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return Done(124, "", f"{argv[0]} gave no answer within {TIMEOUT_S:g} s")
    return Done(done.returncode, done.stdout, done.stderr)


class Commands:
    """Programs that must succeed.

    Args:
        run: runs one.
    """

    def __init__(self, run: Run = run_program) -> None:
        self._run = run

    def try_run(self, *argv: str) -> Done:
        """Runs; the caller looks at the exit code. A program that isn't there ends with 127, as in a shell."""
        try:
            return self._run(argv)
        except OSError as error:
            return Done(127, "", f"{argv[0]}: {error.strerror or error}")

    def require(self, *argv: str, reason: str) -> str:
        """Runs; gives what it printed.

        Raises:
            ServiceError: it failed; says what it said last.
        """
        done = self.try_run(*argv)
        if done.code:
            raise ServiceError(" ".join(argv[:3]), done.last_line, reason=reason)
        return done.out
