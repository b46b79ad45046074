"""A window of consecutive inferences: how long each took, and what a meter read meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from device.bench.plan import LEAST_INFERENCES
from device.bench.result import InferenceWindow, Quantiles, WindowPower
from device.protocols import Clock, Image, MeterTotal, PowerFigure, Session

LEAST_COVERED_SHARE = 0.9
"""Share of a window that a meter must cover for its figure to count."""

LEAST_FOR_P99 = 100

OBSERVE_INTERVAL_S = 1.0
"""Interval at which the machine's conditions are observed, which takes about 0.1 ms; never during a timed inference."""


class Sampler(Protocol):
    """The part of `device.meters.PowerSampler` that is used here."""

    @property
    def overhead_cpu_s(self) -> float:
        """Processor time that the sampling has taken."""

    def take(self) -> PowerFigure | None:
        """The headline meter's figure since the last call."""

    def error(self) -> str | None:
        """Why the headline meter gives no figure now; None if it does."""

    def figures(self) -> tuple[MeterTotal, ...]:
        """Totals of every meter, the headline meter's first."""


def warm_up(session: Session, images: Sequence[Image], clock: Clock, duration_s: float, rate_fps: float | None = None) -> None:
    """Runs inferences without measuring, at least once per image, at the rate that will be measured."""
    for _ in _run_repeatedly(session, images, clock, duration_s, rate_fps, least=len(images)):
        pass


def _run_repeatedly(
    session: Session, images: Sequence[Image], clock: Clock, duration_s: float, rate_fps: float | None, least: int
) -> Iterator[int]:
    """Runs inferences for ``duration_s``, and at least ``least``; yields each one's duration in nanoseconds, then pauses."""
    period_ns = 0 if rate_fps is None else round(1e9 / rate_fps)
    started_ns = due_ns = clock.now_ns()
    count = 0
    while count < least or clock.now_ns() - started_ns < duration_s * 1e9:
        image = images[count % len(images)]
        run_ns = clock.now_ns()
        session.run(image)
        count += 1
        yield clock.now_ns() - run_ns
        # A late inference isn't made up for: the next one waits a full period.
        due_ns = max(due_ns + period_ns, clock.now_ns())
        clock.sleep((due_ns - clock.now_ns()) / 1e9)


def measure_window(
    session: Session,
    images: Sequence[Image],
    clock: Clock,
    duration_s: float,
    *,
    observe: Callable[[], None],
    sampler: Sampler | None = None,
    rate_fps: float | None = None,
) -> InferenceWindow:
    """Measures a window of at least `LEAST_INFERENCES` inferences.

    Args:
        session: warmed up.
        images: ``(1, S, S, 3)`` uint8 each, used in turn.
        clock: for all timing.
        duration_s: minimum length of the window.
        observe: called about once a second, between inferences.
        sampler: the running power sampler; None if power isn't measured.
        rate_fps: maximum inferences a second; None for full speed. At a limited rate the window ends with a pause, to give
            every inference its full share of waiting.
    """
    taken_ns: list[int] = []
    before = _start_power(sampler)
    started_ns = looked_ns = clock.now_ns()
    for duration_ns in _run_repeatedly(session, images, clock, duration_s, rate_fps, LEAST_INFERENCES):
        taken_ns.append(duration_ns)
        if clock.now_ns() - looked_ns >= OBSERVE_INTERVAL_S * 1e9:
            looked_ns = clock.now_ns()
            observe()
    elapsed_s = (clock.now_ns() - started_ns) / 1e9
    power, reason = _end_power(sampler, before, elapsed_s)
    return InferenceWindow(
        duration_s=elapsed_s,
        inferences=len(taken_ns),
        rate_fps=len(taken_ns) / elapsed_s,
        latency_s=find_quantiles([taken / 1e9 for taken in taken_ns]),
        power=power,
        power_missing_reason=reason,
    )


def find_quantiles(durations_s: Sequence[float]) -> Quantiles:
    """Computes percentiles by nearest rank."""
    ordered = sorted(durations_s)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    p99_s = at(0.99) if len(ordered) >= LEAST_FOR_P99 else None
    return Quantiles(at(0.5), at(0.9), p99_s, tuple(at(step / 10) for step in range(11)))


class _SamplerStart:
    """The sampler's counters at the start of a window."""

    def __init__(self, sampler: Sampler) -> None:
        self.samples = sampler.figures()[0].samples
        self.cpu_s = sampler.overhead_cpu_s


def _start_power(sampler: Sampler | None) -> _SamplerStart | None:
    if sampler is None:
        return None
    sampler.take()  # discards what was before the window
    return _SamplerStart(sampler)


def _end_power(
    sampler: Sampler | None, before: _SamplerStart | None, elapsed_s: float
) -> tuple[WindowPower | None, str | None]:
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
    sampler: Sampler, clock: Clock, duration_s: float, observe: Callable[[], None]
) -> tuple[float, WindowPower | None, str | None]:
    """Waits, and measures the machine's power meanwhile.

    Returns:
        The duration in seconds, the figure, and the reason if there is none.
    """
    before = _start_power(sampler)
    started_ns = clock.now_ns()
    while (left_s := duration_s - (clock.now_ns() - started_ns) / 1e9) > 0:
        clock.sleep(min(OBSERVE_INTERVAL_S, left_s))
        observe()
    elapsed_s = (clock.now_ns() - started_ns) / 1e9
    return elapsed_s, *_end_power(sampler, before, elapsed_s)
