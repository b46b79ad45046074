"""Opens what ``--camera`` and ``--source`` name: live sources under supervision, files as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from device.contract import Camera, Preprocessing
from device.errors import UsageError
from device.protocols import Clock, FrameSource, Interruption
from device.sources import SourceOptions, make_opener
from device.sources.supervisor import Patience, SupervisedSource


def camera_options(camera: Camera, preprocessing: Preprocessing, *, clock: Clock, loop: bool, realtime: bool) -> SourceOptions:
    """What the profile asks of every source."""
    return SourceOptions(
        width_px=camera.width_px,
        height_px=camera.height_px,
        rate_fps=camera.rate_fps,
        loop=loop,
        realtime=realtime,
        preprocessing=preprocessing,
        picamera2=camera.picamera2,
        clock=clock,
    )


def open_frames(
    uris: Sequence[str], camera: Camera, options: SourceOptions, on_interruption: Callable[[Interruption], None]
) -> list[FrameSource]:
    """Opens every source, or none.

    Args:
        uris: at least one.
        camera: how patient to be with those that are live.
        options: for each.
        on_interruption: told of those that fail for a while; from their threads.

    Raises:
        UsageError: none was named, one twice, or a URI that makes no sense.
        SourceError: one gives no frames.
    """
    if not uris:
        raise UsageError("frames", "none named", expected="--camera, or --source URI", reason="no_source")
    patience = Patience(camera.stall_timeout_s, camera.frozen_timeout_s, camera.give_up_after_s, camera.backoff)
    with ExitStack() as stack:
        sources: list[FrameSource] = []
        for uri in uris:
            source = _open_one(make_opener(uri, options), patience, options.clock, on_interruption)
            stack.callback(source.close)
            if any(other.spec.uri == source.spec.uri for other in sources):
                raise UsageError("--source", f"{source.spec.uri} is named twice", expected="each source once", reason="twice")
            sources.append(source)
        stack.pop_all()
    return sources


def _open_one(
    opener: Callable[[], FrameSource], patience: Patience, clock: Clock, on_interruption: Callable[[Interruption], None]
) -> FrameSource:
    source = opener()
    if not source.spec.is_live or source.spec.is_recorded:
        return source
    return SupervisedSource(source, opener, patience, clock=clock, on_interruption=on_interruption)
