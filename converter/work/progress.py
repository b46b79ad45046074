"""Progress of long work: a bar for each running task on a terminal, with the time left; a line for each task elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from device.core.durable import write_durably

TaskEvent = Literal["start", "done", "failed", "cached"]

ProgressCallback = Callable[[str, TaskEvent], None]
"""Called with a task's title and what happened to it."""

_TICK_S = 0.2


class Forecast:
    """Estimates durations from what tasks took before, in this run or in an earlier one.

    Args:
        planned: titles of all tasks, if they are known beforehand.
        at_a_time: how many run at once.
        remembered_s: title -> what the task took in an earlier run.
        usual_s: of a task about which nothing else is known.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        planned: Sequence[str],
        at_a_time: int,
        remembered_s: dict[str, float],
        usual_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planned = len(planned)
        self.finished = 0
        self.took_s: dict[str, float] = {}
        self._waiting = dict.fromkeys(planned)
        self._started_s: dict[str, float] = {}
        self._at_a_time = at_a_time
        self._remembered_s = remembered_s
        self._usual_s = usual_s
        self._clock = clock

    def start(self, title: str) -> None:
        """A task begins."""
        self._waiting.pop(title, None)
        self._started_s[title] = self._clock()

    def finish(self, title: str) -> float | None:
        """A task ends. Gives what it took, in seconds; None if it was never started, since its result was there."""
        self._waiting.pop(title, None)
        self.finished += 1
        started_s = self._started_s.pop(title, None)
        if started_s is None:
            return None
        self.took_s[title] = self._clock() - started_s
        return self.took_s[title]

    def elapsed_s(self, title: str) -> float:
        """How long a running task has run."""
        return self._clock() - self._started_s[title]

    def expect_s(self, title: str) -> float:
        """How long a task takes: as long as it took before, else the mean of the others in this run."""
        if title in self._remembered_s:
            return self._remembered_s[title]
        return sum(self.took_s.values()) / len(self.took_s) if self.took_s else self._usual_s

    def left_s(self) -> float:
        """How long all planned tasks that aren't finished will take."""
        running_s = sum(max(self.expect_s(title) - self.elapsed_s(title), 0.0) for title in self._started_s)
        waiting_s = sum(self.expect_s(title) for title in self._waiting)
        unfinished = len(self._started_s) + len(self._waiting)
        return (running_s + waiting_s) / min(self._at_a_time, max(unfinished, 1))


class TaskProgress:
    """Shows tasks as they go. `report` may be called from any thread.

    Most tasks don't say how far they are, so a bar follows the time that the task took before on this machine.

    Args:
        memory: file that remembers durations.
        planned: titles of all tasks, if they are known beforehand: each line then says how many are done and what time is left.
        at_a_time: how many run at once.
        usual_s: duration of a task about which nothing is known.
        console: where to show; stderr by default, so that stdout stays for results.
    """

    def __init__(
        self,
        memory: Path,
        planned: Sequence[str] = (),
        *,
        at_a_time: int = 1,
        usual_s: float = 30.0,
        console: Console | None = None,
    ) -> None:
        self._memory = memory
        self._console = console or Console(file=sys.stderr)
        self._remembered_s = self._read_memory()
        self._forecast = Forecast(planned, at_a_time, self._remembered_s, usual_s)
        self._width = max(20, *(len(title) for title in planned)) if planned else 20
        columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._running: dict[str, TaskID] = {}
        self._lock = threading.Lock()
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
        if kind is None and self._forecast.took_s:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._memory, msgspec.json.encode(self._remembered_s | self._forecast.took_s))

    def report(self, title: str, event: TaskEvent) -> None:
        """Takes an event; a `ProgressCallback`."""
        with self._lock:
            if event == "start":
                self._running[title] = self._bars.add_task(title, total=self._forecast.expect_s(title))
                self._forecast.start(title)
                return
            if title in self._running:
                self._bars.remove_task(self._running.pop(title))
            self._print(title, event, self._forecast.finish(title))

    def _print(self, title: str, event: TaskEvent, took_s: float | None) -> None:
        words = "unchanged" if took_s is None else f"{took_s:6.1f} s{'' if event == 'done' else '  ' + event}"
        line = f"{title:<{self._width}} {words}"
        if self._forecast.planned:
            line = f"{self._forecast.finished:>2} of {self._forecast.planned}  {line}"
            if took_s is not None:
                line += f", about {_format_duration(self._forecast.left_s())} left"
        self._console.print(line, highlight=False, soft_wrap=True)

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_S):
            with self._lock:
                for title, bar in self._running.items():
                    # Never full before the task is done.
                    most_s = 0.97 * self._forecast.expect_s(title)
                    self._bars.update(bar, completed=min(self._forecast.elapsed_s(title), most_s))

    def _read_memory(self) -> dict[str, float]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.DecodeError):
            return {}


def _format_duration(duration_s: float) -> str:
    """``45 s`` or ``9 min``."""
    return f"{duration_s:.0f} s" if duration_s < 90 else f"{duration_s / 60:.0f} min"
