"""What all sources share: the options that they may be opened with, and their base class."""

from __future__ import annotations

import threading

import msgspec

from device.contract import Picamera2, Preprocessing
from device.core.clock import SystemClock
from device.core.errors import SourceError
from device.core.resources import Resource
from device.protocols import Clock, SourceSpec


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
        picamera2: options of cameras on the Pi's ribbon cable.
        clock: paces playback, and stamps frames that have no time of their own.
    """

    width_px: int | None = None
    height_px: int | None = None
    rate_fps: float | None = None
    loop: bool = False
    realtime: bool = False
    preprocessing: Preprocessing | None = None
    picamera2: Picamera2 = Picamera2()
    clock: Clock = msgspec.field(default_factory=SystemClock)


class BaseSource(Resource):
    """Base class of the sources.

    Subclasses add ``from_uri(rest, options)``, a classmethod that takes what follows the scheme's colon, and
    ``read(timeout_s)``, which must call `_require_open` first. Subclasses that hold a resource extend `close`.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._closed = threading.Event()

    @property
    def spec(self) -> SourceSpec:
        """What this source delivers; constant."""
        return self._spec

    def close(self) -> None:
        """Closes the source; a `read` that waits in another thread raises soon after."""
        self._closed.set()

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise SourceError(self._spec.uri, "read after close", expected="an open source", reason="closed")
