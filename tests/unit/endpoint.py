"""An HTTP server on loopback that takes events."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USER, PASSWORD = "gate", "s3cret:word"


class Endpoint:
    """A server that notes what is posted, and answers as it is told.

    Attributes:
        answers: statuses of the next requests; 200 once they are used up.
        delay_s: before each answer.
    """

    def __init__(self, port: int = 0, certificate: Path | None = None, *, login: bool = False) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        self.delay_s = 0.0
        self._login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() if login else None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        time.sleep(self.delay_s)
        if self._login is not None and request.headers.get("Authorization") != self._login:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="hook"')
        else:
            status = self.answers.pop(0) if self.answers else 200
            self.headers.append(dict(request.headers))
            if status < 300:
                self.bodies.append(json.loads(body))
            request.send_response(status)
            if 300 <= status < 400:
                request.send_header("Location", f"http://127.0.0.1:{self.port}/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
