"""What every source shares: the options it may be opened with, its description, and what happens after `close`."""

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

    A source takes what it can choose: a file keeps its own size and rate. `SourceSpec` and the frames say what came of it.

    Attributes:
        width_px: of the frames; None for the source's own choice.
        height_px: likewise.
        rate_fps: likewise, of sources that are live.
        loop: files begin again at their end.
        realtime: files play at their own rate (image files at ``rate_fps``), and a slow reader loses frames, as with a camera.
            Without it they wait for their reader.
        preprocessing: what the network wants, for sources that can scale by themselves; None for the whole picture.
        picamera2: what only a camera on the Pi's ribbon cable can be asked for.
        clock: paces what is paced, and stamps frames that bring no time of their own.
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
    """Base of the sources here.

    Subclasses add ``from_uri(rest, options)``, a classmethod that takes what follows the scheme's colon, and
    ``read(timeout_s)``, which calls `_require_open` first. Those that hold something extend `close`.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._closed = threading.Event()

    @property
    def spec(self) -> SourceSpec:
        """What this source delivers; constant."""
        return self._spec

    def close(self) -> None:
        """Ends the source; a `read` that waits in another thread raises soon after."""
        self._closed.set()

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise SourceError(self._spec.uri, "read after close", expected="a source that is open", reason="closed")
