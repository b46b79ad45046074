"""Decides which point is measured next, and when to stop. Pure: the measuring function is a parameter.

Every point either gets all its rounds, or is dropped as soon as it can't win any more. The next round goes to the point that
could still turn out best (best-first branch and bound); the search ends when no point could beat the best one that has all its
rounds. A point's bound follows from exactly three assumptions, and never from the results of its neighbours:

* its rounds so far: two rounds of a point differ by at most a factor of `NOISE`, or by the largest factor seen so far;
* its rate: it never exceeds its limit, and a limit above full speed has no effect;
* the idle machine: no point draws less power.

As long as these hold, the search picks the same point as measuring everything would.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from device.bench.result import RoundFailure
from device.tune.aims import Aim
from device.tune.space import OperatingPoint

NOISE = 1.1
"""Initial bound on the factor between two rounds of one point. If the rounds of any point differ by more, that factor becomes
the bound for all points, and dropped ones are reconsidered."""


class PointMeasurement(NamedTuple):
    """One round of a point.

    Attributes:
        rate_fps: inferences a second.
        power_w: None without a meter.
    """

    rate_fps: float
    power_w: float | None


Measure = Callable[[OperatingPoint], PointMeasurement | RoundFailure]


class Contender:
    """A point and its measurements so far.

    Args:
        index: index of the point in the space.
        point: the point.
        full_speed: the same point at full speed; None if this is it, or if that isn't in the space.
    """

    def __init__(self, index: int, point: OperatingPoint, full_speed: Contender | None) -> None:
        self.index = index
        self.point = point
        self.full_speed = full_speed
        self.measurements: list[PointMeasurement] = []
        self.failure: RoundFailure | None = None

    @property
    def rate_fps(self) -> float:
        """Median rate of the measurements."""
        return statistics.median(one.rate_fps for one in self.measurements)

    @property
    def power_w(self) -> float | None:
        """Median power; None if a measurement has no figure."""
        powers_w = [one.power_w for one in self.measurements]
        known_w = [power_w for power_w in powers_w if power_w is not None]
        return statistics.median(known_w) if known_w and len(known_w) == len(powers_w) else None

    @property
    def spread(self) -> float:
        """Factor between the highest and the lowest measurement, of rate or power."""
        spreads = [1.0]
        for values in zip(*self.measurements, strict=True):
            known = [value for value in values if value]
            if known:
                spreads.append(max(known) / min(known))
        return max(spreads)


class Pick(NamedTuple):
    """A contender with its score and power; while it isn't complete, the best possible values."""

    score: float
    contender: Contender
    power_w: float | None

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key: a higher score wins, then less power, then the earlier point."""
        return self.score, -(self.power_w or 0.0), -self.contender.index


class Search:
    """A running search.

    Args:
        points: the space.
        aim: scores points.
        measure: measures a point once.
        rounds: number of measurements that a point needs to be chosen.
        idle_w: power of the idle machine, by governor; empty if unknown.
        noise: see `NOISE`.
    """

    def __init__(
        self,
        points: Sequence[OperatingPoint],
        aim: Aim,
        measure: Measure,
        *,
        rounds: int,
        idle_w: Mapping[str | None, float],
        noise: float = NOISE,
    ) -> None:
        self._aim = aim
        self._measure = measure
        self._rounds = rounds
        self._idle_w = idle_w
        self._least_noise = noise
        full: dict[tuple[object, str | None], Contender] = {}
        self.contenders: list[Contender] = []
        for index, point in enumerate(points):
            key = point.candidate, point.governor
            contender = Contender(index, point, full.get(key) if point.rate_fps else None)
            if point.rate_fps is None:
                full[key] = contender
            self.contenders.append(contender)

    def run(self) -> Pick | None:
        """Measures as much as necessary.

        Returns:
            The best point; None if no point meets the aim.
        """
        while (contender := self._next()) is not None:
            self._take(contender)
        return self.best()

    def run_exhaustively(self) -> Pick | None:
        """Measures every point in full; `run` must find the same point."""
        for _ in range(self._rounds):
            for contender in self.contenders:
                if contender.failure is None:
                    self._take(contender)
        return self.best()

    def best(self) -> Pick | None:
        """The best of the points that have all their measurements."""
        picks = [
            Pick(score, contender, contender.power_w)
            for contender in self.contenders
            if self.is_done(contender)
            and not self._is_void(contender)
            and (score := self._aim.score(contender.rate_fps, contender.power_w, contender.point.rate_fps)) is not None
        ]
        return max(picks, key=lambda pick: pick.rank, default=None)

    def is_done(self, contender: Contender) -> bool:
        """Whether a point has all its measurements."""
        return contender.failure is None and len(contender.measurements) >= self._rounds

    @property
    def noise(self) -> float:
        """Current bound on the factor between two measurements of one point."""
        return max(self._least_noise, *(contender.spread for contender in self.contenders))

    def find_rivals(self, pick: Pick) -> list[Contender]:
        """The other points whose ranges overlap that of the best one, so that they may be as good."""
        worst = self._aim.score(*_corner(pick.contender, worst=True), pick.contender.point.rate_fps)
        rivals = []
        for contender in self.contenders:
            if (
                contender is pick.contender
                or not contender.measurements
                or contender.failure is not None
                or self._is_void(contender)
            ):
                continue
            best = self._aim.score(*_corner(contender, worst=False), contender.point.rate_fps)
            if best is not None and (worst is None or best >= worst):
                rivals.append(contender)
        return rivals

    def _take(self, contender: Contender) -> None:
        taken = self._measure(contender.point)
        if isinstance(taken, RoundFailure):
            contender.failure = taken
        elif self._aim.needs_power and taken.power_w is None:
            contender.failure = RoundFailure("no_power", "the meter gave no figure")
        else:
            contender.measurements.append(taken)

    def _next(self) -> Contender | None:
        best, noise = self.best(), self.noise
        open_picks = [
            pick
            for contender in self.contenders
            if contender.failure is None
            and not self.is_done(contender)
            and (pick := self._could_be(contender, noise)) is not None
        ]
        first = max(open_picks, key=lambda pick: pick.rank, default=None)
        if first is None or (best is not None and best.rank > first.rank):
            return None
        full_speed = first.contender.full_speed
        if full_speed is not None and full_speed.failure is None and not self.is_done(full_speed):
            return full_speed
        return first.contender

    def _could_be(self, contender: Contender, noise: float) -> Pick | None:
        """The best possible outcome of a point; None if it can't meet the aim."""
        if self._is_void(contender):
            return None
        rate_fps = contender.point.rate_fps or math.inf
        power_w = self._idle_w.get(contender.point.governor, 0.0) / noise
        if contender.measurements:
            rate_fps = min(rate_fps, min(one.rate_fps for one in contender.measurements) * noise)
            power_w = max(power_w, max(one.power_w or 0.0 for one in contender.measurements) / noise)
        score = self._aim.score(rate_fps, power_w, contender.point.rate_fps)
        return None if score is None else Pick(score, contender, power_w)

    def _is_void(self, contender: Contender) -> bool:
        """Whether a point's rate limit has no effect, because full speed is no faster or failed."""
        full_speed = contender.full_speed
        if contender.point.rate_fps is None or full_speed is None:
            return False
        if full_speed.failure is not None:
            return True
        return self.is_done(full_speed) and contender.point.rate_fps >= full_speed.rate_fps


