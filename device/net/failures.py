"""Errors of connections to servers, worded without the requested address, which may contain secrets."""

from __future__ import annotations

import os
import socket
import ssl

from device.core.errors import SourceError
from device.net.address import Address


def error_name(error: object) -> str:
    """The system's name of an error; never the error's own text, which may contain the requested address."""
    # Its number is OpenSSL's, not an errno. One that Python itself raises has no reason, or even lacks the attribute.
    if isinstance(error, ssl.SSLError):
        return getattr(error, "reason", None) or type(error).__name__
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__


def connection_failure(error: object) -> str:
    """Describes why a connection failed."""
    return "the host's name is unknown" if isinstance(error, socket.gaierror) else f"can't be reached ({error_name(error)})"


def unreachable(where: str, found: str) -> SourceError:
    """The error for a camera that can't be reached.

    Args:
        where: the camera's address, without secrets.
        found: the failure, see `connection_failure`.
    """
    return SourceError(
        where,
        found,
        expected="a camera that accepts connections",
        remedy="check host and port, and that the camera is in the same network",
        reason="unreachable",
    )


def unauthorised(address: Address, status: int) -> SourceError:
    """The error for a camera that requires a login, or rejects this one.

    Args:
        address: its address, with the user if there was one.
        status: status of the answer, 401 or 403; the same in RTSP and HTTP.
    """
    found = "requires a user and a password" if address.user is None else "rejects this user or password"
    return SourceError(
        address.safe,
        f"{found} (status {status})",
        expected=f"{address.scheme}://USER:PASSWORD@{address.authority}/..., or a line in the netrc file",
        reason="unauthorised",
    )
