"""Plugs that measure what is drawn from the wall, asked over HTTP on the local network. The power supply's loss is included.

The address stands in the profile; a password never does: it is taken from the netrc file, see `device.net.address`, by the
plug's host, and appears in no message.

References:
    Shelly, "Gen2+ device API": ``GET /rpc/Switch.GetStatus?id=0`` with ``apower`` in watts; ``/shelly`` tells the generation
    without a password; authentication is RFC 7616's digest with SHA-256 and the user ``admin``. "Gen1 device API":
    ``GET /status`` with ``meters[].power`` and ``is_valid``; basic authentication.
    Tasmota documentation, "Commands": ``GET /cm?cmnd=Status%208`` with ``StatusSNS.ENERGY.Power`` in watts (whole ones, unless
    ``WattRes`` says otherwise); ``user`` and ``password`` go into the query.
"""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.parse
from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from device.core.errors import MeterError, UsageError
from device.core.plugin import Needs
from device.meters.meter import MeterContext, MeterOptions
from device.meters.slow import SlowMeter
from device.net.address import Address, add_credentials, parse_address
from device.net.failures import connection_failure
from device.net.http import make_opener
from device.protocols import PowerOrigin

MAX_POWER_W = 10_000.0
"""More than a plug can carry: 16 A at 240 V is under 4 kW."""

MAX_ANSWER_BYTES = 65_536

MAX_DECIMALS = 3
"""Of watts: Tasmota's ``WattRes`` goes up to 3. More come from rounding in a plug's own arithmetic."""


class PlugOptions(MeterOptions, frozen=True, kw_only=True):
    """What a profile says about a plug."""

    address: Annotated[str, Meta(min_length=1, max_length=256, description="the plug's http://HOST, without credentials")]
    channel: Annotated[int, Meta(ge=0, le=15, description="which of the plug's outputs, from 0")] = 0


