"""Posts events as JSON to a URL, one object a request.

Every event but a frame's is posted (not `FrameDone`, `FrameDamaged`, `Tick`), in order::

    POST /hook HTTP/1.1
    Content-Type: application/json

    {
      "event": "interruption",
      "id": "0f3c…-17",
      "run_id": "0f3c…",
      "profile": "rpi4",
      "time_s": 1767322985.25,
      "data": {"source": "v4l2:0", "reason": "stalled", "detail": "no frame within 5 s", "started_ns": 81250000000, …}
    }

``event``
    ``run_started``, ``interval``, ``source_interval``, ``interruption``, ``meter``, ``note``, ``trouble``, ``run_stopping``,
    ``run_ended``.
``id``
    The run's id and a number that counts the events of the run from 0. The same in every attempt, so that a receiver can drop
    what it already has; a number that is missing is an event that was lost.
``time_s``
    When it was emitted: seconds since 1970, by the board's wall clock.
``data``
    The fields of the record, see `device.protocols.events`; of ``run_ended``, the ``summary`` that ``--json`` prints.

Any 2xx status is success. Where there is no connection, or the status is 408, 429 or 5xx, the request is made again after a
wait that doubles each time, give or take a half; after the last attempt the event is lost. Any other status loses the event at
once; redirections are not followed. While the endpoint is away, events wait in a bounded queue, and the newest are lost when it
is full. User and password come from the netrc file.

References:
    RFC 9110 (2022), section 15: status codes.
"""

from __future__ import annotations

import http.client
import itertools
import os
import random
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, NamedTuple, Self

import msgspec
from msgspec import Meta

from device.core.errors import SinkError, SinkReason, UsageError
from device.core.plugin import Needs
from device.net.address import Address, add_credentials, parse_address
from device.net.failures import connection_failure
from device.net.http import make_opener
from device.protocols import (
    Clock,
    Event,
    InterruptionRecord,
    IntervalRecord,
    Kinds,
    MeterRecord,
    Note,
    RunEnded,
    RunRecord,
    RunStopping,
    SinkContext,
    SourceIntervalRecord,
    Trouble,
)
from device.sinks.base import SinkPlugin

NAMES: dict[type, str] = {
    RunRecord: "run_started",
    IntervalRecord: "interval",
    SourceIntervalRecord: "source_interval",
    InterruptionRecord: "interruption",
    MeterRecord: "meter",
    Note: "note",
    Trouble: "trouble",
    RunStopping: "run_stopping",
    RunEnded: "run_ended",
}
"""Event -> what it is called in the JSON."""

LONGEST_WAIT_S = 60.0

_WORTH_A_RETRY = (408, 429)
"""Beside 5xx: Request Timeout, Too Many Requests."""


class WebhookOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile may give it."""

    url: Annotated[str, Meta(description="http[s]://HOST[:PORT]/PATH; user and password belong in the netrc file")]
    timeout_s: Annotated[float, Meta(gt=0.0, le=300.0, description="the longest wait for the server, at each step")] = 10.0
    retries: Annotated[int, Meta(ge=0, le=20, description="attempts after the first, before an event is lost")] = 5
    backoff_s: Annotated[float, Meta(gt=0.0, le=60.0, description="the first wait between two attempts")] = 1.0
    queue: Annotated[int, Meta(ge=1, le=100_000, description="events that may wait while the server is away")] = 1024
    ca_file: Annotated[str, Meta(description="certificates to trust instead of this machine's, in PEM")] = ""


class Message(NamedTuple):
    """An event with what is known where it is emitted."""

    event: Event
    number: int
    time_s: float


class WebhookSink(SinkPlugin):
    """Posts every event but a frame's as JSON to a URL.

    Args:
        options: see `WebhookOptions`.
        profile: name of the profile that runs.
        clock: gives the time of events.
        report: takes one line.
        environ: names the netrc file.

    Raises:
        UsageError: ``malformed_uri``: the URL.
        SinkError: ``certificate`` where certificates can't be read; ``missing``, ``malformed`` of the netrc file.
    """

    Options: ClassVar[type[msgspec.Struct]] = WebhookOptions
    needs: ClassVar[Needs] = Needs(is_networked=True)
    takes: Kinds = tuple(NAMES)

    @classmethod
    def open(cls, options: WebhookOptions, context: SinkContext) -> Self:
        """Reads the URL and the certificates; connects with the first event."""
        return cls(options, profile=context.profile.name, clock=context.clock, report=context.report)

    def __init__(
        self,
        options: WebhookOptions,
        *,
        profile: str,
        clock: Clock,
        report: Callable[[str], None],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._report = report
        self.queue_capacity = options.queue
        self._options = options
        self._profile = profile
        self._clock = clock
        self._address = add_credentials(parse_url(options.url), environ, SinkError)
        tls = _make_tls(self._address, options.ca_file) if self._address.scheme == "https" else None
        self._opener = make_opener(self._address, error=SinkError, tls_context=tls)
        self._run_id: str | None = None
        self._numbers = itertools.count()
        self._is_ending = threading.Event()
        self._is_given_up = False
        self._failure: SinkError | None = None
        self._lost = 0

    def prepare(self, event: Event) -> Message:
        """Notes when the event was emitted, and its number."""
        return Message(event, next(self._numbers), self._clock.wall_time_s())

    def write(self, message: Message) -> None:
        """Posts one event.

        Raises:
            SinkError: ``unreachable``, ``certificate``, ``unauthorised``, ``refused``: the event is lost.
        """
        if isinstance(message.event, RunRecord):
            self._run_id = message.event.run_id
        if self._is_given_up:
            self._lost += 1
            return
        try:
            self._post_until_taken(self._encode(message))
        except SinkError as error:
            self._lost += 1
            self._failure = error
            raise
        self._failure = None

    def flush(self) -> None:
        """Says whether the endpoint takes events.

        Raises:
            SinkError: the latest event was lost.
        """
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Reports how many events were lost."""
        lost, self._lost = self._lost, 0
        if lost:
            self._report(f"webhook {self._address.safe}: events that could not be delivered: {lost}")

    def hurry(self) -> None:
        """Ends the waits: what is queued gets one attempt, and nothing more once that fails."""
        self._is_ending.set()

    def _encode(self, message: Message) -> bytes:
        return msgspec.json.encode(
            {
                "event": NAMES[type(message.event)],
                "id": f"{self._run_id or self._profile}-{message.number}",
                "run_id": self._run_id,
                "profile": self._profile,
                "time_s": round(message.time_s, 3),
                "data": message.event,
            }
        )

    def _post_until_taken(self, body: bytes) -> None:
        for attempt in itertools.count():
            try:
                self._post(body)
                break
            except _Passing as error:
                self._is_given_up = self._is_ending.is_set()
                if self._is_given_up or attempt == self._options.retries:
                    raise error.as_sink_error() from None
            self._is_ending.wait(self._wait_s(attempt))

    def _wait_s(self, attempt: int) -> float:
        longest_s: float = min(LONGEST_WAIT_S, self._options.backoff_s * 2**attempt)
        return longest_s * random.uniform(0.5, 1.5)

    def _post(self, body: bytes) -> None:
        request = urllib.request.Request(  # noqa: S310  # parse_url takes http and https alone
            self._address.url(), data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._options.timeout_s):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(getattr(error, "reason", error)) from None

    def _refused(self, status: int) -> Exception:
        if status in _WORTH_A_RETRY or status >= 500:
            return _Passing(self._failed(f"answers with status {status}", reason="refused"))
        if status in (401, 403):
            has_user = self._address.user is not None
            found = f"refuses this {'user or password' if has_user else 'board, which names no user'} (status {status})"
            remedy = f"~/.netrc: machine {self._address.host} login USER password PASSWORD"
            return self._failed(found, remedy=remedy, reason="unauthorised")
        if 300 <= status < 400:
            remedy = "name the address that it redirects to: redirections are not followed"
            return self._failed(f"redirects (status {status})", remedy=remedy, reason="refused")
        return self._failed(f"refuses the event (status {status})", reason="refused")

    def _unreachable(self, error: object) -> Exception:
        if isinstance(error, ssl.SSLCertVerificationError):
            found = f"has a certificate that can't be trusted ({error.verify_message})"
            remedy = "ca_file in the profile, or SSL_CERT_FILE, names the file of an authority of your own"
            return self._failed(found, remedy=remedy, reason="certificate")
        return _Passing(self._failed(connection_failure(error), reason="unreachable"))

    def _failed(self, found: str, *, reason: SinkReason, remedy: str = "") -> SinkError:
        return SinkError(f"webhook {self._address.safe}", found, remedy=remedy, reason=reason)


class _Passing(Exception):  # noqa: N818  # never leaves this module
    """A failure that another attempt may overcome."""

    def __init__(self, error: SinkError) -> None:
        super().__init__(str(error))
        self._error = error

    def as_sink_error(self) -> SinkError:
        return self._error


def parse_url(url: str) -> Address:
    """Reads ``http[s]://[USER:PASSWORD@]HOST[:PORT]/PATH[?QUERY]``.

    Raises:
        UsageError: ``malformed_uri``; shows nothing of the URL where that may be a secret.
    """
    scheme, _, rest = url.partition(":")
    try:
        if scheme.lower() == "http":
            return parse_address("http", rest)
        if scheme.lower() == "https":
            return parse_address("https", rest)
    except UsageError as error:
        raise UsageError("--webhook", error.found, expected=error.expected, remedy=error.remedy, reason=error.reason) from None
    raise UsageError("--webhook", "names no server", expected="http[s]://HOST[:PORT]/PATH", reason="malformed_uri")


def _make_tls(address: Address, ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise SinkError(
            f"webhook {address.safe}",
            f"can't read the certificates to trust ({error.strerror or error})",
            remedy="ca_file or SSL_CERT_FILE names their file" if not ca_file else f"look at {ca_file}",
            reason="certificate",
        ) from error
