"""Keeps a slow sink away from the frame loop: a bounded queue and a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from device.core.errors import SinkError
from device.core.resources import Resource
from device.protocols import Event, FrameDone, Kinds, Sink

LOST_INTERVAL_S = 60.0
"""Between warnings of events that were lost."""


class BackgroundSink(Resource):
    """Drives a sink from a thread of its own; for the stream, it is the listener.

    A full queue loses the newest event; how many were lost is reported at most once a minute. An error of the sink is reported
    once for as long as it lasts; the run continues.

    Args:
        sink: open; closed together with this one.
        report: takes one line when the sink begins to fail, and when it works again; from the sink's thread.
        may_wait: waits for room in the queue rather than lose a frame's result: right where frames come from files.
    """

    def __init__(self, sink: Sink, report: Callable[[str], None], *, may_wait: bool = False) -> None:
        self._sink = sink
        self._flush_interval_s = sink.flush_interval_s
        self._report = report
        self._may_wait = may_wait
        self._queue: queue.Queue[Any] = queue.Queue(sink.queue_capacity)
        self._failing = False
        self._closed = False
        self.lost = 0
        self._lost_reported = 0
        self._next_lost_s = 0.0
        self._thread = threading.Thread(target=self._work, name=f"sink-{type(sink).__name__}", daemon=True)
        self._thread.start()

    @property
    def takes(self) -> Kinds:
        """What the sink takes."""
        return self._sink.takes

    def write(self, event: Event) -> None:
        """Hands an event over."""
        if self._may_wait and isinstance(event, FrameDone):
            self._queue.put(self._sink.prepare(event))
            return
        try:
            self._queue.put_nowait(self._sink.prepare(event))
        except queue.Full:
            self.lost += 1

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is queued, flushes and closes; gives up on a sink that hangs after ``timeout_s``."""
        if self._closed:
            return
        self._closed = True
        self._sink.hurry()
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            self._report(f"{type(self._sink).__name__} hangs; {self._queue.qsize()} events are lost")
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._report(f"{type(self._sink).__name__} hangs; {self._queue.qsize()} events are lost")

    def _work(self) -> None:
        next_flush_s = time.monotonic() + self._flush_interval_s
        while True:
            try:
                event = self._queue.get(timeout=max(0.0, next_flush_s - time.monotonic()))
                if event is None:
                    break
                self._attempt(lambda event=event: self._sink.write(event))  # type: ignore[misc]
            except queue.Empty:
                pass
            if time.monotonic() >= next_flush_s:
                self._attempt(self._sink.flush)
                next_flush_s = time.monotonic() + self._flush_interval_s
            self._report_lost()
        self._attempt(self._sink.flush)
        self._attempt(self._sink.close)

    def _report_lost(self) -> None:
        now_s = time.monotonic()
        if self.lost > self._lost_reported and now_s >= self._next_lost_s:
            self._next_lost_s = now_s + LOST_INTERVAL_S
            self._report(f"{type(self._sink).__name__} is too slow; events that were lost: {self.lost - self._lost_reported}")
            self._lost_reported = self.lost

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            # Of any kind: without this thread, the queue would fill, and a writer that may wait would wait for ever.
            if not self._failing:
                said = str(error) if isinstance(error, SinkError) else f"{type(self._sink).__name__}: {error!r}"
                self._report(f"{said}; the run continues")
            self._failing = True
        else:
            if self._failing and action == self._sink.flush:
                self._failing = False
                self._report(f"{type(self._sink).__name__} works again")