def _corner(contender: Contender, *, worst: bool) -> tuple[float, float | None]:
    """The worst or best combination of rate and power within the ranges of the measurements."""
    rates_fps = [one.rate_fps for one in contender.measurements]
    powers_w = [one.power_w for one in contender.measurements if one.power_w is not None]
    power_w = None if contender.power_w is None else max(powers_w) if worst else min(powers_w)
    return min(rates_fps) if worst else max(rates_fps), power_w


def find_front(contenders: Sequence[Contender]) -> list[Contender]:
    """Finds the Pareto front: the points that no other point beats in rate or power without being worse in the other.

    Points without a power figure are left out, unless no point has one; then only the fastest form the front.
    """
    measured = [contender for contender in contenders if contender.measurements and contender.failure is None]
    powered = [contender for contender in measured if contender.power_w is not None]
    if not powered:
        fastest = max((contender.rate_fps for contender in measured), default=0.0)
        return [contender for contender in measured if contender.rate_fps == fastest]
    return [contender for contender in powered if not any(_dominates(other, contender) for other in powered)]


def _dominates(one: Contender, other: Contender) -> bool:
    one_w, other_w = one.power_w or 0.0, other.power_w or 0.0
    is_no_worse = one.rate_fps >= other.rate_fps and one_w <= other_w
    return is_no_worse and (one.rate_fps > other.rate_fps or one_w < other_w)
