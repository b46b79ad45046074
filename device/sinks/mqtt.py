"""Tells an MQTT broker how the board does, once an interval, and Home Assistant what to make of it.

Below ``PREFIX/HOST-PROFILE-xxxx``: ``state`` is JSON, see `device.sinks.mqtt_state`; ``availability`` is ``online``, or
``offline``, which the broker itself says where the board falls silent. A broker that is away is tried again with growing waits;
what would have been sent meanwhile isn't kept: the next state says how things are then.

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
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device.core.errors import SinkError, SinkReason, UsageError
from device.core.resources import Resource
from device.net.address import Address, add_credentials, parse_address
from device.protocols import Record, RunRecord
from device.sinks.home_assistant import STATUS_TOPIC, Identity, Topics, describe, identify
from device.sinks.mqtt_state import MqttState, Shown

DEFAULT_PREFIX = "ghostwatt"

KEEPALIVE_S = 30
"""Between signs of life. The broker calls a board away after one and a half of it (MQTT 3.1.1, 3.1.2.10)."""

RETRY_MAX_S = 60
"""Waits between attempts double from a second to this."""

FIRST_STATE_S = 5.0
"""The first state comes after this: by then slow meters have spoken, so that no entity is taken away to come back at once."""

LIFETIME_INTERVALS = 3
"""A figure that is older than this many intervals is no longer shown."""

GOODBYE_S = 3.0
"""For the broker to acknowledge that we go."""

# Of messages that wait for an acknowledgement: one availability and one discovery is usual.
_MAX_WAITING = 16


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


class MqttSink(Resource):
    """Speaks to one broker. Connects when it is told what runs, and from then on by itself.

    `flush` sends: its caller's interval is the state's.

    Args:
        uri: see `parse_broker`; without a user, the netrc file is asked.
        interval_s: between flushes.
        environ: names the netrc file.
        root: of the file system that names this board.

    Raises:
        UsageError: the URI.
        SinkError: ``missing``, ``malformed`` of the netrc file; ``certificate`` where this machine trusts nobody.
    """

    def __init__(self, uri: str, *, interval_s: float, environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> None:
        broker = parse_broker(uri)
        self._broker = broker._replace(address=add_credentials(broker.address, environ, SinkError))
        self._tls = _make_tls(broker.address) if broker.address.scheme == "mqtts" else None
        self._interval_s = interval_s
        self._root = root
        self._state = MqttState()
        self._link: _Link | None = None
        self._last: dict[str, Any] | None = None

    def write(self, record: Record) -> None:
        """Sums a record up; sends at once what can't wait."""
        if isinstance(record, RunRecord):
            self._connect(record)
            return
        is_urgent = self._state.add(record)
        if self._last is None and self._state.span_s >= min(FIRST_STATE_S, self._interval_s):
            self._renew()
        if self._last is not None and is_urgent:
            self._last |= self._state.trouble()
            self._send()
        elif self._link is not None and self._link.is_asked:
            self._send()

    def flush(self) -> None:
        """Sends the state.

        Raises:
            SinkError: ``unreachable``, ``unauthorised`` where there is no connection.
        """
        self._renew()
        self._send()
        if self._link is not None and self._link.failure is not None:
            raise self._link.failure

    def close(self) -> None:
        """Says ``offline``, and disconnects."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _connect(self, run: RunRecord) -> None:
        self.close()
        identity = identify(run.profile, root=self._root)
        lifetime_s = LIFETIME_INTERVALS * self._interval_s
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
        self, broker: Broker, tls: ssl.SSLContext | None, run: RunRecord, identity: Identity, lifetime_s: float
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
        """Sends a state, and before it what Home Assistant must know; drops it where there is no connection."""
        if not self._is_connected:
            return
        self.is_asked = False
        if self._announced != shown:
            message = describe(self._run, self._identity, self._topics, shown, expire_after_s=self._lifetime_s)
            self._client.publish(self._identity.discovery_topic, msgspec.json.encode(message), qos=1, retain=True)
            self._announced = shown
        self._client.publish(self._topics.state, msgspec.json.encode(state))

    def close(self) -> None:
        """Says goodbye, if anybody listens."""
        self._is_closing = True
        if self._is_connected:
            goodbye = self._client.publish(self._topics.availability, "offline", qos=1, retain=True)
            # They say that the broker went first.
            with contextlib.suppress(RuntimeError, ValueError):
                goodbye.wait_for_publish(GOODBYE_S)
        # The thread isn't waited for: it may hang in a name server.
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
        # paho calls this while it handles the exception, and hands nothing on.
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

    # --- what is wrong ---

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
