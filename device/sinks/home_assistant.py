"""The discovery message, from which Home Assistant makes a device of a board.

One retained message names the device and all its entities. An entity that this run has no figure for is named by its platform
alone, which removes that of an earlier run. Measured and estimated power are different entities: their histories never mix.

References:
    https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery: device discovery, since Home Assistant 2024.12.
    https://www.home-assistant.io/integrations/sensor.mqtt/, https://www.home-assistant.io/integrations/binary_sensor.mqtt/
    machine-id(5): the machine's id is to be kept from others; what is shown must be a keyed hash of it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from device.protocols import RunRecord
from device.sinks.mqtt_state import Shown

STATUS_TOPIC = "homeassistant/status"
"""Where Home Assistant publishes ``online`` by default; the prefix of `BoardIdentity.discovery_topic` is its default, too."""


class BoardIdentity(NamedTuple):
    """The names of a board with its profile.

    Attributes:
        device: of the device; stays when the board is renamed.
        name: for topics: host, profile, and four letters that tell boards of one name apart.
        title: for people.
    """

    device: str
    name: str
    title: str

    @property
    def discovery_topic(self) -> str:
        """Topic of the discovery message."""
        return f"homeassistant/device/{self.device}/config"

    @property
    def client(self) -> str:
        """The client's id; always the same, so that the broker closes the connection from before a power cut.

        References:
            MQTT 3.1.1, 3.1.3.1: brokers take 23 letters and digits; 3.1.4: the older connection of two is closed.
        """
        return "gw" + hashlib.sha256(self.device.encode()).hexdigest()[:21]


def identify(profile: str, *, root: Path = Path("/"), hostname: str | None = None) -> BoardIdentity:
    """Names this board.

    Args:
        profile: that runs; two on one board are two devices.
        root: of the file system.
        hostname: this machine's, unless it is given.
    """
    host = hostname or socket.gethostname()
    title = f"{host} {profile}"
    try:
        machine = (root / "etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    if not machine:
        return BoardIdentity(_letters(f"ghostwatt_{host}_{profile}"), _letters(f"{host}-{profile}"), title)
    digest = hmac.new(machine, b"ghostwatt", hashlib.sha256).hexdigest()
    return BoardIdentity(_letters(f"ghostwatt_{digest[:12]}_{profile}"), _letters(f"{host}-{profile}-{digest[:4]}"), title)


class Topics(NamedTuple):
    """Topics that the board publishes to."""

    state: str
    availability: str

    @classmethod
    def under(cls, prefix: str, identity: BoardIdentity) -> Topics:
        """Makes the topics below a prefix."""
        return cls(f"{prefix}/{identity.name}/state", f"{prefix}/{identity.name}/availability")


def describe(run: RunRecord, identity: BoardIdentity, topics: Topics, shown: Shown, *, expire_after_s: float) -> dict[str, Any]:
    """The discovery message.

    Args:
        run: what runs.
        identity: of the board.
        topics: where its state is.
        shown: what there are figures for.
        expire_after_s: a figure older than this is no longer shown, even where the broker believes that the board is there.
    """
    return {
        "device": {
            "identifiers": [identity.device],
            "name": f"ghostwatt {identity.title}",
            "manufacturer": "ghostwatt",
            "model": run.board,
            "model_id": f"{run.model}, {run.runtime}",
            "sw_version": run.version,
        },
        "origin": {"name": "ghostwatt", "sw_version": run.version},
        "availability_topic": topics.availability,
        "state_topic": topics.state,
        "components": {
            key: {
                **entity,
                "unique_id": f"{identity.device}_{key}",
                "expire_after": round(expire_after_s),
            }
            if len(entity) > 1
            else entity
            for key, entity in _entities(topics, shown)
        },
    }


def _entities(topics: Topics, shown: Shown) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "fps", _sensor("Frames per second", "{{ value_json.fps }}", unit="FPS", digits=1)
    for name in ("p50", "p99"):
        value = f"value_json.latency_{name}_s"
        template = f"{{{{ (({value} * 1000) | round(2)) if {value} is not none else none }}}}"
        yield f"latency_{name}", _sensor(f"Latency {name}", template, unit="ms", device_class="duration", digits=1)
    for kind, scope, words in (("measured", shown.measured_scope, ""), ("estimated", shown.estimated_scope, ", estimated")):
        template = f"{{{{ value_json.power_{kind}_w }}}}"
        power = _sensor(f"Power ({scope}{words})", template, unit="W", device_class="power", digits=2)
        yield f"power_{kind}", power if scope else _gone(power)
    frames = _sensor("Frames", "{{ value_json.frames_total }}", state_class="total_increasing")
    yield "frames", frames
    dropped = _sensor("Dropped frames", "{{ value_json.dropped_total }}", state_class="total_increasing")
    yield "dropped", dropped | _DIAGNOSTIC
    temperature = _sensor("Temperature", "{{ value_json.temperature_c }}", unit="°C", device_class="temperature", digits=0)
    yield "temperature", temperature | _DIAGNOSTIC if shown.has_temperature else _gone(temperature)
    flags = "value_json.throttled"
    throttled = _problem("Throttled", f"{{{{ none if {flags} is none else 'ON' if {flags} else 'OFF' }}}}")
    yield "throttled", throttled | _DIAGNOSTIC if shown.knows_throttling else _gone(throttled)
    camera = _problem("Camera problem", "{{ 'ON' if value_json.camera_problem else 'OFF' }}")
    yield "camera_problem", camera | _detail(topics)
    label = {"platform": "sensor", "name": "Label", "value_template": "{{ value_json.label }}"}
    yield "label", label if shown.has_label else _gone(label)


_DIAGNOSTIC = {"entity_category": "diagnostic"}


def _sensor(
    name: str,
    template: str,
    *,
    unit: str | None = None,
    device_class: str | None = None,
    state_class: str = "measurement",
    digits: int | None = None,
) -> dict[str, Any]:
    options = {"unit_of_measurement": unit, "device_class": device_class, "suggested_display_precision": digits}
    known = {key: value for key, value in options.items() if value is not None}
    return {"platform": "sensor", "name": name, "value_template": template, "state_class": state_class, **known}


def _problem(name: str, template: str) -> dict[str, Any]:
    return {"platform": "binary_sensor", "name": name, "value_template": template, "device_class": "problem"}


def _detail(topics: Topics) -> dict[str, Any]:
    template = "{{ {'detail': value_json.camera_problem_detail} | tojson }}"
    return {"json_attributes_topic": topics.state, "json_attributes_template": template}


def _gone(entity: dict[str, Any]) -> dict[str, Any]:
    return {"platform": entity["platform"]}


def _letters(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)
