"""Opens the sources that ``--camera`` and ``--source`` name: cameras under supervision, files as they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

from device.contract import Camera, Preprocessing
from device.core.errors import SourceError, SourceReason, UsageError
from device.protocols import Clock, FrameSource, Interruption
from device.sources.absent import AbsentCamera
from device.sources.base import SourceOptions
from device.sources.supervisor import RetryPolicy, SupervisedSource
from device.sources.uri import make_opener, names_camera


def camera_options(camera: Camera, preprocessing: Preprocessing, *, clock: Clock, loop: bool, realtime: bool) -> SourceOptions:
    """The options that a profile sets for every source."""
    return SourceOptions(
        width_px=camera.width_px,
        height_px=camera.height_px,
        rate_fps=camera.rate_fps,
        loop=loop,
        realtime=realtime,
        preprocessing=preprocessing,
        own=camera.own_options,
        clock=clock,
    )


AWAY: frozenset[SourceReason] = frozenset({"missing", "unreachable", "stalled", "ended", "busy"})
"""Reasons why a camera is absent that may pass by themselves. Any other reason needs somebody to change something."""


def open_frames(
    uris: Sequence[str], camera: Camera, options: SourceOptions, on_interruption: Callable[[Interruption], None]
) -> list[FrameSource]:
    """Opens all sources, or none.

    A single camera that is missing at the start is most likely a mistake, and an error. One of several cameras that is missing,
    now or later, must not keep the others from working: it is retried for as long as another one works.

    Args:
        uris: at least one.
        camera: timeouts and retries of cameras.
        options: for each source.
        on_interruption: called when a camera is interrupted and when it recovers, from the thread that reads it.

    Raises:
        UsageError: no source was named, one was named twice, or a URI is malformed.
        SourceError: a source can't be opened; of several cameras, none can.
    """
    if not uris:
        raise UsageError("frames", "none named", expected="--camera, or --source URI", reason="no_source")
    with ExitStack() as stack:
        openings = _Openings(camera, options, on_interruption, is_alone=len(uris) == 1)
        for uri in uris:
            stack.callback(openings.open(uri).close)
        openings.require_one()
        stack.pop_all()
    return openings.sources


class _Openings:
    """Opens sources one after another, and keeps those that are open."""

    def __init__(
        self, camera: Camera, options: SourceOptions, on_interruption: Callable[[Interruption], None], *, is_alone: bool
    ) -> None:
        self.sources: list[FrameSource] = []
        self._policy = RetryPolicy(camera.stall_timeout_s, camera.frozen_timeout_s, camera.give_up_after_s, camera.backoff)
        self._options = options
        self._on_interruption = on_interruption
        self._is_alone = is_alone
        self._uris: list[str] = []
        self._cameras: list[SupervisedSource] = []
        self._away: list[SourceError] = []

    def open(self, uri: str) -> FrameSource:
        opener = make_opener(uri, self._options)
        source = self._open(uri, opener)
        name, taken = source.spec.uri, {other.spec.uri for other in self.sources}
        if name in taken and (uri in self._uris or not source.spec.is_camera):
            source.close()
            raise UsageError("--source", f"{name} is named twice", expected="each source once", reason="twice")
        if source.spec.is_camera:
            source = self._supervise(source, opener, _choose_name(name, taken))
        self._uris.append(uri)
        self.sources.append(source)
        return source

    def require_one(self) -> None:
        """Raises the first camera's error if no camera could be opened, even if there are files as well."""
        if self._away and len(self._away) == len(self._cameras):
            raise self._away[0]

    def _open(self, uri: str, opener: Callable[[], FrameSource]) -> FrameSource:
        try:
            return opener()
        except SourceError as error:
            if self._is_alone or error.reason not in AWAY or not names_camera(uri):
                raise
            self._away.append(error)
            # An address may contain a password; a stream's errors give the address without it.
            return AbsentCamera(error.where if "://" in uri else uri, error)

    def _supervise(self, source: FrameSource, opener: Callable[[], FrameSource], name: str) -> SupervisedSource:
        # A camera gives up only once all of them have been interrupted for that long.
        supervised = SupervisedSource(
            source,
            opener,
            self._policy,
            clock=self._options.clock,
            on_interruption=self._on_interruption,
            name=name,
            may_give_up=lambda: min(camera.away_s for camera in self._cameras) >= (self._policy.give_up_after_s or 0.0),
        )
        self._cameras.append(supervised)
        return supervised


def _choose_name(uri: str, taken: Collection[str]) -> str:
    """Numbers cameras whose addresses differ only in the hidden secrets, such as the channels of a recorder."""
    names = (f"{uri} ({number})" if number > 1 else uri for number in itertools.count(1))
    return next(name for name in names if name not in taken)
