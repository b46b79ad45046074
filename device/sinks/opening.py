"""Opens sinks by their names and options, each behind a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from device.contract import Profile
from device.core import plugin
from device.core.errors import ProfileError, ProfileReason
from device.core.resources import Resource
from device.protocols import Sink, SinkContext
from device.sinks.background import BackgroundSink
from device.sinks.registry import SINKS


class SinkSettings(NamedTuple):
    """One sink that is wanted.

    Attributes:
        kind: its name in the registry.
        options: by the names of the fields of its class's ``Options``.
        where: who wants it, for messages.
    """

    kind: str
    options: Mapping[str, object]
    where: str


def settings_of(profile: Profile) -> list[SinkSettings]:
    """The sinks that a profile names."""
    return [SinkSettings(*plugin.split_kind(sink), f"profile {profile.name} sinks") for sink in profile.wanted_sinks]


def read_options(
    kind: str, sink: type[plugin.Plugin], options: Mapping[str, object], where: Callable[[str], str]
) -> msgspec.Struct:
    """Checks options against those that a sink takes.

    Args:
        kind: the sink's name.
        sink: its class.
        options: as they were given.
        where: gives the place of a key, for messages.

    Raises:
        ProfileError: ``unknown_key``, ``invalid``.
    """
    try:
        return plugin.read_options(kind, options, sink.Options)
    except plugin.OptionError as error:
        reason: ProfileReason = "unknown_key" if error.is_unknown else "invalid"
        raise ProfileError(where(error.key), error.found, expected=error.expected, reason=reason) from error


class OpenSinks(Resource):
    """Sinks that are open.

    Args:
        wanted: opened in this order; if one can't be, those before it are closed.
        context: given to each.
        may_wait: frames come from files, which wait: those sinks that keep every frame's result lose none.

    Attributes:
        listeners: to be added to the stream.

    Raises:
        GhostwattError: see `Sink.open` and `read_options`.
    """

    def __init__(self, wanted: Iterable[SinkSettings], context: SinkContext, *, may_wait: bool) -> None:
        self.listeners: list[BackgroundSink] = []
        try:
            for settings in wanted:
                sink = _open_sink(settings, context)
                can_wait = may_wait and sink.keeps_every_frame
                self.listeners.append(BackgroundSink(sink, context.report, may_wait=can_wait))
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        """Events that were lost because a sink was too slow."""
        return sum(listener.lost for listener in self.listeners)

    def close(self) -> None:
        """Flushes and closes each."""
        for listener in self.listeners:
            listener.close()


def _open_sink(settings: SinkSettings, context: SinkContext) -> Sink:
    kind = SINKS.load(settings.kind)
    options = read_options(settings.kind, kind, settings.options, lambda key: f"{settings.where} {key}")
    sink: Sink = kind.open(options, context)
    return sink
