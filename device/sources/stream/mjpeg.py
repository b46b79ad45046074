"""Frames of an HTTP camera that sends JPEGs one after another: phones (Android's IP Webcam), mjpg-streamer, motion, ustreamer.

A frame's timestamp is the arrival of its last byte: the server's own stamps, if any, are of another clock. The delay between
the lens and the arrival can't be known.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import sys
import termios
import threading
import urllib.error
import urllib.request
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import ClassVar, Self

from device.core.errors import SourceError, UsageError
from device.core.plugin import Needs, import_package
from device.image.preprocess import least_side_px
from device.net.address import Address, Scheme, add_credentials, parse_address
from device.net.failures import connection_failure, error_name, unauthorised, unreachable
from device.net.http import make_opener
from device.sources.base import OPENCV, SourceOptions
from device.sources.live import Damage, LiveSource, Picture, picture_or_damage
from device.sources.stream.multipart import MultipartParser, Part

ANSWER_TIMEOUT_S = 5.0
"""Timeout for the connection, and again for the answer: a server that is starting may accept a connection and forget it."""

READ_TIMEOUT_S = 120.0
"""Timeout for each piece of the stream. The reader has its own timeout, and `MjpegSource.close` cuts the connection."""

MAX_REDIRECTS = 3

MAX_SKIPPED = 100
"""Most pictures that are skipped at once: even if a server sends faster than we read, some pictures must be delivered."""

_CHUNK_BYTES = 2**18

_WHERE_STREAMS_ARE = (
    "the stream is at /video in Android's IP Webcam, at /?action=stream in mjpg-streamer, at /stream in ustreamer, "
    "and at the root of motion's port 8081"
)


class MjpegSource(LiveSource):
    """An MJPEG stream; keeps its newest picture.

    If several pictures have arrived while the previous one was processed, only the last is decoded; the others count in
    `Frame.index`. Large ones are decoded at a half, a quarter or an eighth of their size if the network needs no more.

    Args:
        address: of the stream.
        options: ``clock`` and ``preprocessing`` are used; the server chooses size and rate.

    Raises:
        SourceError: ``unreachable``, ``certificate``, ``unauthorised``, ``missing`` if the server doesn't know the path,
            ``refused`` for any other status, ``format`` if the answer isn't a stream, ``stalled`` if there is no answer.
    """

    scheme: ClassVar[Scheme] = "http"
    needs: ClassVar[Needs] = OPENCV._replace(is_networked=True)

    def __init__(self, address: Address, options: SourceOptions | None = None) -> None:
        chosen = options or SourceOptions()
        import_package("device.image.opencv", self.needs, f"source {self.scheme}")
        self._handle = handle = _ConnectionHandle()
        super().__init__(
            address.safe,
            # Doesn't refer to `self`: in a reference cycle, the source would be freed only by the garbage collector.
            lambda: _MjpegCapture(address, chosen, handle),
            chosen,
            remedy="check the camera's power and network",
        )

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``http://[USER:PASSWORD@]HOST[:PORT]/PATH``; without a user, the netrc file is searched."""
        address = parse_address(cls.scheme, rest)
        if address.fragment:
            raise UsageError("source", f"'{cls.scheme}:...' has a #fragment", expected="no fragment", reason="malformed_uri")
        return cls(add_credentials(address), options)

    def close(self) -> None:
        """Cuts the connection, which ends the thread that waits on it at once."""
        self._closed.set()
        self._handle.cut()
        super().close()


class MjpegsSource(MjpegSource):
    """An MJPEG stream over TLS.

    Its certificate is checked; ``SSL_CERT_FILE`` in the environment names one to trust.
    """

    scheme: ClassVar[Scheme] = "https"


class _ConnectionHandle:
    """A second handle to a connection, to cut it while another thread reads from it, and to see how much data waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def hold(self, descriptor: int) -> None:
        """Duplicates the descriptor of an open connection."""
        with self._lock:
            self._socket = socket.socket(fileno=os.dup(descriptor))
        if self._is_cut:
            self.cut()

    def let_go(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    def cut(self) -> None:
        """Cuts the connection, or the next one that is held. May be called from any thread."""
        self._is_cut = True
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def waiting_bytes(self) -> int:
        """Number of bytes that have arrived but haven't been read yet."""
        count = bytearray(4)
        with self._lock:
            if self._socket is not None:
                fcntl.ioctl(self._socket, termios.FIONREAD, count)
        return int.from_bytes(count, sys.byteorder)


