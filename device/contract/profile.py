"""The profile: a board, or one operating point of it. Keys carry their unit; unknown keys are refused.

People write profiles in YAML under ``firmware_profiles/``; `converter.profiles` reads them. The board never sees YAML: it
finds the resolved profile in the bundle's manifest.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device.contract.tensor import InputPx

PROFILE_SCHEMA = 1

Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Positive = Annotated[float, Meta(gt=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Arch = Literal["aarch64", "x86_64"]
Scope = Literal["board", "soc", "cpu", "battery", "wall"]

OwnOptions = dict[str, str | bool | int | float | None]
"""What a profile says to one plug-in alone. The plug-in's class declares which keys there are; its room checks them."""


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
    """What runs the network, and on how many threads.

    Attributes:
        name: of a runtime, ours or an outsider's. `device.runtimes.registry` knows which there are.
        threads: for inference.
    """

    name: Name
    threads: Annotated[int, Meta(ge=1, le=256)]


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to wait before a camera is opened again.

    Each wait is twice the one before, up to ``max_s``, give or take a fifth, so that many boards don't return to one camera
    at the same moment.

    Attributes:
        first_s: the first wait.
        max_s: the longest.
    """

    first_s: Positive = 0.5
    max_s: Positive = 15.0


class Camera(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``--camera`` reads.

    Attributes:
        uri: a source, as ``--source`` takes it (``picamera2:0``, ``v4l2:/dev/video0``, ``rtsp://camera/stream``), or several:
            they share the network in turn, and everything below holds for each.
        width_px: of the frames to ask for. A camera that scales by itself (picamera2) delivers the network's size instead.
        height_px: likewise.
        rate_fps: likewise.
        rotate_deg: clockwise, of frames that the camera can't turn by itself.
        stall_timeout_s: without a good frame for this long, a camera counts as stalled and is opened again; longer than a
            frame lasts at ``rate_fps``.
        frozen_timeout_s: the same picture, to the last bit, for this long counts as a stall too; None never does. A camera's
            noise changes every picture, but a stream of a still scene may really stand still. A black one never counts.
        give_up_after_s: a camera that gives no good frame for this long ends the run, for a service manager to start it anew;
            None tries for ever.
        backoff: between attempts to open a camera again.
        picamera2: for cameras on the Pi's ribbon cable: see `device.sources.picamera2.Picamera2Options`.
    """

    uri: str | Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)]
    width_px: Annotated[int, Meta(ge=32, le=8192)] = 640
    height_px: Annotated[int, Meta(ge=32, le=8192)] = 480
    rate_fps: Annotated[float, Meta(gt=0.0, le=1000.0)] = 30.0
    rotate_deg: Literal[0, 90, 180, 270] = 0
    stall_timeout_s: Positive = 5.0
    frozen_timeout_s: Positive | None = 60.0
    give_up_after_s: Positive | None = 120.0
    backoff: Backoff = Backoff()
    picamera2: OwnOptions = {}

    def __post_init__(self) -> None:
        if self.stall_timeout_s * self.rate_fps <= 1.0:
            raise ValueError("a stall_timeout_s longer than a frame lasts at rate_fps")

    @property
    def uris(self) -> tuple[str, ...]:
        """Every camera that ``uri`` names."""
        return (self.uri,) if isinstance(self.uri, str) else self.uri

    @property
    def own_options(self) -> dict[str, OwnOptions]:
        """What is said to one kind of source alone: its kind, which is also the key here, and its options."""
        return {"picamera2": self.picamera2}


MeterConfig = dict[str, Any]
"""A power meter to try: ``kind``, its name in the table of its room, and the keys that this kind takes, which its class
declares and its room checks (`device.meters.select.read_options`)."""


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Meters in order: the first that is there gives the headline figure. None there: no figure.

    Attributes:
        meters: in order of preference.
        sample_rate_hz: how often they are read.
    """

    meters: tuple[MeterConfig, ...] = ()
    sample_rate_hz: Annotated[float, Meta(gt=0.0, le=1000.0)] = 10.0

    def __post_init__(self) -> None:
        if not all(isinstance(meter.get("kind"), str) for meter in self.meters):
            raise ValueError("a kind for each of meters")


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record that a run leaves, and how long it is kept: rows grow coarser with age.

    Attributes:
        interval_s: time that one row covers.
        flush_interval_s: time between commits; what a power cut can lose, and what the SD card is spared.
        fine_kept_h: after so many hours rows are merged to a minute each.
        minutes_kept_d: after so many days those are merged to an hour each.
        hours_kept_d: after so many days those are dropped.
        max_size_mb: of the store; where it would grow beyond, the oldest rows go first, whatever their age.
    """

    interval_s: Positive = 1.0
    flush_interval_s: Positive = 60.0
    fine_kept_h: Positive = 48.0
    minutes_kept_d: Positive = 60.0
    hours_kept_d: Positive = 1825.0
    max_size_mb: Annotated[float, Meta(ge=1.0)] = 128.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon keeps to.

    Attributes:
        max_rate_fps: inferences a second, at most; None for as many as come.
        slow_above_c: above this temperature of the processor the daemon slows down to ``slow_rate_fps``; None never does. Both
            or neither are given.
        slow_rate_fps: inferences a second, at most, while it is hot.
        slow_hysteresis_c: so far below ``slow_above_c`` it must cool before the daemon goes on as before.
    """

    max_rate_fps: Positive | None = None
    slow_above_c: Annotated[float, Meta(ge=30.0, le=120.0)] | None = None
    slow_rate_fps: Positive | None = None
    slow_hysteresis_c: Annotated[float, Meta(gt=0.0, le=30.0)] = 3.0

    def __post_init__(self) -> None:
        if (self.slow_above_c is None) != (self.slow_rate_fps is None):
            raise ValueError("both slow_above_c and slow_rate_fps, or neither")
        if self.slow_rate_fps and self.max_rate_fps and self.slow_rate_fps >= self.max_rate_fps:
            raise ValueError("a slow_rate_fps below max_rate_fps")


SinkConfig = dict[str, Any]
"""A sink to open: ``kind``, its name in the table of its room, and the options that this kind takes, which its class declares
and its room checks (`device.sinks.opening.read_options`)."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A board, or one operating point of a board.

    Attributes:
        sinks: where events go beside the sinks that flags name. Unset, and so absent from the manifest, where a profile names
            none: older readers refuse keys that they don't know.
    """

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
    sinks: tuple[SinkConfig, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not all(isinstance(sink.get("kind"), str) for sink in self.wanted_sinks):
            raise ValueError("a kind for each of sinks")

    @property
    def wanted_sinks(self) -> tuple[SinkConfig, ...]:
        """Sinks to open beside those that flags name."""
        return self.sinks or ()
