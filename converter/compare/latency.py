"""Fair latency of many networks on one machine.

The speed of a machine changes: other programs, heat, a hypervisor. So the networks take turns: in every round each runs a few
inferences, in a new random order, and networks are compared within a round.
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
"""Inferences of a turn that don't count: the network before has filled the caches with its weights."""

Key = TypeVar("Key")


class Runnable(Protocol):
    """The part of a `device.protocols.Session` that is timed."""

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
        sessions: open sessions to time.
        pixels: ``(1, S, S, 3)`` uint8.
        runs: inferences of a turn that count.
        seed: of the orders.
        clock_ns: monotonic clock.

    Yields:
        For each session, the median of its inferences in this round, in seconds.
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
    """Summarises the rounds of one network.

    Args:
        rounds_s: latency in each round.
        reference_rounds_s: latency of the reference in the same rounds; None without a reference.
    """
    return Timing(
        latency_s=spread(rounds_s),
        ratio=None if reference_rounds_s is None else ratio_spread(rounds_s, reference_rounds_s),
        rounds_s=tuple(round(value, 7) for value in rounds_s),
    )


def ratio_spread(rounds_s: Sequence[float], reference_rounds_s: Sequence[float]) -> RoundPercentiles:
    """Computes percentiles of the ratio in each round: if the machine slows down, it slows both."""
    return spread([one / other for one, other in zip(rounds_s, reference_rounds_s, strict=True)])


def spread(values: Sequence[float]) -> RoundPercentiles:
    """Computes percentiles, with linear interpolation."""
    p10, p50, p90 = (float(value) for value in np.percentile(np.asarray(values), (10, 50, 90)))
    return RoundPercentiles(p10, p50, p90)
