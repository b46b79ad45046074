"""Latency of many networks on one machine, so that none has an advantage.

A machine slows down and speeds up by itself: other programs, heat, a hypervisor. So the networks take turns: in every round
each runs a few inferences, in an order that is drawn anew, and networks are compared within a round.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from converter.compare.records import RoundPercentiles, Timing
from device.protocols import Array, Image

WARM_UP = 3
"""Inferences of a turn before those that count: the network before has filled the caches with its own weights."""

Key = TypeVar("Key")


class Runnable(Protocol):
    """What of a `device.protocols.Session` is timed."""

    def run(self, pixels: Image) -> Array:
        """Runs the network once."""


def measure_rounds(
    sessions: Mapping[Key, Runnable],
    pixels: Image,
    *,
    runs: int,
    seed: int = 0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Iterator[dict[Key, float]]:
    """Measures round after round, without end.

    Args:
        sessions: open; what to time.
        pixels: ``(1, S, S, 3)`` uint8.
        runs: inferences of a turn that count.
        seed: of the orders.
        clock_ns: monotonic.

    Yields:
        For every session, the median of its turn's inferences, in seconds.
    """
    order = list(sessions)
    shuffler = random.Random(seed)
    while True:
        shuffler.shuffle(order)
        yield {key: _take_turn(sessions[key], pixels, runs, clock_ns) for key in order}


def _take_turn(session: Runnable, pixels: Image, runs: int, clock_ns: Callable[[], int]) -> float:
    for _ in range(WARM_UP):
        session.run(pixels)
    durations_ns = []
    for _ in range(runs):
        started_ns = clock_ns()
        session.run(pixels)
        durations_ns.append(clock_ns() - started_ns)
    return statistics.median(durations_ns) / 1e9


def summarise(rounds_s: Sequence[float], reference_rounds_s: Sequence[float] | None) -> Timing:
    """Sums the rounds of one network up.

    Args:
        rounds_s: in order.
        reference_rounds_s: of the same rounds; None without a reference.
    """
    return Timing(
        latency_s=spread(rounds_s),
        ratio=None if reference_rounds_s is None else ratio_spread(rounds_s, reference_rounds_s),
        rounds_s=tuple(round(value, 7) for value in rounds_s),
    )


def ratio_spread(rounds_s: Sequence[float], reference_rounds_s: Sequence[float]) -> RoundPercentiles:
    """Percentiles of the ratio, round by round, so that a machine that slows down slows both."""
    return spread([one / other for one, other in zip(rounds_s, reference_rounds_s, strict=True)])


def spread(values: Sequence[float]) -> RoundPercentiles:
    """Percentiles, interpolated linearly."""
    p10, p50, p90 = (float(value) for value in np.percentile(np.asarray(values), (10, 50, 90)))
    return RoundPercentiles(p10, p50, p90)
