"""Plugs that meter what is drawn from the wall, asked over HTTP on the local network. They see the power supply's loss too.

The address stands in the profile; a password never does: it is taken from ``~/.netrc`` (or the file that ``NETRC`` names), by
the plug's host, and stands in no message.

References:
    Shelly, "Gen2+ device API": ``GET /rpc/Switch.GetStatus?id=0`` with ``apower`` in watts; ``/shelly`` tells the generation
    without a password; authentication is RFC 7616's digest with SHA-256 and the user ``admin``. "Gen1 device API":
    ``GET /status`` with ``meters[].power`` and ``is_valid``; basic authentication.
    Tasmota documentation, "Commands": ``GET /cm?cmnd=Status%208`` with ``StatusSNS.ENERGY.Power`` in watts (whole ones, unless
    ``WattRes`` says otherwise); ``user`` and ``password`` go into the query.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import netrc
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from device.clock import SystemClock
from device.contract import Board, Meter
from device.contract.profile import Scope
from device.errors import MeterError
from device.meters.slow import SlowMeter
from device.protocols import Clock

MAX_POWER_W = 10_000.0
"""More than a plug can carry: 16 A at 240 V is under 4 kW."""

MAX_ANSWER_BYTES = 65_536

MAX_DECIMALS = 3
"""Of watts: Tasmota's ``WattRes`` goes up to 3. More are what is left of a plug's own arithmetic."""


class Login(NamedTuple):
    """Who asks."""

    user: str
    password: str


class PlugMeter(SlowMeter):
    """Base: one question, one JSON answer.

    Args:
        config: the profile's: ``address`` is the plug's, ``channel`` its output.
        clock: stamps the samples.

    Raises:
        MeterError: ``address`` where the profile gives none, or a wrong one; ``missing`` where nothing answers, or it meters
            nothing; ``stalled`` where no whole answer came in time; ``permission`` for a password; ``malformed`` for an answer
            that is no power.
    """

    scope: Scope = "wall"
    is_estimate = False
    period_s = 1.0
    timeout_s = 2.0

    def __init__(self, config: Meter, clock: Clock) -> None:
        self._address = parse_address(config)
        self._host = urllib.parse.urlsplit(self._address).hostname or ""
        self._channel = config.channel or 0
        self.source = f"{config.kind} ({self._host})"
        self.resolution_w: float | None = None
        self._login = find_login(self._host)
        self._opener = _build_opener(self._address, self._login)
        super().__init__(clock)

    @classmethod
    def open(cls, config: Meter, board: Board, root: Path = Path("/"), clock: Clock | None = None) -> Self:  # noqa: ARG003
        """Opens the meter that a profile names."""
        return cls(config, clock or SystemClock())

    def _measure_w(self) -> float:
        answer = self._measure()
        # bool is an int to Python, and NaN and Infinity are numbers to its JSON reader.
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not 0 <= answer <= MAX_POWER_W:
            raise self._malformed(f"{str(answer)[:40]!r} as power")
        # The finest that it has shown: 3.0 may be 3.00.
        self.resolution_w = min(_find_step(answer), self.resolution_w or math.inf)
        return float(answer)

    @abstractmethod
    def _measure(self) -> object:
        """Asks for the power: what the answer has in its place, in watts."""

    def _malformed(self, found: str) -> MeterError:
        return MeterError(self._address, found, expected=f"0 to {MAX_POWER_W:g} W, in the kind's own JSON", reason="malformed")

    def _pick(self, answer: object, *path: str | int) -> object:
        """The value at a place in an answer."""
        value: Any = answer
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError) as error:
                place = ".".join(map(str, path))
                raise MeterError(
                    self._address,
                    f"its answer has no {place}",
                    expected="a plug that meters",
                    remedy="check kind and channel",
                    reason="missing",
                ) from error
        return value

    def _get(self, path: str, query: str = "") -> Any:
        deadline_s = time.monotonic() + self.timeout_s
        url = f"{self._address}{path}{f'?{query}' if query else ''}"
        try:
            with self._opener.open(url, timeout=self.timeout_s) as response:
                body = self._read_body(response, deadline_s)
            return json.loads(body)
        except urllib.error.HTTPError as error:
            with error:
                raise self._explain_status(error.code) from error
        except urllib.error.URLError as error:
            raise self._explain(error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from error
        except (ValueError, RecursionError) as error:
            raise self._malformed("an answer that is no JSON") from error

    def _read_body(self, response: http.client.HTTPResponse, deadline_s: float) -> bytes:
        body = b""
        # A piece at a time: the timeout is each piece's, and a plug that drips would never end.
        while piece := response.read1(4096):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise self._malformed(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline_s:
                raise TimeoutError
        return body

    def _explain(self, error: object) -> MeterError:
        if isinstance(error, TimeoutError):
            return MeterError(self._address, f"no whole answer within {self.timeout_s:g} s", reason="stalled")
        # An exception's own words may hold the URL, and with it a password.
        words = error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__
        return MeterError(
            self._address, words, expected="a plug that answers", remedy="check its address and the network", reason="missing"
        )

    def _explain_status(self, code: int) -> MeterError:
        if code in (401, 403):
            return self._refused()
        return MeterError(
            self._address, f"HTTP status {code}", expected="200", remedy="check kind and channel", reason="missing"
        )

    def _refused(self) -> MeterError:
        found = "refuses the password in netrc" if self._login else "asks for a password"
        remedy = f"~/.netrc: machine {self._host} login admin password ..."
        return MeterError(self._address, found, remedy=remedy, reason="permission")


class ShellyMeter(PlugMeter):
    """A Shelly, of the second generation and later, or of the first."""

    def __init__(self, config: Meter, clock: Clock) -> None:
        self._is_first_generation: bool | None = None
        super().__init__(config, clock)

    def _measure(self) -> object:
        if self._is_first_generation is None:
            self._is_first_generation = self._ask_generation() == 1
        if not self._is_first_generation:
            return self._pick(self._get("/rpc/Switch.GetStatus", f"id={self._channel}"), "apower")
        meter = self._pick(self._get("/status"), "meters", self._channel)
        if self._pick(meter, "is_valid") is not True:
            raise self._malformed("a power that the plug itself calls invalid")
        return self._pick(meter, "power")

    def _ask_generation(self) -> int:
        identity = self._get("/shelly")
        if isinstance(identity, dict) and type(identity.get("gen")) is int:
            return int(identity["gen"])
        if isinstance(identity, dict) and "type" in identity:
            return 1
        raise MeterError(self._address, "is no Shelly", expected="one that says its type", reason="missing")


class TasmotaMeter(PlugMeter):
    """A plug with the Tasmota firmware."""

    def _measure(self) -> object:
        words = {"cmnd": "Status 8"}
        if self._login:
            words |= {"user": self._login.user, "password": self._login.password}
        answer = self._get("/cm", urllib.parse.urlencode(words, quote_via=urllib.parse.quote))
        if isinstance(answer, dict) and "WARNING" in answer:
            raise self._refused()
        power = self._pick(answer, "StatusSNS", "ENERGY", "Power")
        return self._pick(power, self._channel) if isinstance(power, list) else power


def _find_step(answer: float) -> float:
    """The weight of the last digit that a plug wrote."""
    decimals = 0 if isinstance(answer, int) else len(f"{answer:.{MAX_DECIMALS}f}".partition(".")[2].rstrip("0")) or 1
    return 10.0**-decimals


def parse_address(config: Meter) -> str:
    """The plug's address, without a slash at its end.

    Raises:
        MeterError: ``address`` where it is none; one that holds a password isn't repeated.
    """
    where = f"power.meters {config.kind}"
    try:
        parts = urllib.parse.urlsplit(config.address if isinstance(config.address, str) else "")
        has_login, host, _ = "@" in parts.netloc, parts.hostname, parts.port
    except ValueError:
        parts, has_login, host = urllib.parse.urlsplit(""), False, None
    if has_login:
        remedy = "put it into ~/.netrc: machine HOST login admin password ..."
        raise MeterError(where, "a password in the address", expected="http://HOST", remedy=remedy, reason="address")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.path.strip("/"):
        found = "no address" if config.address is None else f"address {str(config.address)[:80]!r}"
        raise MeterError(where, found, expected="http://HOST or http://HOST:PORT", reason="address")
    return f"{parts.scheme}://{parts.netloc}"


def find_login(host: str, environ: dict[str, str] | None = None) -> Login | None:
    """Looks a host up in the user's netrc; None where it isn't there.

    Raises:
        MeterError: ``netrc`` where the file can't be used.
    """
    environment = os.environ if environ is None else environ
    path = Path(environment.get("NETRC") or Path(environment.get("HOME", "/"), ".netrc"))
    try:
        entry = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, netrc.NetrcParseError) as error:
        # Not its own words: they may repeat the line, and with it a password.
        found = error.strerror or "can't be read" if isinstance(error, OSError) else "can't be read"
        raise MeterError(str(path), found, expected="lines: machine HOST login USER password ...", reason="netrc") from error
    return None if entry is None else Login(entry[0], entry[2] or "")


class _Sha256DigestHandler(urllib.request.HTTPDigestAuthHandler):
    """Digest authentication as RFC 7616 has it; Python's own knows MD5 and SHA-1 only, until 3.14."""

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        """The hash, and the hash of a secret with data."""
        if algorithm != "SHA-256":
            return super().get_algorithm_impls(algorithm)

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        return digest, lambda secret, data: digest(f"{secret}:{data}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A plug sends no one elsewhere; and a password must not follow."""

    def redirect_request(self, *_: object) -> None:
        """Leaves the status as it is: an error."""


def _build_opener(address: str, login: Login | None) -> urllib.request.OpenerDirector:
    # An empty ProxyHandler: what is on the local network isn't behind the proxy that the environment may name.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
    if login:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, address, login.user, login.password)
        handlers += [_Sha256DigestHandler(passwords), urllib.request.HTTPBasicAuthHandler(passwords)]
    return urllib.request.build_opener(*handlers)
