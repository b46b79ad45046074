"""Opens sinks by their names and options, each behind a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from device.contract import Profile
from device.core.errors import ProfileError, nearest
from device.core.plugin import Plugin
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
    return [
        SinkSettings(
            sink["kind"], {key: value for key, value in sink.items() if key != "kind"}, f"profile {profile.name} sinks"
        )
        for sink in profile.wanted_sinks
    ]


def read_options(kind: str, sink: type[Plugin], options: Mapping[str, object], where: Callable[[str], str]) -> msgspec.Struct:
    """Checks options against those that a sink takes.

    Args:
        kind: the sink's name.
        sink: its class.
        options: as they were given.
        where: gives the place of a key, for messages.

    Raises:
        ProfileError: ``unknown_key``, ``invalid``.
    """
    fields = msgspec.structs.fields(sink.Options)
    known = [field.name for field in fields]
    for key in options:
        if key not in known:
            raise ProfileError(where(key), f"is no key of {kind}", expected=nearest(key, known), reason="unknown_key")
    for field in fields:
        if field.required and field.name not in options:
            raise ProfileError(where("kind"), f"{kind} without {field.name}", expected=f"{field.name}", reason="invalid")
    try:
        return msgspec.convert(dict(options), sink.Options)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        key = place.rstrip("`")
        found = repr(options[key]) if key in options else "can't be used"
        raise ProfileError(where(key), found, expected=message.removeprefix("Expected "), reason="invalid") from error


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