class _MjpegCapture:
    """An open stream. See `device.sources.live.Capture`."""

    rate_fps: float | None = None

    def __init__(self, address: Address, options: SourceOptions, handle: _ConnectionHandle) -> None:
        self._where = address.safe
        self._clock = options.clock
        self._least_side_px = least_side_px(options.preprocessing)
        self._handle = handle
        self._response = _request(address)
        try:
            self._parser = MultipartParser(_require_stream(self._response, self._where), self._where)
            handle.hold(self._response.fileno())
        except BaseException:
            self.close()
            raise

    def read(self) -> Picture | Damage | None:
        """Waits for a picture; if several have arrived, takes the last."""
        part: Part | None = None
        seen = 0
        # Less than half a picture may be only a line break, or a picture whose rest takes long to arrive.
        while part is None or (seen <= MAX_SKIPPED and self._handle.waiting_bytes() > len(part.body) / 2):
            pictures = [found for found in self._parser.feed(self._receive()) if _is_picture(found)]
            seen += len(pictures)
            part = pictures[-1] if pictures else part
        from device.image.opencv import decode_jpeg

        body = part.body
        return picture_or_damage(
            lambda: decode_jpeg(body, self._where, least_side_px=self._least_side_px), self._clock.now_ns(), seen - 1
        )

    def close(self) -> None:
        """Closes the connection."""
        self._handle.let_go()
        self._response.close()

    def _receive(self) -> bytes:
        try:
            data = self._response.read1(_CHUNK_BYTES)
        except TimeoutError:
            raise SourceError(
                self._where, f"no data for {READ_TIMEOUT_S:g} s", expected="a camera that delivers", reason="stalled"
            ) from None
        except (OSError, HTTPException) as error:
            raise _ended(self._where, f"the connection broke ({error_name(error)})") from None
        if not data:
            raise _ended(self._where, "the server ended the stream")
        return data


def _is_picture(part: Part) -> bool:
    """Whether a part is a picture: some cameras interleave sound."""
    return part.headers.get("content-type", "image/").lower().startswith("image/")


def _ended(where: str, found: str) -> SourceError:
    return SourceError(where, found, expected="a stream without end", reason="ended")


def _request(address: Address) -> HTTPResponse:
    """Requests the stream; follows redirects, and logs in if the server demands it."""
    where = address.safe
    opener = make_opener(address, error=SourceError, redirects=_Redirects(), plain=_PlainConnection, tls=_TlsConnection)
    try:
        response: HTTPResponse = opener.open(address.url(), timeout=ANSWER_TIMEOUT_S)
    # These errors aren't chained, because their text may contain the address.
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(address, error.code) from None
    except urllib.error.URLError as error:
        raise _unreached(where, error.reason) from None
    except TimeoutError:
        raise SourceError(
            where, f"no answer within {ANSWER_TIMEOUT_S:g} s", expected="an HTTP server", reason="stalled"
        ) from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirect to an invalid address
        raise SourceError(
            where, f"the answer can't be understood ({error_name(error)})", expected="an HTTP server", reason="unreachable"
        ) from None
    return response


class _PlainConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:
        """Waits for the head of the answer, and extends the timeout from then on."""
        connection = self.sock
        response = super().getresponse()
        connection.settimeout(READ_TIMEOUT_S)
        return response


class _TlsConnection(HTTPSConnection, _PlainConnection):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS


def _refusal(address: Address, status: int) -> SourceError:
    """The error for an HTTP status other than success."""
    where = address.safe
    if status in (401, 403):
        return unauthorised(address, status)
    if status == 404:
        return SourceError(
            where, "the server doesn't know this path", expected="an MJPEG stream", remedy=_WHERE_STREAMS_ARE, reason="missing"
        )
    if status == 503:
        return SourceError(
            where,
            "the server is busy",
            expected="a server that accepts another viewer",
            remedy="close other viewers",
            reason="refused",
        )
    return SourceError(where, f"the server refuses with status {status}", expected="status 200", reason="refused")


def _unreached(where: str, why: object) -> SourceError:
    """The error for a failed connection."""
    if isinstance(why, ssl.SSLCertVerificationError):
        return SourceError(
            where,
            f"the server's certificate isn't trusted ({why.verify_message})",
            expected="a certificate signed by an authority that this machine trusts",
            remedy="set SSL_CERT_FILE in the environment to the camera's certificate",
            reason="certificate",
        )
    if isinstance(why, ssl.SSLError):
        return unreachable(where, f"no TLS ({error_name(why)})")
    if isinstance(why, TimeoutError):
        return unreachable(where, f"can't be reached within {ANSWER_TIMEOUT_S:g} s")
    return unreachable(where, connection_failure(why))


def _require_stream(response: HTTPResponse, where: str) -> str | None:
    """Checks that the content is a stream.

    Returns:
        The boundary of the parts; None if the header doesn't state it.
    """
    kind = response.headers.get_content_type() if response.headers.get("Content-Type") else ""
    # Some servers, such as FFmpeg's, send no content type.
    if kind.startswith("multipart/") or kind in ("", "application/octet-stream"):
        return response.headers.get_boundary()
    what = "a single picture" if kind.startswith("image/") else "a web page" if kind == "text/html" else kind
    raise SourceError(
        where,
        f"the server answers with {what}",
        expected="multipart/x-mixed-replace, an MJPEG stream",
        remedy=_WHERE_STREAMS_ARE,
        reason="format",
    )
