"""Publishes the board's state to an MQTT broker, once an interval, and describes it to Home Assistant.

Below ``PREFIX/HOST-PROFILE-xxxx``: ``state`` is JSON, see `device.sinks.mqtt_state`; ``availability`` is ``online``, or
``offline``, which the broker itself publishes when the board falls silent. A broker that is away is tried again with growing
waits; states are not kept for it meanwhile.

References:
    MQTT 3.1.1 (OASIS Standard, 2014); the client is paho-mqtt.
    `device.sinks.home_assistant`: discovery.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from device.core.errors import SinkError, SinkReason, UsageError
from device.core.plugin import Needs, import_package
from device.net.address import Address, add_credentials, parse_address
from device.protocols import (
    Event,
    FrameDone,
    InterruptionRecord,
    IntervalRecord,
    Kinds,
    RunRecord,
    SinkContext,
    SourceIntervalRecord,
)
from device.sinks.base import SinkPlugin
from device.sinks.home_assistant import STATUS_TOPIC, BoardIdentity, Topics, describe, identify
from device.sinks.mqtt_state import MqttState, Shown

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

DEFAULT_PREFIX = "ghostwatt"

KEEPALIVE_S = 30
"""Between signs of life. The broker takes a board for gone after one and a half of it (MQTT 3.1.1, 3.1.2.10)."""

RETRY_MAX_S = 60
"""Waits between attempts double from a second to this."""

FIRST_STATE_S = 5.0
"""The first state comes after this: by then slow meters have given a figure, and no entity is removed only to return."""

LIFETIME_INTERVALS = 3
"""A figure that is older than this many intervals is no longer shown."""

GOODBYE_S = 3.0
"""The longest wait for the broker to acknowledge ``offline``."""

# Of messages that wait for an acknowledgement: one availability and one discovery is usual.
_MAX_WAITING = 16


class MqttOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile may give it."""

    uri: Annotated[str, Meta(description="mqtt[s]://HOST[:PORT][/PREFIX]; user and password belong in the netrc file")]
    interval_s: Annotated[float, Meta(gt=0.0, description="time between two states")] = 60.0
    labels: Annotated[bool, Meta(description="publish what the camera sees, too")] = False


class Broker(NamedTuple):
    """Where to send, and below which topic."""

    address: Address
    prefix: str


def parse_broker(uri: str) -> Broker:
    """Reads ``mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX]``.

    Raises:
        UsageError: ``malformed_uri``; shows nothing of the URI where that may be a secret.
    """
    scheme, _, rest = uri.partition(":")
    scheme = scheme.lower()
    if scheme == "mqtt":
        address = parse_address("mqtt", rest)
    elif scheme == "mqtts":
        address = parse_address("mqtts", rest)
    else:
        raise _malformed("names no broker")
    if address.query or address.fragment:
        raise _malformed("? and # have no meaning here")
    try:
        address.host.encode("idna")
    except UnicodeError:
        raise _malformed("no host that can be looked up") from None
    prefix = unquote(address.path).strip("/") or DEFAULT_PREFIX
    # MQTT 3.1.1, 4.7: what no topic may hold, and $ for the broker's own.
    if prefix.startswith("$") or "//" in prefix or set(prefix) & set("+#\0") or len(prefix) > 200:
        raise _malformed("the path is no topic")
    return Broker(address, prefix)


def _malformed(found: str) -> UsageError:
    expected = "mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX], or mqtts:"
    return UsageError("--mqtt", found, expected=expected, reason="malformed_uri")


