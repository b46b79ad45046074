"""What goes wrong on the way to a server: in words that hold nothing of what was asked for, since that may be secret."""

from __future__ import annotations

import os
import socket
import ssl

from device.core.errors import SourceError
from device.net.address import Address


def error_name(error: object) -> str:
    """What the system calls an error; never the error's own text, which may hold what was asked for."""
    if isinstance(error, ssl.SSLError):  # Its number is OpenSSL's own, and no errno; one that Python raises has no reason.
        return getattr(error, "reason", None) or type(error).__name__
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__


def connection_failure(error: object) -> str:
    """Says why no connection came about."""
    return "no host of this name is known" if isinstance(error, socket.gaierror) else f"can't be reached ({error_name(error)})"


def unreachable(where: str, found: str) -> SourceError:
    """The error for a camera that no connection leads to.

    Args:
        where: the camera's address, without secrets.
        found: see `connection_failure`.
    """
    return SourceError(
        where,
        found,
        expected="a camera that listens",
        remedy="look whether host and port are right, and whether the camera is in the same network",
        reason="unreachable",
    )


def unauthorised(address: Address, status: int) -> SourceError:
    """The error for a camera that takes no one, or not this user.

    Args:
        address: where it is, and whom it was asked by.
        status: that it answered with, 401 or 403: in RTSP the same as in HTTP.
    """
    found = "wants a user and a password" if address.user is None else "refuses this user or password"
    return SourceError(
        address.safe,
        f"{found} (status {status})",
        expected=f"{address.scheme}://USER:PASSWORD@{address.authority}/..., or a line in the netrc file",
        reason="unauthorised",
    )
