"""Progress of a conversion: a bar a stage with the time left on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

USUAL_DURATION_S = {
    "load": 5.0,
    "export executorch": 60.0,
    "export litert": 60.0,
    "sensitivity": 30.0,
    "verify": 10.0,
    "latency": 3.0,
    "write": 2.0,
}
"""What a stage takes on two cores, until this machine has shown what it takes here."""

_TICK_S = 0.2


class StageProgress:
    """Shows stages as they go. Safe to be told from any thread.

    Lowering says nothing of how far it is, so that a bar follows the time that the stage took last time on this machine.

    Args:
        memory: file that remembers durations.
        console: where to show; stderr, so that stdout stays for results.
    """

    def __init__(self, memory: Path, console: Console | None = None) -> None:
        self._memory = memory
        self._console = console or Console(file=sys.stderr)
        self._usual_s = USUAL_DURATION_S | self._remembered()
        columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._lock = threading.Lock()
        self._running: dict[str, tuple[TaskID, float]] = {}
        self._took_s: dict[str, float] = {}
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._bars.start()
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._ticker.join()
        self._bars.stop()
        if kind is None:
            self._remember()

    def tell(self, stage: str, event: str) -> None:
        """Takes an event: ``start``, ``done``, ``failed`` or ``cached``."""
        with self._lock:
            if event == "start":
                bar = self._bars.add_task(stage, total=self._usual_s.get(stage, 10.0))
                self._running[stage] = (bar, time.monotonic())
                return
            if event == "cached":
                self._console.print(f"{stage:<20} unchanged", highlight=False)
                return
            bar, started_s = self._running.pop(stage)
            self._bars.remove_task(bar)
            took_s = time.monotonic() - started_s
            self._took_s[stage] = took_s
            self._console.print(f"{stage:<20} {took_s:6.1f} s{'' if event == 'done' else '  ' + event}", highlight=False)

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_S):
            with self._lock:
                for bar, started_s in self._running.values():
                    task = next(task for task in self._bars.tasks if task.id == bar)
                    # Never full before the stage is: a bar that stands at its end says less than one that is nearly there.
                    self._bars.update(bar, completed=min(time.monotonic() - started_s, 0.97 * (task.total or 1.0)))

    def _remembered(self) -> dict[str, float]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.DecodeError):
            return {}

    def _remember(self) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._memory.with_suffix(".partial")
        scratch.write_bytes(msgspec.json.encode(self._usual_s | self._took_s))
        scratch.replace(self._memory)
