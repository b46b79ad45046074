"""Words for what goes wrong on the way to a server: the system's, and none of what was asked for."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from device.net.address import parse_address
from device.net.failures import connection_failure, error_name, unauthorised

CANARY = "kanarienvogel"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, CANARY), "Connection refused"),
        (OSError(CANARY), "OSError"),
        (ValueError(CANARY), "ValueError"),
        # The number is OpenSSL's: 1 isn't "Operation not permitted".
        (ssl.SSLError(1, CANARY), "SSLError"),
        (CANARY, "str"),
    ],
)
def test_the_system_names_an_error(error: object, name: str) -> None:
    assert error_name(error) == name
    assert connection_failure(error) == f"can't be reached ({name})"


def test_a_host_that_is_not_known_is_named_so() -> None:
    assert connection_failure(socket.gaierror(socket.EAI_NONAME, CANARY)) == "the host's name is unknown"


def test_a_user_is_blamed_only_where_there_was_one() -> None:
    address = parse_address("rtsp", f"//me:{CANARY}@camera:8554/x?token={CANARY}")
    error = unauthorised(address, 403)
    assert str(error) == (
        "rtsp://camera:8554/x?token=***: rejects this user or password (status 403); "
        "expected rtsp://USER:PASSWORD@camera:8554/..., or a line in the netrc file"
    )
    assert "requires a user and a password (status 401)" in str(unauthorised(parse_address("http", "//camera/x"), 401))
