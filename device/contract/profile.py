"""The profile: a board, or one operating point of it. Keys carry their unit; unknown keys are rejected.

Profiles are written in YAML under ``firmware_profiles/``, and read by `converter.profiles`. Boards need no YAML: the bundle's
manifest contains the resolved profile.
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
"""Options for a single plug-in. The plug-in's class declares the keys, and its package checks them."""


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine.

    Attributes:
        name: name of the board, the same for all its operating points.
        title: name for display, as printed on the board.
        arch: machine, as ``uname -m`` prints it.
        cpu: kind of its cores, by GCC's and QEMU's name; compared with the machine by ``device.doctor``.
        cores: number of cores.
        memory_mb: RAM of the smallest model on sale; compared with the machine by ``device.doctor``.
        compatible: entries of ``/proc/device-tree/compatible`` that identify this board; empty if no device tree names it.
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
        input_px: side of the network's square input.
        precision: precision of the artefacts.
        unknown_below: minimum score for naming a class: a frame whose best class has less is "unknown". None always names one.
    """

    name: str
    weights: str
    input_px: InputPx = 224
    precision: Literal["int8", "fp32"] = "int8"
    unknown_below: Share | None = None


class RuntimeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtime that runs the network.

    Attributes:
        name: one of `device.runtimes.registry`, or of a third-party package.
        threads: number of threads for inference.
    """

    name: Name
    threads: Annotated[int, Meta(ge=1, le=256)]


JITTER = 0.2
"""Largest random share that is added to or taken from a delay between attempts."""


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delays between attempts to open a camera again.

    Each delay is twice the previous one, up to ``max_s``, plus or minus a random fifth, which keeps many boards from returning
    to one camera at the same moment.

    Attributes:
        first_s: the first delay.
        max_s: the longest delay.
    """

    first_s: Positive = 0.5
    max_s: Positive = 15.0

    @property
    def longest_s(self) -> float:
        """The longest delay, with its random share."""
        return self.max_s * (1 + JITTER)


class Camera(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``--camera`` reads.

    Attributes:
        uri: a source, as ``--source`` takes it (``picamera2:0``, ``v4l2:/dev/video0``, ``rtsp://camera/stream``), or several,
            which share the network in turn; all other keys apply to each.
        width_px: requested width of the frames. A camera that scales by itself (picamera2) delivers the network's size instead.
        height_px: requested height of the frames; see ``width_px``.
        rate_fps: requested frames a second.
        rotate_deg: clockwise rotation of frames, for cameras that can't rotate by themselves.
        stall_timeout_s: a camera without a good frame for this long counts as stalled, and is opened again; longer than the
            duration of a frame at ``rate_fps``.
        frozen_timeout_s: a camera that repeats exactly the same picture for this long counts as stalled, too; None for never. A
            camera's noise changes every picture, but a stream of a still scene may not change. Black pictures don't count.
        give_up_after_s: a camera without a good frame for this long ends the run, for a service manager to restart it; None
            retries for ever.
        backoff: delays between attempts to open a camera again.
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
        """Options of single kinds of sources, by kind."""
        return {"picamera2": self.picamera2}


MeterConfig = dict[str, Any]
"""A power meter to try: its ``kind``, as in the registry of meters, and the options of this kind, which its class declares and
`device.meters.select.read_options` checks."""


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The power meters. The first that is available gives the headline figure; if none is, there is no figure.

    Attributes:
        meters: in order of preference.
        sample_rate_hz: readings a second.
    """

    meters: tuple[MeterConfig, ...] = ()
    sample_rate_hz: Annotated[float, Meta(gt=0.0, le=1000.0)] = 10.0

    def __post_init__(self) -> None:
        if not all(isinstance(meter.get("kind"), str) for meter in self.meters):
            raise ValueError("a kind for each of meters")


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The record of a run, and how long it is kept: rows become coarser with age.

    Attributes:
        interval_s: time that one row covers.
        flush_interval_s: time between commits. A power cut loses at most this much; longer intervals spare the SD card.
        fine_kept_h: age in hours at which rows are merged into one per minute.
        minutes_kept_d: age in days at which those are merged into one per hour.
        hours_kept_d: age in days at which those are deleted.
        max_size_mb: maximum size of the store, beyond which the oldest rows are deleted, whatever their age.
    """

    interval_s: Positive = 1.0
    flush_interval_s: Positive = 60.0
    fine_kept_h: Positive = 48.0
    minutes_kept_d: Positive = 60.0
    hours_kept_d: Positive = 1825.0
    max_size_mb: Annotated[float, Meta(ge=1.0)] = 128.0


class RateLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the rate of inference.

    Attributes:
        max_rate_fps: maximum inferences a second; None for no limit.
        slow_above_c: temperature of the processor above which the daemon slows down to ``slow_rate_fps``; None for never. Give
            both or neither.
        slow_rate_fps: maximum inferences a second while the processor is hot.
        slow_hysteresis_c: how far below ``slow_above_c`` the processor must cool before the daemon returns to its normal rate.
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
    runtime: RuntimeSettings
    camera: Camera
    power: Power = Power()
    telemetry: Telemetry = Telemetry()
    limits: RateLimits = RateLimits()
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