class PlugMeter(SlowMeter):
    """Base: one question, one JSON answer.

    Args:
        options: which plug.
        context: see `MeterContext`.

    Raises:
        MeterError: ``address`` where the profile gives a wrong one; ``missing`` where nothing answers, or it meters
            nothing; ``stalled`` where no whole answer came in time; ``permission`` for a password, ``unauthorised`` where it is
            asked for in a way that isn't supported; ``malformed`` for an answer that is no power; ``missing`` or
            ``malformed`` of the netrc file.
    """

    Options = PlugOptions
    needs = Needs(is_networked=True)
    kind: ClassVar[str]
    period_s = 1.0
    timeout_s = 2.0

    def __init__(self, options: PlugOptions, context: MeterContext) -> None:
        self._address = add_credentials(read_address(options.address, self.kind), error=MeterError)
        self._where = self._address.safe
        self._channel = options.channel
        self.origin = PowerOrigin(source=f"{self.kind} ({self._address.host})", scope="wall", is_estimate=False)
        # Without redirections: a plug needs none.
        self._opener = make_opener(self._address, error=MeterError)
        super().__init__(context.clock)

    def _measure_w(self) -> float:
        answer = self._measure()
        # bool is an int to Python, and NaN and Infinity are numbers to its JSON reader.
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not 0 <= answer <= MAX_POWER_W:
            raise self._malformed(f"{str(answer)[:40]!r} as power")
        # The finest step that it has shown so far: 3.0 may be 3.00.
        self.resolution_w = min(_find_step(answer), self.resolution_w or math.inf)
        return float(answer)

    @abstractmethod
    def _measure(self) -> object:
        """Asks for the power: what the answer has in its place, in watts."""

    def _malformed(self, found: str) -> MeterError:
        return MeterError(self._where, found, expected=f"0 to {MAX_POWER_W:g} W, in the kind's own JSON", reason="malformed")

    def _pick(self, answer: object, *path: str | int) -> object:
        """The value at a place in an answer."""
        value: Any = answer
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError) as error:
                place = ".".join(map(str, path))
                raise MeterError(
                    self._where,
                    f"its answer has no {place}",
                    expected="a plug that meters",
                    remedy="check kind and channel",
                    reason="missing",
                ) from error
        return value

    def _get(self, path: str, query: str = "") -> Any:
        deadline_s = time.monotonic() + self.timeout_s
        address = replace(self._address, path=path, query=query)
        try:
            with self._opener.open(address.url(), timeout=self.timeout_s) as response:
                body = self._read_body(response, deadline_s)
            return json.loads(body)
        # No error is chained: the text of those below may hold the URL, and with it a password.
        except urllib.error.HTTPError as error:
            error.close()
            raise self._explain_status(error.code) from None
        except urllib.error.URLError as error:
            raise self._explain(error.reason) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from None
        except (ValueError, RecursionError) as error:
            raise self._malformed("an answer that is no JSON") from error

    def _read_body(self, response: http.client.HTTPResponse, deadline_s: float) -> bytes:
        body = b""
        # In pieces: the timeout holds for each of them, and a plug that sends byte by byte would never end.
        while piece := response.read1(4096):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise self._malformed(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline_s:
                raise TimeoutError
        return body

    def _explain(self, error: object) -> MeterError:
        if isinstance(error, TimeoutError):
            return MeterError(self._where, f"no whole answer within {self.timeout_s:g} s", reason="stalled")
        return MeterError(
            self._where,
            connection_failure(error),
            expected="a plug that answers",
            remedy="check its address and the network",
            reason="missing",
        )

    def _explain_status(self, code: int) -> MeterError:
        if code in (401, 403):
            return self._refused()
        return MeterError(self._where, f"HTTP status {code}", expected="200", remedy="check kind and channel", reason="missing")

    def _refused(self) -> MeterError:
        found = "asks for a password" if self._address.user is None else "refuses the password in netrc"
        remedy = f"~/.netrc: machine {self._address.host} login admin password ..."
        return MeterError(self._where, found, remedy=remedy, reason="permission")


class ShellyMeter(PlugMeter):
    """A Shelly, of the second generation and later, or of the first."""

    kind = "shelly"

    def __init__(self, options: PlugOptions, context: MeterContext) -> None:
        self._is_first_generation: bool | None = None
        super().__init__(options, context)

    def _measure(self) -> object:
        if self._is_first_generation is None:
            self._is_first_generation = self._ask_generation() == 1
        if not self._is_first_generation:
            return self._pick(self._get("/rpc/Switch.GetStatus", f"id={self._channel}"), "apower")
        meter = self._pick(self._get("/status"), "meters", self._channel)
        if self._pick(meter, "is_valid") is not True:
            raise self._malformed("a power that the plug itself marks as invalid")
        return self._pick(meter, "power")

    def _ask_generation(self) -> int:
        identity = self._get("/shelly")
        if isinstance(identity, dict) and type(identity.get("gen")) is int:
            return int(identity["gen"])
        if isinstance(identity, dict) and "type" in identity:
            return 1
        raise MeterError(self._where, "is no Shelly", expected="one that says its type", reason="missing")


class TasmotaMeter(PlugMeter):
    """A plug with the Tasmota firmware."""

    kind = "tasmota"

    def _measure(self) -> object:
        words = {"cmnd": "Status 8"}
        if self._address.user is not None:
            words |= {"user": self._address.user, "password": self._address.password or ""}
        answer = self._get("/cm", urllib.parse.urlencode(words, quote_via=urllib.parse.quote))
        if isinstance(answer, dict) and "WARNING" in answer:
            raise self._refused()
        power = self._pick(answer, "StatusSNS", "ENERGY", "Power")
        return self._pick(power, self._channel) if isinstance(power, list) else power


def _find_step(answer: float) -> float:
    """The weight of the last digit that a plug wrote."""
    decimals = 0 if isinstance(answer, int) else len(f"{answer:.{MAX_DECIMALS}f}".partition(".")[2].rstrip("0")) or 1
    return 10.0**-decimals


def read_address(text: str, kind: str) -> Address:
    """The plug's address: a host and a port.

    Raises:
        MeterError: ``address`` where it is none; one that holds a password isn't repeated.
    """
    where = f"power.meters {kind}"
    if "@" in text:
        remedy = "put it into ~/.netrc: machine HOST login admin password ..."
        raise MeterError(where, "a password in the address", expected="http://HOST", remedy=remedy, reason="address")
    address = _parse_http(text)
    if address is None or address.path.strip("/") or address.query or address.fragment:
        raise MeterError(where, f"address {text[:80]!r}", expected="http://HOST or http://HOST:PORT", reason="address")
    return replace(address, path="")


def _parse_http(text: str) -> Address | None:
    scheme, _, rest = text.partition(":")
    try:
        match scheme.lower():
            case "http" | "https" as known:
                return parse_address(known, rest)
    except UsageError:
        # Its message is about a camera on the command line.
        return None
    return None
