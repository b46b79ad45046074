"""What all sources share: the options that they may be opened with, and their base class."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self, TypeVar

import msgspec

from device.contract import Camera, OwnOptions, Preprocessing
from device.core.clock import SystemClock
from device.core.errors import ProfileError, SourceError
from device.core.plugin import Needs, OptionError, Plugin, read_options
from device.core.programs import Run
from device.core.resources import Resource
from device.protocols import Clock, Frame, FrameSource, SourceSpec

OPENCV = Needs(extra="video", install="install OpenCV: pip install 'ghostwatt[video]', or apt install python3-opencv")
"""What sources need that decode pictures or convert colours by `device.image.opencv`."""


class SourceOptions(msgspec.Struct, frozen=True):
    """What to ask of a source beyond its URI.

    A source uses the options that apply to it: a file keeps its own size and rate. `SourceSpec` and the frames show the result.

    Attributes:
        width_px: width of the frames; None for the source's own choice.
        height_px: height of the frames; None for the source's own choice.
        rate_fps: rate of a live source; None for the source's own choice.
        loop: files start again at their end.
        realtime: files play at their own rate (image files at ``rate_fps``), and a slow reader loses frames as with a camera.
            Otherwise they wait for their reader.
        preprocessing: what the network needs, for sources that can scale by themselves; None for the whole picture.
        own: options that only one kind of source takes, by that kind; see `BaseSource.Options`.
        clock: paces playback, and stamps frames that have no time of their own.
    """

    width_px: int | None = None
    height_px: int | None = None
    rate_fps: float | None = None
    loop: bool = False
    realtime: bool = False
    preprocessing: Preprocessing | None = None
    own: Mapping[str, OwnOptions] = {}
    clock: Clock = msgspec.field(default_factory=SystemClock)

    @property
    def requested_mode(self) -> tuple[int, int, float]:
        """Width in pixels, height in pixels and frames a second to request: the profile's defaults in place of None."""
        default = Camera(uri="")
        return self.width_px or default.width_px, self.height_px or default.height_px, self.rate_fps or default.rate_fps


AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


def own_options(kind: str, struct: type[AnyStruct], options: SourceOptions) -> AnyStruct:
    """Reads the options that only one kind of source takes.

    Args:
        kind: the source's.
        struct: its `BaseSource.Options`.
        options: whose ``own`` holds them.

    Raises:
        ProfileError: ``invalid``: an unknown key, or a wrong value.
    """
    try:
        return read_options(kind, options.own.get(kind, {}), struct)
    except OptionError as error:
        where = f"camera.{kind}" if error.key == "kind" else f"camera.{kind}.{error.key}"
        raise ProfileError(
            where, error.found, expected=error.expected, remedy="convert the bundle again", reason="invalid"
        ) from error


class Diagnosis(NamedTuple):
    """A device that a source could open, or the lack of one; for the doctor's table.

    Attributes:
        subject: what was examined, such as ``/dev/video0`` or the source's kind.
        state: ``ok``; ``doubtful``: it may work; ``broken``: it is there and can't be used; ``absent``: there is none;
            ``unsupported``: this machine can't have one, or doesn't say.
        finding: the result, in one line.
        remedy: what to do, in one line; empty if there is nothing to do.
    """

    subject: str
    state: Literal["ok", "doubtful", "broken", "absent", "unsupported"]
    finding: str
    remedy: str = ""


class BaseSource(Resource, Plugin, ABC):
    """Base class of the sources; see `device.protocols.FrameSource` for what an open one must do.

    A source that a table names must override `from_uri`, and `opener` too if it remembers what it opened. Every source must
    override `read`, which must call `_require_open` first. One that holds a resource extends `close`. One that has devices
    overrides `diagnose`. The module of a source imports only the base install; its constructor imports the rest, by
    `device.core.plugin.import_package`.

    Attributes:
        Options: options that only this kind takes, under its name in the profile's ``camera``; see `own_options`.
        is_live: True for cameras and streams, which deliver at their own pace and may be absent for a while. False for sources
            that wait for their reader; one that is asked to play in real time is live all the same, see `SourceSpec.is_live`.
        is_recorded: frames lie in files; opened again, the source begins again.

    Args:
        uri: without credentials.
        is_live: of this one.
        rate_fps: nominal; None if frames come as fast as they are read, or it isn't known.
    """

    is_live: ClassVar[bool] = False
    is_recorded: ClassVar[bool] = False

    def __init__(self, uri: str, *, is_live: bool, rate_fps: float | None) -> None:
        self._spec = SourceSpec(uri=uri, is_live=is_live, rate_fps=rate_fps, is_recorded=self.is_recorded)
        self._closed = threading.Event()

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens a source.

        Args:
            rest: what follows the first colon of the URI.
            options: what to ask of the source.

        Raises:
            UsageError: the URI is malformed.
            MissingDependencyError: a package that it needs isn't installed.
            SourceError: the source doesn't exist, or is empty.
        """
        raise NotImplementedError(f"{cls.__name__} can't be opened by a URI")

    @classmethod
    def opener(cls, rest: str, options: SourceOptions) -> Callable[[], FrameSource]:
        """Returns a function that opens a source, as often as it is called; see `from_uri`.

        Raises:
            UsageError: the URI is malformed. May also be raised by the function.
        """
        return lambda: cls.from_uri(rest, options)

    @classmethod
    def diagnose(cls, root: Path, run: Run) -> Iterable[Diagnosis]:  # noqa: ARG003  # for those that override it
        """Examines the devices of this kind, for the doctor. May open each briefly, but takes no picture.

        Called on the class, from any thread; one that hangs in a driver is abandoned.

        Args:
            root: folder that holds ``sys``, ``proc`` and ``dev``.
            run: runs programs.
        """
        return ()

    @property
    def spec(self) -> SourceSpec:
        """What this source delivers; constant."""
        return self._spec

    @abstractmethod
    def read(self, timeout_s: float) -> Frame | None:
        """Waits for the next frame; see `FrameSource.read`."""

    def close(self) -> None:
        """Closes the source; a `read` that waits in another thread raises soon after."""
        self._closed.set()

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise SourceError(self._spec.uri, "read after close", expected="an open source", reason="closed")
