"""Progress of the exports: how many are done, which are under way, and how long the rest will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Bar
from rich.text import Text

Tell = Callable[[str, str], None]
"""Told of an export: its title, and ``start``, ``done``, ``failed`` or ``cached``."""

USUAL_DURATION_S = 45.0
"""Of an export on two cores, until this machine has shown what it takes here."""


class Forecast:
    """Estimates the time left from what was done so far.

    Args:
        count: exports in all.
        at_a_time: how many run at once.
        clock: monotonic seconds.
    """

    def __init__(self, count: int, at_a_time: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._at_a_time = at_a_time
        self._clock = clock
        self._started_s: dict[str, float] = {}
        self._took_s: list[float] = []
        self.finished = 0

    def start(self, title: str) -> None:
        """An export begins."""
        self._started_s[title] = self._clock()

    def finish(self, title: str) -> float | None:
        """An export ends, or needs none. Gives what it took; None where it needed none."""
        self.finished += 1
        started_s = self._started_s.pop(title, None)
        if started_s is None:
            return None
        self._took_s.append(self._clock() - started_s)
        return self._took_s[-1]

    @property
    def running(self) -> tuple[str, ...]:
        """Titles of what is under way."""
        return tuple(self._started_s)

    def left_s(self) -> float:
        """How long the rest will take, if it takes what the others took."""
        usual_s = sum(self._took_s) / len(self._took_s) if self._took_s else USUAL_DURATION_S
        now_s = self._clock()
        begun_s = sum(max(usual_s - (now_s - started_s), 0.0) for started_s in self._started_s.values())
        waiting = self._count - self.finished - len(self._started_s)
        return (begun_s + waiting * usual_s) / min(self._at_a_time, max(self._count - self.finished, 1))


class ExportProgress:
    """Shows the exports: one bar on a terminal, a line an export elsewhere.

    Args:
        count: exports in all.
        at_a_time: how many run at once.
        console: where to show; stderr, so that stdout stays for results.
    """

    def __init__(self, count: int, at_a_time: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._forecast = Forecast(count, at_a_time)
        self._count = count
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(self._forecast),
        )
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._bar = self._bars.add_task("exports", total=count)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def tell(self, title: str, event: str) -> None:
        """Takes an event; see `Tell`."""
        if event == "start":
            self._forecast.start(title)
        else:
            took_s = self._forecast.finish(title)
            words = "unchanged" if took_s is None else f"{took_s:6.1f} s{'' if event == 'done' else '  ' + event}"
            left = f", about {format_duration(self._forecast.left_s())} left" if took_s is not None else ""
            self._console.print(
                f"{self._forecast.finished:>2} of {self._count}  {title:<36} {words}{left}", highlight=False, soft_wrap=True
            )
        self._bars.update(
            self._bar, completed=self._forecast.finished, description=", ".join(self._forecast.running) or "exports"
        )


class _TimeLeft(ProgressColumn):
    def __init__(self, forecast: Forecast) -> None:
        super().__init__()
        self._forecast = forecast

    def render(self, task: Bar) -> Text:  # noqa: ARG002  # rich's interface
        return Text(f"about {format_duration(self._forecast.left_s())} left")


def format_duration(duration_s: float) -> str:
    """``45 s`` or ``9 min``."""
    return f"{duration_s:.0f} s" if duration_s < 90 else f"{duration_s / 60:.0f} min"