class MqttSink(SinkPlugin):
    """Publishes the state to an MQTT broker, and describes it to Home Assistant.

    Connects when the run begins, and again by itself whenever the connection is lost.

    Args:
        uri: see `parse_broker`; without a user, the netrc file is consulted.
        interval_s: between two states, which `flush` sends.
        labels: publishes what the camera sees, too.
        environ: names the netrc file.
        root: of the file system that names this board.

    Raises:
        UsageError: the URI.
        SinkError: ``missing``, ``malformed`` of the netrc file; ``certificate`` where this machine trusts nobody.
    """

    Options: ClassVar[type[msgspec.Struct]] = MqttOptions
    needs: ClassVar[Needs] = Needs(extra="mqtt", is_networked=True)
    takes: Kinds = (RunRecord, IntervalRecord, SourceIntervalRecord, InterruptionRecord)

    @classmethod
    def open(cls, options: MqttOptions, _context: SinkContext) -> Self:
        """Reads the URI; connects when the run begins."""
        return cls(options.uri, interval_s=options.interval_s, labels=options.labels)

    def __init__(
        self,
        uri: str,
        *,
        interval_s: float,
        labels: bool = False,
        environ: Mapping[str, str] = os.environ,
        root: Path = Path("/"),
    ) -> None:
        import_package("paho.mqtt.client", self.needs, "sink mqtt")
        broker = parse_broker(uri)
        if labels:
            self.takes = (*self.takes, FrameDone)
        self._broker = broker._replace(address=add_credentials(broker.address, environ, SinkError))
        self._tls = _make_tls(broker.address) if broker.address.scheme == "mqtts" else None
        self.flush_interval_s = interval_s
        self._root = root
        self._state = MqttState()
        self._link: _Link | None = None
        self._last: dict[str, Any] | None = None

    def write(self, event: Event) -> None:
        """Adds an event to the next state; publishes at once what can't wait."""
        if isinstance(event, RunRecord):
            self._connect(event)
            return
        is_urgent = self._state.add(event)
        if self._last is None and self._state.span_s >= min(FIRST_STATE_S, self.flush_interval_s):
            self._renew()
        if self._last is not None and is_urgent:
            self._last |= self._state.camera_problem()
            self._send()
        elif self._link is not None and self._link.is_asked:
            self._send()

    def flush(self) -> None:
        """Publishes the state.

        Raises:
            SinkError: ``unreachable``, ``unauthorised`` where there is no connection.
        """
        self._renew()
        self._send()
        if self._link is not None and self._link.failure is not None:
            raise self._link.failure

    def close(self) -> None:
        """Publishes ``offline`` and disconnects."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _connect(self, run: RunRecord) -> None:
        self.close()
        identity = identify(run.profile, root=self._root)
        lifetime_s = LIFETIME_INTERVALS * self.flush_interval_s
        self._link = _Link(self._broker, self._tls, run, identity, lifetime_s)

    def _renew(self) -> None:
        state = self._state.take()
        if state is not None:
            self._last = state

    def _send(self) -> None:
        if self._link is not None and self._last is not None:
            self._link.send(self._last, self._state.shown)


class _Link:
    """The connection to the broker, for one run. Its callbacks come from paho's thread, the rest from the sink's."""

    def __init__(
        self, broker: Broker, tls: ssl.SSLContext | None, run: RunRecord, identity: BoardIdentity, lifetime_s: float
    ) -> None:
        self.failure: SinkError | None = None
        self.is_asked = False
        self._address = broker.address
        self._run = run
        self._identity = identity
        self._lifetime_s = lifetime_s
        self._topics = Topics.under(broker.prefix, identity)
        self._announced: Shown | None = None
        self._is_connected = False
        self._is_closing = False
        self._gone = threading.Event()
        self._client = self._make_client(broker.address, tls)
        self._client.connect_async(broker.address.host, broker.address.port, KEEPALIVE_S)
        self._client.loop_start()

    def _make_client(self, address: Address, tls: ssl.SSLContext | None) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, client_id=self._identity.client)
        client.will_set(self._topics.availability, "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, RETRY_MAX_S)
        client.max_queued_messages_set(_MAX_WAITING)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def send(self, state: Mapping[str, Any], shown: Shown) -> None:
        """Publishes a state, after the discovery message where that has changed; drops it where there is no connection."""
        if not self._is_connected:
            return
        self.is_asked = False
        if self._announced != shown:
            message = describe(self._run, self._identity, self._topics, shown, expire_after_s=self._lifetime_s)
            self._client.publish(self._identity.discovery_topic, msgspec.json.encode(message), qos=1, retain=True)
            self._announced = shown
        self._client.publish(self._topics.state, msgspec.json.encode(state))

    def close(self) -> None:
        """Publishes ``offline``, if there is a connection, and disconnects."""
        self._is_closing = True
        if self._is_connected:
            goodbye = self._client.publish(self._topics.availability, "offline", qos=1, retain=True)
            # Raised where the broker went first.
            with contextlib.suppress(RuntimeError, ValueError):
                goodbye.wait_for_publish(GOODBYE_S)
        # Not joined: paho's thread may hang in a name server.
        self._client.disconnect()
        if self._is_connected:
            self._gone.wait(GOODBYE_S)

    # --- from paho's thread ---

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.failure = self._refused(str(reason))
            return
        if self._is_closing:
            client.disconnect()
            return
        client.publish(self._topics.availability, "online", qos=1, retain=True)
        client.subscribe(STATUS_TOPIC, qos=1)
        self._announced = None
        self._gone.clear()
        self._is_connected = True
        self.is_asked = True
        self.failure = None

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        # paho calls this while it handles the exception, and passes nothing.
        error = sys.exc_info()[1]
        self.failure = self._unreachable(error)

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if self._is_connected and not self._is_closing:
            self.failure = self._failed(f"lost the connection ({reason})", reason="unreachable")
        self._is_connected = False
        self._gone.set()

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        # A retained one is from before: on connecting everything is sent anyway.
        if message.topic == STATUS_TOPIC and message.payload == b"online" and not message.retain:
            self._announced = None
            self.is_asked = True

    # --- errors ---

    def _unreachable(self, error: BaseException | None) -> SinkError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._failed(
                f"has a certificate that can't be trusted ({error.verify_message})",
                remedy="SSL_CERT_FILE names the file of an authority of your own",
                reason="certificate",
            )
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return self._failed(f"can't be reached ({why})", reason="unreachable")

    def _refused(self, why: str) -> SinkError:
        has_user = self._address.user is not None
        return self._failed(
            f"refuses this {'user or password' if has_user else 'board, which names no user'} ({why})",
            remedy="" if has_user else f"~/.netrc: machine {self._address.host} login USER password PASSWORD",
            reason="unauthorised",
        )

    def _failed(self, found: str, *, reason: SinkReason, remedy: str = "") -> SinkError:
        return SinkError(f"--mqtt {self._address.safe}", found, remedy=remedy, reason=reason)


def _make_tls(address: Address) -> ssl.SSLContext:
    try:
        return ssl.create_default_context()
    except OSError as error:
        raise SinkError(
            f"--mqtt {address.safe}",
            f"can't read the authorities that this machine trusts ({error})",
            remedy="SSL_CERT_FILE names their file",
            reason="certificate",
        ) from error
