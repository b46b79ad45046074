"""Runs the board's own programs (systemctl, useradd, …)."""

from __future__ import annotations

from device.core.errors import ServiceError, ServiceReason
from device.core.programs import Done, Run, run_program

TIMEOUT_S = 900.0
"""For the slowest: the self-test on an emulated board."""


class Commands:
    """Programs that must succeed.

    Args:
        run: runs one.
    """

    def __init__(self, run: Run = run_program) -> None:
        self._run = run

    def try_run(self, *argv: str) -> Done:
        """Runs a program; the caller checks the exit code."""
        return self._run(argv, TIMEOUT_S)

    def require(self, *argv: str, reason: ServiceReason) -> str:
        """Runs a program, and returns what it printed.

        Raises:
            ServiceError: with ``reason``: it failed; with its last error line.
        """
        done = self.try_run(*argv)
        if done.code:
            raise ServiceError(" ".join(argv[:3]), done.last_line, reason=reason)
        return done.out
