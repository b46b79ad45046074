"""A metering plug on loopback: a Shelly of either generation or a Tasmota, which can stall, lie and talk junk."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from device.core.resources import Resource

REALM = "shellyplus1pm-441793a1b2c3"
NONCE = "1721904000"


class FakePlug(Resource):
    """One plug.

    Args:
        kind: ``shelly``, ``shelly_gen1`` or ``tasmota``.
        password: None where it asks for none.
        algorithm: of the digest that it wants: ``SHA-256`` or ``MD5``, in letters of any size.
    """

    def __init__(self, kind: str, password: str | None = None, algorithm: str = "SHA-256") -> None:
        self.kind = kind
        self.password = password
        self.challenge = f'Digest qop="auth", realm="{REALM}", nonce="{NONCE}", algorithm={algorithm}'
        self._digest = {"SHA-256": _sha256, "MD5": _md5}[algorithm.upper()]
        self.power: Any = 3.0
        self.answer: bytes | None = None
        """Sent instead of what the plug would say."""
        self.status = 200
        self.location: str | None = None
        """Where it sends who asks it."""
        self.drip_s: float | None = None
        """Sends a byte, and then another, so many seconds apart."""
        self.is_stalled = False
        self.questions: list[str] = []
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def say(self, path: str, query: dict[str, list[str]]) -> object:
        """What the plug says to a question; None where it knows no such place."""
        if self.kind == "tasmota":
            return self._say_tasmota(path, query)
        if self.kind == "shelly_gen1":
            return self._say_first_generation(path)
        if path == "/shelly":
            return {"id": REALM, "gen": 2, "app": "Plus1PM", "auth_en": self.password is not None}
        if path == "/rpc/Switch.GetStatus" and query.get("id") == ["0"]:
            return {
                "id": 0,
                "source": "init",
                "output": True,
                "apower": self.power,
                "voltage": 231.4,
                "aenergy": {"total": 12.1},
            }
        return None

    def _say_first_generation(self, path: str) -> object:
        if path == "/shelly":
            return {"type": "SHPLG-S", "mac": "E868E7A1B2C3", "auth": False, "fw": "20190516-073020/master@ea1b23db"}
        if path == "/status":
            return {"meters": [{"power": self.power, "is_valid": True, "timestamp": 1680779310, "total": 439237}]}
        return None

    def _say_tasmota(self, path: str, query: dict[str, list[str]]) -> object:
        if path != "/cm":
            return None
        if self.password is not None and query.get("password") != [self.password]:
            return {"WARNING": "Need user=<username>&password=<password>"}
        if query.get("cmnd") != ["Status 8"]:
            return {"Command": "Unknown"}
        energy = {
            "TotalStartTime": "2026-01-01T00:00:00",
            "Total": 1.234,
            "Power": self.power,
            "ApparentPower": 9,
            "Voltage": 231,
        }
        return {"StatusSNS": {"Time": "2026-11-24T12:00:00", "ENERGY": energy}}

    def may_answer(self, path: str, authorization: str) -> bool:
        """Whether the digest is right, where one is needed (RFC 7616, 3.4.1)."""
        if self.password is None or self.kind != "shelly" or path == "/shelly":
            return True
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', authorization))
        if given.get("nonce") != NONCE or given.get("username") != "admin":
            return False
        secret = self._digest(f"admin:{REALM}:{self.password}")
        data = self._digest(f"GET:{given['uri']}")
        expected = self._digest(f"{secret}:{NONCE}:{given['nc']}:{given['cnonce']}:auth:{data}")
        return given.get("response") == expected


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _make_handler(plug: FakePlug) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            plug.questions.append(self.path)
            if plug.is_stalled:
                plug.release.wait(30.0)
                return
            url = urllib.parse.urlsplit(self.path)
            if not plug.may_answer(url.path, self.headers.get("Authorization", "")):
                self.send_response(401)
                self.send_header("WWW-Authenticate", plug.challenge)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            said = plug.say(url.path, urllib.parse.parse_qs(url.query))
            body = json.dumps(said).encode() if plug.answer is None else plug.answer
            self.send_response(404 if said is None else plug.status)
            if plug.location is not None:
                self.send_header("Location", plug.location + self.path)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self._send(body)

        def _send(self, body: bytes) -> None:
            if plug.drip_s is None:
                self.wfile.write(body)
                return
            for byte in body:
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return
                if plug.release.wait(plug.drip_s):
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    return Handler
