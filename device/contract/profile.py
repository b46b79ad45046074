"""The profile: a board, or one operating point of it. Keys carry their unit; unknown keys are refused.

People write profiles in YAML under ``firmware_profiles/``; `converter.profiles` reads them. The board never sees YAML: it
finds the resolved profile in the bundle's manifest.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from device.contract.tensor import InputPx

PROFILE_SCHEMA = 1

Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Positive = Annotated[float, Meta(gt=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
RuntimeName = Literal["litert", "executorch"]
Arch = Literal["aarch64", "x86_64"]
Scope = Literal["board", "soc", "cpu", "battery", "wall"]


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine.

    Attributes:
        name: one name a board, whatever the operating point.
        title: what is printed on it.
        compatible: the first entry of ``/proc/device-tree/compatible`` that belongs to this board; empty where a board
            has no device tree that names it.
        arch: machine, as ``uname -m`` prints it.
        cpu: its core, by the name GCC and QEMU give it.
        cores: how many of them.
        memory_mb: RAM of the smallest model on sale.
    """

    name: Name
    title: str
    arch: Arch
    cpu: str
    cores: Annotated[int, Meta(ge=1, le=256)]
    memory_mb: Annotated[int, Meta(ge=128)]
    compatible: tuple[str, ...] = ()


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network to convert.

    Attributes:
        name: variant, as ``python -m converter --list`` prints it.
        weights: name of a checkpoint, or a path.
        input_px: side of the square that the network sees.
        precision: of the artefacts.
        unknown_below: the least score that names a class: a frame whose best class has less is "unknown". None names one
            always.
    """

    name: str
    weights: str
    input_px: InputPx = 224
    precision: Literal["int8", "fp32"] = "int8"
    unknown_below: Share | None = None


class Runtime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What runs the network, and on how many threads."""

    name: RuntimeName
    threads: Annotated[int, Meta(ge=1, le=256)]


class Camera(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``--camera`` reads.

    Attributes:
        uri: a source, as ``--source`` takes it (``picamera2:0``, ``v4l2:/dev/video0``, ``synthetic:640x480``).
        width_px: of the frames to ask for.
        height_px: likewise.
        rate_fps: likewise.
        stall_timeout_s: without a frame for this long, the source counts as stalled.
    """

    uri: str
    width_px: Annotated[int, Meta(ge=32, le=8192)] = 640
    height_px: Annotated[int, Meta(ge=32, le=8192)] = 480
    rate_fps: Annotated[float, Meta(gt=0.0, le=1000.0)] = 30.0
    stall_timeout_s: Positive = 5.0


class Meter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A power meter to try.

    Attributes:
        kind: name in `device.registry`.
        shunt_ohm: resistance of the shunt on the breakout board, for the ``ina2xx`` kinds. Never guessed.
        scope: what the meter's wires enclose, where the meter can't know it.
    """

    kind: str
    shunt_ohm: Positive | None = None
    scope: Scope | None = None


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Meters in order: the first that is there gives the headline figure. None there: no figure.

    Attributes:
        meters: in order of preference.
        sample_rate_hz: how often they are read.
    """

    meters: tuple[Meter, ...] = ()
    sample_rate_hz: Annotated[float, Meta(gt=0.0, le=1000.0)] = 10.0


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record that a run leaves.

    Attributes:
        interval_s: time that one row covers.
        flush_interval_s: time between commits; what a power cut can lose, and what the SD card is spared.
    """

    interval_s: Positive = 1.0
    flush_interval_s: Positive = 60.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon keeps to.

    Attributes:
        max_rate_fps: inferences a second, at most; None for as many as come.
    """

    max_rate_fps: Positive | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A board, or one operating point of a board."""

    name: Name
    description: str
    board: Board
    model: Model
    runtime: Runtime
    camera: Camera
    power: Power = Power()
    telemetry: Telemetry = Telemetry()
    limits: Limits = Limits()
    inherits: Name | None = None
    schema: Literal[1] = 1
