"""A stretch of inferences: how long each took, and what a meter saw meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from device.bench.plan import LEAST_INFERENCES
from device.bench.result import Quantiles, Window, WindowPower
from device.protocols import Clock, Image, MeterTotal, PowerFigure, Session

LEAST_COVERED_SHARE = 0.9
"""A meter that saw less of a window says nothing of it."""

LEAST_FOR_P99 = 100

LOOK_INTERVAL_S = 1.0
"""Between looks at the machine's conditions, which take some 0.1 ms each: never within an inference that is timed."""


class Sampler(Protocol):
    """What is needed of `device.meters.PowerSampler`."""

    @property
    def overhead_cpu_s(self) -> float:
        """Processor time of the sampling."""

    def take(self) -> PowerFigure | None:
        """The headline meter's figure since the last call."""

    def error(self) -> str | None:
        """Why the headline meter gives nothing now."""

    def figures(self) -> tuple[MeterTotal, ...]:
        """What every meter has given, the headline's first."""


def warm_up(session: Session, images: Sequence[Image], clock: Clock, duration_s: float, rate_fps: float | None = None) -> None:
    """Runs without measuring, at least once an image, at the rate that will be measured."""
    for _ in _run_repeatedly(session, images, clock, duration_s, rate_fps, least=len(images)):
        pass


def _run_repeatedly(
    session: Session, images: Sequence[Image], clock: Clock, duration_s: float, rate_fps: float | None, least: int
) -> Iterator[int]:
    """Runs inferences for so long, and at least ``least``; gives each one's duration in nanoseconds before it pauses."""
    period_ns = 0 if rate_fps is None else round(1e9 / rate_fps)
    started_ns = due_ns = clock.now_ns()
    count = 0
    while count < least or clock.now_ns() - started_ns < duration_s * 1e9:
        image = images[count % len(images)]
        run_ns = clock.now_ns()
        session.run(image)
        count += 1
        yield clock.now_ns() - run_ns
        # A late inference isn't made up for: the next one waits its full turn.
        due_ns = max(due_ns + period_ns, clock.now_ns())
        clock.sleep((due_ns - clock.now_ns()) / 1e9)


def measure_window(
    session: Session,
    images: Sequence[Image],
    clock: Clock,
    duration_s: float,
    *,
    look: Callable[[], None],
    sampler: Sampler | None = None,
    rate_fps: float | None = None,
) -> Window:
    """Runs inferences for a while, and at least `LEAST_INFERENCES`.

    Args:
        session: warm.
        images: ``(1, S, S, 3)`` uint8 each, taken in turn.
        clock: times everything.
        duration_s: at least.
        look: called now and then, between inferences.
        sampler: of the meter, running; None where power isn't wanted.
        rate_fps: inferences a second, at most; None for as many as can be. At a lower rate the window ends with a pause, so
            that every inference has its whole share of waiting.
    """
    taken_ns: list[int] = []
    before = _start_power(sampler)
    started_ns = looked_ns = clock.now_ns()
    for duration_ns in _run_repeatedly(session, images, clock, duration_s, rate_fps, LEAST_INFERENCES):
        taken_ns.append(duration_ns)
        if clock.now_ns() - looked_ns >= LOOK_INTERVAL_S * 1e9:
            looked_ns = clock.now_ns()
            look()
    elapsed_s = (clock.now_ns() - started_ns) / 1e9
    power, reason = _end_power(sampler, before, elapsed_s)
    return Window(
        duration_s=elapsed_s,
        inferences=len(taken_ns),
        rate_fps=len(taken_ns) / elapsed_s,
        latency_s=find_quantiles([taken / 1e9 for taken in taken_ns]),
        power=power,
        power_missing_reason=reason,
    )


def find_quantiles(durations_s: Sequence[float]) -> Quantiles:
    """Percentiles by nearest rank."""
    ordered = sorted(durations_s)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    p99_s = at(0.99) if len(ordered) >= LEAST_FOR_P99 else None
    return Quantiles(at(0.5), at(0.9), p99_s, tuple(at(step / 10) for step in range(11)))


class _Before:
    """The sampler's counts at a window's start."""

    def __init__(self, sampler: Sampler) -> None:
        self.samples = sampler.figures()[0].samples
        self.cpu_s = sampler.overhead_cpu_s


def _start_power(sampler: Sampler | None) -> _Before | None:
    if sampler is None:
        return None
    sampler.take()  # what was before the window
    return _Before(sampler)


def _end_power(sampler: Sampler | None, before: _Before | None, elapsed_s: float) -> tuple[WindowPower | None, str | None]:
    if sampler is None or before is None:
        return None, None
    figure = sampler.take()
    covered_s = figure.covered_s if figure else 0.0
    if figure is None or covered_s < LEAST_COVERED_SHARE * elapsed_s:
        source = sampler.figures()[0].source
        error = sampler.error()
        return None, f"{source} covered {covered_s:.1f} of {elapsed_s:.1f} s" + (f" ({error})" if error else "")
    total = sampler.figures()[0]
    return (
        WindowPower(
            power_w=figure.power_w,
            covered_s=covered_s,
            samples=total.samples - before.samples,
            sampler_cpu_s=max(0.0, sampler.overhead_cpu_s - before.cpu_s),
            source=figure.source,
            scope=figure.scope,
            is_estimate=figure.is_estimate,
            resolution_w=total.resolution_w,
        ),
        None,
    )


def measure_idle_power(
    sampler: Sampler, clock: Clock, duration_s: float, look: Callable[[], None]
) -> tuple[float, WindowPower | None, str | None]:
    """Waits, and says what the machine drew meanwhile.

    Returns:
        How long it was, the figure, and where there is none, the reason.
    """
    before = _start_power(sampler)
    started_ns = clock.now_ns()
    while (left_s := duration_s - (clock.now_ns() - started_ns) / 1e9) > 0:
        clock.sleep(min(LOOK_INTERVAL_S, left_s))
        look()
    elapsed_s = (clock.now_ns() - started_ns) / 1e9
    return elapsed_s, *_end_power(sampler, before, elapsed_s)
