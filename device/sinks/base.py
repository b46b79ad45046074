"""What the class of a sink derives from."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from device.core.plugin import Plugin
from device.core.resources import Resource
from device.protocols import RECORDS, Kinds, SinkContext


class SinkPlugin(Plugin, Resource):
    """Base of every sink, see `device.protocols.Sink`; a sink from outside derives from it, too.

    Attributes:
        keeps_every_frame: see `device.protocols.Sink`.
        takes: classes of the events that it is given.
        flush_interval_s: between two flushes.
        queue_capacity: events that may wait for it.
    """

    keeps_every_frame: ClassVar[bool] = False
    takes: Kinds = RECORDS
    flush_interval_s: float = 60.0
    queue_capacity: int = 1024

    @classmethod
    def open(cls, options: Any, context: SinkContext) -> Self:
        """Opens it, see `device.protocols.Sink`."""
        raise NotImplementedError

    def prepare(self, event: Any) -> Any:
        """Gives what `write` is to get, see `device.protocols.Sink`; the event itself, unless a subclass needs more."""
        return event

    def write(self, event: Any) -> None:
        """Takes one event, see `device.protocols.Sink`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Makes durable what was written; nothing, where `write` already does."""

    def hurry(self) -> None:
        """Is told that the run ends, see `device.protocols.Sink`."""
