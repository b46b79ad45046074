"""The one stream of events: whoever knows something emits it once, and each listener is handed what it takes."""

from __future__ import annotations

from device.protocols import Event, Listener, Trouble


class EventStream:
    """Hands each event to the listeners that take its kind, in the order in which they were added.

    See `device.protocols.events` for the events, their order and their threads. All listeners are added before the first event.
    """

    def __init__(self) -> None:
        self._listeners: dict[type, list[Listener]] = {}
        self._essential: set[int] = set()
        self._reported: set[int] = set()

    def add(self, listener: Listener, *, is_essential: bool = False) -> None:
        """Adds a listener.

        Args:
            listener: is handed the events that it takes, after those that were added before it.
            is_essential: an error that it raises ends the run. Another's is reported, the first time, and the run continues.
        """
        for kind in listener.takes:
            self._listeners.setdefault(kind, []).append(listener)
        if is_essential:
            self._essential.add(id(listener))

    def emit(self, event: Event) -> None:
        """Hands out an event; returns when every listener has taken it."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener.write(event)
            except Exception as error:
                if id(listener) in self._essential:
                    raise
                if id(listener) not in self._reported:
                    self._reported.add(id(listener))
                    self.emit(Trouble(f"{type(listener).__name__} failed ({error!r}); the run continues"))

    def report(self, line: str) -> None:
        """Emits a `Trouble`; safe from any thread."""
        self.emit(Trouble(line))
