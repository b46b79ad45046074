"""Runs scripts on a board: over OpenSSH, or on this machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from device.core.errors import DeployError
from device.core.programs import HUNG, Done, run_program

CONNECT_TIMEOUT_S = 15
SCRIPT_TIMEOUT_S = 1800.0
"""For the longest: sending and proving everything on a slow board."""

_SSH_FAILED = 255


class Transport(Protocol):
    """A way to a board."""

    @property
    def name(self) -> str:
        """Of the board, as the user wrote it."""

    def run(self, script: str, *, stdin: Path | None = None) -> Done:
        """Runs a script with ``sh``.

        Args:
            script: for the shell.
            stdin: a file that it reads.

        Raises:
            DeployError: ``ssh``: the board can't be reached, or refuses the login.
        """

    def close(self) -> None:
        """Closes the connection. May be called twice."""


class LocalTransport:
    """This machine."""

    name = "this machine"

    def run(self, script: str, *, stdin: Path | None = None) -> Done:
        """Runs a script by ``sh``."""
        return run_program(["/bin/sh", "-c", script], SCRIPT_TIMEOUT_S, stdin=stdin)

    def close(self) -> None:
        """Does nothing: there is no connection."""


class SshTransport:
    """A board over SSH. All scripts share one connection.

    Args:
        target: ``[user@]host`` or ``ssh://[user@]host[:port]``, as ssh takes it.
        options: for ssh, each as an argument of its own.
    """

    def __init__(self, target: str, options: Sequence[str] = ()) -> None:
        if target.startswith("-") or not target.strip():
            raise DeployError("HOST", f"{target!r} names no board", expected="[user@]host", reason="hosts")
        self._target = target
        # A socket's path may have 107 bytes; that of a user's temporary folder is often half of that.
        self._folder = tempfile.mkdtemp(prefix="gw-", dir="/tmp")
        self._options = [*options, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
        self._options += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        self._options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={self._folder}/%C"]

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self._target

    def run(self, script: str, *, stdin: Path | None = None) -> Done:
        """Runs a script by the board's ``sh``."""
        # The exit code can't tell: it is the same for a program that isn't on the board.
        if shutil.which("ssh") is None:
            raise DeployError("ssh", "is not installed here", remedy="apt install openssh-client", reason="ssh")
        command = ["ssh", *self._options, self._target, "exec /bin/sh -c " + _quote(script)]
        done = run_program(command, SCRIPT_TIMEOUT_S, stdin=stdin)
        if done.code in (_SSH_FAILED, HUNG):
            raise DeployError(self._target, done.last_line, remedy=_remedy(done.err, self._target), reason="ssh")
        return done

    def close(self) -> None:
        """Ends the connection."""
        run_program(["ssh", *self._options, "-O", "exit", self._target], CONNECT_TIMEOUT_S)
        shutil.rmtree(self._folder, ignore_errors=True)


def _quote(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


def _remedy(said: str, target: str) -> str:
    """What to do about the most common errors."""
    if "Permission denied" in said:
        return f"ssh-copy-id {target}"
    if "Host key verification failed" in said:
        return f"connect once by hand, and compare the key: ssh {target}"
    if "Could not resolve" in said:
        return "is the name right, and the board on?"
    return f"does this work: ssh {target}"
