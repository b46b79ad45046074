"""A broker that keeps what it is told, and is always there: the real one isn't on every machine.

References:
    MQTT 3.1.1 (OASIS Standard, 2014), 2.2 and 3.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9


class Message(NamedTuple):
    """What was published, or is the last will."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Broker:
    """Serves one client at a time, on loopback."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[tuple[str, int, Message]] = []
        self.subscriptions: list[str] = []
        self.messages: list[Message] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, which ends by itself where its client has gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as stream:
                while first := stream.read(1):
                    body = stream.read(_read_length(stream.read))
                    stream.write(self._answer(first[0], body))
                    stream.flush()

    def _answer(self, first: int, body: bytes) -> bytes:
        kind = first >> 4
        if kind == CONNECT:
            # Protocol's name, its level and the flags are ten bytes with the keep-alive.
            flags, keepalive_s = body[7], int.from_bytes(body[8:10], "big")
            client, topic, payload, *_ = _strings(body[10:])
            will = Message(topic.decode(), payload, flags >> 3 & 3, bool(flags & 0x20))
            self.connections.append((client.decode(), keepalive_s, will))
            return bytes([CONNACK << 4, 2, 0, 0])
        if kind == PUBLISH:
            qos = first >> 1 & 3
            end = 2 + int.from_bytes(body[:2], "big")
            packet, payload = (body[end : end + 2], body[end + 2 :]) if qos else (b"", body[end:])
            self.messages.append(Message(body[2:end].decode(), payload, qos, bool(first & 1)))
            return bytes([PUBACK << 4, 2]) + packet if qos else b""
        if kind == SUBSCRIBE:
            self.subscriptions.append(body[4:-1].decode())
            return bytes([SUBACK << 4, 3]) + body[:2] + body[-1:]
        return b""


def _read_length(read: Callable[[int], bytes]) -> int:
    length, shift, more = 0, 0, True
    while more:
        byte = read(1)[0]
        length |= (byte & 0x7F) << shift
        shift, more = shift + 7, bool(byte & 0x80)
    return length


def _strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:end])
        data = data[end:]
    return found
