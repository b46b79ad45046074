"""Asks an RTSP camera why its stream can't be opened, because FFmpeg doesn't report it.

References:
    RFC 2326 (1998), sections 10.2 and 11: ``DESCRIBE``, and the status codes.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import NamedTuple

from device import __version__
from device.core.errors import SourceError
from device.net.address import Address
from device.net.failures import connection_failure, unauthorised, unreachable
from device.net.login import Challenge, make_login, parse_challenges

_MAX_ANSWER_BYTES = 16384
_STATUS = re.compile(r"RTSP/1\.[01] ([0-9]{3})\b")


class Answer(NamedTuple):
    """The head of a camera's answer.

    Attributes:
        status: None if the answer isn't RTSP.
        challenges: the logins that it accepts.
    """

    status: int | None
    challenges: tuple[Challenge, ...]


def explain_failure(address: Address, *, timeout_s: float) -> SourceError:
    """Finds out why a stream couldn't be opened.

    Args:
        address: of the stream.
        timeout_s: for each step.

    Returns:
        The error to raise, which contains no secrets.
    """
    where = address.safe
    try:
        answer = _describe(address, timeout_s)
    except ssl.SSLError:
        return unreachable(where, "no TLS on this port")
    except TimeoutError:
        return SourceError(
            where,
            "the camera doesn't answer",
            expected="an RTSP server",
            remedy="check host and port, or give the camera time to start",
            reason="stalled",
        )
    except OSError as error:
        return unreachable(where, connection_failure(error))
    return _explain_answer(address, answer)


def _explain_answer(address: Address, answer: Answer) -> SourceError:
    where = address.safe
    if answer.status is None:
        return SourceError(where, "the answer isn't RTSP", expected="an RTSP server on this port", reason="format")
    if answer.status in (401, 403):
        return unauthorised(address, answer.status)
    if answer.status == 404:
        return SourceError(
            where,
            "the camera doesn't know this path",
            expected="the path of a stream",
            remedy="look it up in the camera's manual, or query the camera by ONVIF",
            reason="missing",
        )
    if answer.status != 200:
        return SourceError(where, f"the camera refuses with status {answer.status}", expected="status 200", reason="refused")
    return SourceError(
        where,
        "the camera answers, but no video that FFmpeg can decode came in time",
        expected="H.264, H.265 or MJPEG",
        remedy="use another stream of the camera; if the network drops UDP, leave out #udp",
        reason="format",
    )


def _describe(address: Address, timeout_s: float) -> Answer:
    """Requests the stream's description; repeats the request with user and password if the camera asks for them."""
    answer = _ask(address, timeout_s, login=None)
    if answer.status == 401 and address.user is not None:
        login = make_login(answer.challenges, address.user, address.password or "", method="DESCRIBE", uri=address.url())
        if login is not None:
            return _ask(address, timeout_s, login=login)
    return answer


def _ask(address: Address, timeout_s: float, login: str | None) -> Answer:
    lines = [
        f"DESCRIBE {address.url()} RTSP/1.0".encode(),
        b"CSeq: 1",
        b"Accept: application/sdp",
        f"User-Agent: ghostwatt/{__version__}".encode(),
        *([f"Authorization: {login}".encode("latin-1")] if login else []),
    ]
    with socket.create_connection((address.host, address.port), timeout_s) as plain:
        connection = _wrap(plain, address) if address.scheme == "rtsps" else plain
        connection.sendall(b"".join(line + b"\r\n" for line in [*lines, b""]))
        return parse_answer(_receive_head(connection))


def _wrap(plain: socket.socket, address: Address) -> ssl.SSLSocket:
    # Like FFmpeg, this doesn't check the certificate: it only finds out why FFmpeg failed.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=address.host)


def _receive_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_ANSWER_BYTES:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return head


def parse_answer(head: bytes) -> Answer:
    """Reads status and challenges from the head of an answer."""
    lines = head.decode("latin-1").split("\r\n")
    status = _STATUS.match(lines[0])
    challenges = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("www-authenticate:")]
    return Answer(int(status[1]) if status else None, tuple(parse_challenges(challenges)))
