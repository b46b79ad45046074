"""An MJPEG camera: a server on loopback that does whatever a camera may do."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STREAM = "multipart/x-mixed-replace; boundary=frame"


def part(body: bytes, kind: str = "image/jpeg") -> bytes:
    """One part of the stream."""
    head = f"--frame\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n"


class Camera(ThreadingHTTPServer):
    """Answers each request with ``answer``, which may take as long as it likes.

    Args:
        certificate: for TLS, with its key beside it; None for plain HTTP.
    """

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        self.answer: Callable[[Any], None] = lambda request: request.send_stream([])
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.release = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                camera.requests.append((self.path, dict(self.headers.items())))
                self.close_connection = True
                camera.answer(self)

            def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def send_stream(self, parts: list[bytes], kind: str = STREAM) -> None:
                self.send(200, {"Content-Type": kind}, b"".join(parts))

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def uri(self, path: str = "/video", login: str = "", scheme: str = "") -> str:
        """Where it is.

        Args:
            path: of the stream.
            login: ``USER:PASSWORD@``.
            scheme: instead of its own.
        """
        return f"{scheme or self.scheme}://{login}127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error here."""


@contextmanager
def running(certificate: Path | None = None) -> Iterator[Camera]:
    """A camera that is there until the block ends."""
    server = Camera(certificate)
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
