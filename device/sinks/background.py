"""Keeps a slow sink away from the frame loop: a bounded queue and a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from device.core.errors import SinkError
from device.core.resources import Resource
from device.protocols import Record, Sink


class BackgroundSink(Resource):
    """Drives a sink from a thread of its own.

    A full queue loses the newest record and counts it, unless the caller may wait. An error of the sink is told once for
    as long as it lasts; the run goes on.

    Args:
        sink: closed together with this one.
        flush_interval_s: time between flushes.
        on_trouble: called with one line when the sink begins to fail, and when it works again; from the sink's thread.
        capacity: records that may wait.
    """

    def __init__(self, sink: Sink, *, flush_interval_s: float, on_trouble: Callable[[str], None], capacity: int = 1024) -> None:
        self._sink = sink
        self._flush_interval_s = flush_interval_s
        self._on_trouble = on_trouble
        self._queue: queue.Queue[Record | None] = queue.Queue(capacity)
        self._failing = False
        self._closed = False
        self.lost = 0
        self._thread = threading.Thread(target=self._work, name=f"sink-{type(sink).__name__}", daemon=True)
        self._thread.start()

    def write(self, record: Record, *, may_wait: bool) -> None:
        """Hands a record over.

        Args:
            record: to write.
            may_wait: True where the caller would rather wait than lose it (a file that is read at our own pace).
        """
        if may_wait:
            self._queue.put(record)
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.lost += 1

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is queued, flushes and closes; gives up on a sink that hangs after ``timeout_s``."""
        if self._closed:
            return
        self._closed = True
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            self._on_trouble(f"{type(self._sink).__name__} hangs; {self._queue.qsize()} records are lost")
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._on_trouble(f"{type(self._sink).__name__} hangs; {self._queue.qsize()} records are lost")

    def _work(self) -> None:
        next_flush_s = time.monotonic() + self._flush_interval_s
        while True:
            try:
                record = self._queue.get(timeout=max(0.0, next_flush_s - time.monotonic()))
                if record is None:
                    break
                self._attempt(lambda record=record: self._sink.write(record))  # type: ignore[misc]
            except queue.Empty:
                pass
            if time.monotonic() >= next_flush_s:
                self._attempt(self._sink.flush)
                next_flush_s = time.monotonic() + self._flush_interval_s
        self._attempt(self._sink.flush)
        self._attempt(self._sink.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            # Of any kind: without this thread, the queue would fill, and who may wait would wait for ever.
            if not self._failing:
                said = str(error) if isinstance(error, SinkError) else f"{type(self._sink).__name__}: {error!r}"
                self._on_trouble(f"{said}; the run goes on")
            self._failing = True
        else:
            if self._failing and action == self._sink.flush:
                self._failing = False
                self._on_trouble(f"{type(self._sink).__name__} works again")
