"""Someone else's server, as a process of a test: started, killed, frozen and thawed."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port


class ServerProcess:
    """A server's process.

    Args:
        command: what to run.
        log_path: where its output goes.
        answers: whether it is up.
        start_limit_s: for it to come up.
    """

    def __init__(
        self, command: Sequence[str], log_path: Path, answers: Callable[[], bool], start_limit_s: float = 60.0
    ) -> None:
        self._command = list(command)
        self._log_path = log_path
        self._answers = answers
        self._start_limit_s = start_limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        assert self._process is None
        with self._log_path.open("ab") as log:
            # In a session of its own: what interrupts the tests must not reach it first.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + self._start_limit_s
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.02)

    def kill(self) -> None:
        """Kills it, frozen or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stops it without a word to those that are connected."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log_path.read_text(errors="replace")[-4000:]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
