"""Notices to the service manager: sd_notify(3) without a library.

References:
    sd_notify(3): datagrams of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``; an ``@`` begins an abstract address.
    sd_watchdog_enabled(3): ``WATCHDOG_USEC``, and ``WATCHDOG_PID``, whose process is meant.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

SEND_TIMEOUT_S = 0.5
"""The manager reads at once; one that doesn't must not delay frames."""


class Notifier:
    """Sends notices to the service manager. The first that can't be sent is reported; the daemon continues.

    Args:
        address: of the socket, as ``NOTIFY_SOCKET`` has it.
        report: takes one line.
    """

    def __init__(self, address: str, report: Callable[[str], None]) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._report = report
        self._has_failed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_TIMEOUT_S)

    def ready(self) -> None:
        """The daemon is up: its first inference is done."""
        self._send("READY=1")

    def alive(self) -> None:
        """The daemon works; without this for the unit's ``WatchdogSec``, it is killed and restarted."""
        self._send("WATCHDOG=1")

    def status(self, line: str) -> None:
        """One line for a person, which ``systemctl status`` shows."""
        self._send(f"STATUS={' '.join(line.split())}")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                self._report(f"the service manager can't be notified ({error.strerror or error}): {text.partition('=')[0]}")


def read_watchdog_s(environment: Mapping[str, str], pid: int | None = None) -> float | None:
    """How long the service manager waits for a sign of life; None where it doesn't watch this process.

    Args:
        environment: this process's.
        pid: of the process that asks; this one's if None.
    """
    watched = environment.get("WATCHDOG_PID")
    if watched and watched != str(os.getpid() if pid is None else pid):
        return None
    try:
        period_us = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return period_us / 1e6 if period_us > 0 else None
