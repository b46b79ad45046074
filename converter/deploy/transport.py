"""Runs scripts on a board: over OpenSSH, or on this machine."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from device.errors import DeployError
from device.service.commands import Done

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
        """Runs a script by ``sh``.

        Args:
            script: for the shell.
            stdin: a file that it reads.

        Raises:
            DeployError: ``ssh``: the board can't be reached, or doesn't let us in.
        """

    def close(self) -> None:
        """Lets go. May be called twice."""


class LocalTransport:
    """This machine."""

    name = "this machine"

    def run(self, script: str, *, stdin: Path | None = None) -> Done:
        """Runs a script by ``sh``."""
        return _run(["/bin/sh", "-c", script], stdin)

    def close(self) -> None:
        """Nothing to let go of."""


class SshTransport:
    """A board behind SSH. One connection serves all scripts.

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
        done = _run(["ssh", *self._options, self._target, "exec /bin/sh -c " + _quote(script)], stdin)
        if done.code == _SSH_FAILED:
            raise DeployError(self._target, done.last_line, remedy=_remedy(done.err, self._target), reason="ssh")
        return done

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["ssh", *self._options, "-O", "exit", self._target], capture_output=True, check=False, timeout=CONNECT_TIMEOUT_S
            )
        shutil.rmtree(self._folder, ignore_errors=True)


def _quote(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


def _remedy(said: str, target: str) -> str:
    """What to do about the errors that everybody meets."""
    if "Permission denied" in said:
        return f"ssh-copy-id {target}"
    if "Host key verification failed" in said:
        return f"connect once by hand, and compare the key: ssh {target}"
    if "Could not resolve" in said:
        return "is the name right, and the board on?"
    return f"does this work: ssh {target}"


def _run(argv: Sequence[str], stdin: Path | None) -> Done:
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        try:
            done = subprocess.run(
                argv, stdin=source, capture_output=True, text=True, errors="replace", check=False, timeout=SCRIPT_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return Done(_SSH_FAILED, "", f"no answer within {SCRIPT_TIMEOUT_S:g} s")
        except OSError as error:
            raise DeployError(
                argv[0], error.strerror or str(error), remedy="apt install openssh-client", reason="ssh"
            ) from error
    return Done(done.returncode, done.stdout, done.stderr)
