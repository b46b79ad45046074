"""A real broker on loopback: Eclipse Mosquitto, started, killed, frozen and started again. ``make setup-board`` installs it."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from tests.board.harness.packages import find
from tests.unit.processes import ServerProcess, free_port

LIMIT_S = 60.0

USER, PASSWORD = "board", "Kanarienvogel-7f3a"


class Mosquitto(ServerProcess):
    """A broker's process.

    Args:
        folder: for its configuration and its log.
        password: whether it asks for `USER` and `PASSWORD`.
        certificate: of its own, with the key beside it (``.key``): then it speaks TLS.
    """

    def __init__(self, folder: Path, *, password: bool = False, certificate: Path | None = None) -> None:
        program = find("mosquitto")
        if program is None:
            pytest.skip("mosquitto is missing: make setup-board")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        super().__init__([str(program), "-c", str(folder / "mosquitto.conf")], folder / "log", self._listens, LIMIT_S)
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "log_dest stderr"]
        lines.append(f"allow_anonymous {str(not password).lower()}")
        # As root it would give its rights away, and then not read its own password file.
        lines.append(f"user {pwd.getpwuid(os.geteuid()).pw_name}")
        if password:
            secrets = folder / "passwords"
            secrets.write_text(f"{USER}:{PASSWORD}\n")
            subprocess.run(["mosquitto_passwd", "-U", secrets], check=True, capture_output=True)
            lines.append(f"password_file {secrets}")
        if certificate:
            lines += [f"certfile {certificate}", f"keyfile {certificate.with_suffix('.key')}"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        except OSError:
            return False


class Listener:
    """A client that hears everything, and remembers it.

    Args:
        port: of the broker.
        password: whether to log in.
    """

    def __init__(self, port: int, *, password: bool = False) -> None:
        self.heard: list[MQTTMessage] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        if password:
            self._client.username_pw_set(USER, PASSWORD)
        self._is_ready = False
        self._client.on_subscribe = lambda *_: setattr(self, "_is_ready", True)
        self._client.on_message = lambda _client, _data, message: self.heard.append(message)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(lambda: self._is_ready, "the listener's subscription")

    def payloads(self, ending: str) -> list[bytes]:
        """Of the messages whose topic ends so, in order."""
        return [bytes(message.payload) for message in list(self.heard) if message.topic.endswith(ending)]

    def states(self) -> list[dict[str, Any]]:
        """The states, in order."""
        return [msgspec.json.decode(payload) for payload in self.payloads("/state")]

    def say(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """Publishes, and waits until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(LIMIT_S)

    def close(self) -> None:
        """Leaves."""
        self._client.disconnect()
        self._client.loop_stop()


def wait_until(holds: Any, what: str) -> None:
    """Waits for something that another thread or process does."""
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s, f"no {what} within {LIMIT_S:g} s"
        time.sleep(0.02)
