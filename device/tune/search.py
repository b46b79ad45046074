"""Which point is measured next, and when that is enough. Pure: what measures is a parameter.

Every point gets all its rounds in the end, or is left alone as soon as it can't win any more. The next round goes to the point
that could still turn out best (best first, branch and bound); the search ends when none could beat the best point that has all
its rounds. What a point could still be follows from three things, and from nothing else, least of all from how its neighbours
did:

* its rounds so far: no two rounds of a point differ by more than a factor of `NOISE`, or of what rounds were seen to differ by;
* its rate: it does no more inferences a second than it is allowed, and a limit above full speed is none;
* the idle machine: nothing draws less.

As long as these hold, the pick is that of measuring everything.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from device.bench.result import Failure
from device.tune.aims import Aim
from device.tune.space import Point

NOISE = 1.1
"""Factor between two rounds of one point that the search counts on to begin with. Where a point's rounds differ by more, it
counts on that for all of them, and goes back to those that it had given up."""


class Sample(NamedTuple):
    """One measurement of a point.

    Attributes:
        rate_fps: inferences a second.
        power_w: None where there is no meter.
    """

    rate_fps: float
    power_w: float | None


Measure = Callable[[Point], Sample | Failure]


class Trial:
    """What is known of a point.

    Args:
        index: of the point in the space.
        point: the point.
        full_speed: the trial of the same at full speed; None where this is it, or where that isn't in the space.
    """

    def __init__(self, index: int, point: Point, full_speed: Trial | None) -> None:
        self.index = index
        self.point = point
        self.full_speed = full_speed
        self.samples: list[Sample] = []
        self.failure: Failure | None = None

    @property
    def rate_fps(self) -> float:
        """Median."""
        return statistics.median(sample.rate_fps for sample in self.samples)

    @property
    def power_w(self) -> float | None:
        """Median; None where a round has no figure."""
        powers_w = [sample.power_w for sample in self.samples]
        known_w = [power_w for power_w in powers_w if power_w is not None]
        return statistics.median(known_w) if known_w and len(known_w) == len(powers_w) else None

    @property
    def spread(self) -> float:
        """Factor between the greatest and the least round, of rate or power."""
        spreads = [1.0]
        for values in zip(*self.samples, strict=True):
            known = [value for value in values if value]
            if known:
                spreads.append(max(known) / min(known))
        return max(spreads)


class Pick(NamedTuple):
    """A trial, its score and its power; of one that isn't done, the best that these can still be."""

    score: float
    trial: Trial
    power_w: float | None

    @property
    def rank(self) -> tuple[float, float, int]:
        """To compare by: the better score, then the less power, then the earlier point."""
        return self.score, -(self.power_w or 0.0), -self.trial.index


class Search:
    """A search under way.

    Args:
        points: the space.
        aim: what is better.
        measure: measures a point once.
        rounds: measurements of a point that is to be chosen.
        idle_w: power with nothing to do, by governor; empty where it isn't known.
        noise: see `NOISE`.
    """

    def __init__(
        self,
        points: Sequence[Point],
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
        full: dict[tuple[object, str | None], Trial] = {}
        self.trials: list[Trial] = []
        for index, point in enumerate(points):
            key = point.candidate, point.governor
            trial = Trial(index, point, full.get(key) if point.rate_fps else None)
            if point.rate_fps is None:
                full[key] = trial
            self.trials.append(trial)

    def run(self) -> Pick | None:
        """Measures as much as it takes.

        Returns:
            The best point; None where none is what was asked for.
        """
        while (trial := self._next()) is not None:
            self._take(trial)
        return self.best()

    def run_exhaustively(self) -> Pick | None:
        """Measures everything: what `run` must agree with."""
        for _ in range(self._rounds):
            for trial in self.trials:
                if trial.failure is None:
                    self._take(trial)
        return self.best()

    def best(self) -> Pick | None:
        """The best of the points that have all their measurements."""
        picks = [
            Pick(score, trial, trial.power_w)
            for trial in self.trials
            if self.is_done(trial)
            and not self._is_void(trial)
            and (score := self._aim.score(trial.rate_fps, trial.power_w, trial.point.rate_fps)) is not None
        ]
        return max(picks, key=lambda pick: pick.rank, default=None)

    def is_done(self, trial: Trial) -> bool:
        """Whether a point has all its measurements."""
        return trial.failure is None and len(trial.samples) >= self._rounds

    @property
    def noise(self) -> float:
        """Factor between two rounds of one point that the search counts on now."""
        return max(self._least_noise, *(trial.spread for trial in self.trials))

    def find_rivals(self, pick: Pick) -> list[Trial]:
        """The other points that the rounds' ranges don't tell apart from the best one."""
        worst = self._aim.score(*_corner(pick.trial, worst=True), pick.trial.point.rate_fps)
        rivals = []
        for trial in self.trials:
            if trial is pick.trial or not trial.samples or trial.failure is not None or self._is_void(trial):
                continue
            best = self._aim.score(*_corner(trial, worst=False), trial.point.rate_fps)
            if best is not None and (worst is None or best >= worst):
                rivals.append(trial)
        return rivals

    def _take(self, trial: Trial) -> None:
        taken = self._measure(trial.point)
        if isinstance(taken, Failure):
            trial.failure = taken
        elif self._aim.needs_power and taken.power_w is None:
            trial.failure = Failure("no_power", "the meter gave no figure")
        else:
            trial.samples.append(taken)

    def _next(self) -> Trial | None:
        best, noise = self.best(), self.noise
        open_picks = [
            pick
            for trial in self.trials
            if trial.failure is None and not self.is_done(trial) and (pick := self._could_be(trial, noise)) is not None
        ]
        first = max(open_picks, key=lambda pick: pick.rank, default=None)
        if first is None or (best is not None and best.rank > first.rank):
            return None
        full_speed = first.trial.full_speed
        if full_speed is not None and full_speed.failure is None and not self.is_done(full_speed):
            return full_speed
        return first.trial

    def _could_be(self, trial: Trial, noise: float) -> Pick | None:
        """The best that a point can still end as."""
        if self._is_void(trial):
            return None
        rate_fps = trial.point.rate_fps or math.inf
        power_w = self._idle_w.get(trial.point.governor, 0.0) / noise
        if trial.samples:
            rate_fps = min(rate_fps, min(sample.rate_fps for sample in trial.samples) * noise)
            power_w = max(power_w, max(sample.power_w or 0.0 for sample in trial.samples) / noise)
        score = self._aim.score(rate_fps, power_w, trial.point.rate_fps)
        return None if score is None else Pick(score, trial, power_w)

    def _is_void(self, trial: Trial) -> bool:
        """Whether a rate limits nothing, being full speed or more: that is full speed again. So where full speed failed."""
        full_speed = trial.full_speed
        if trial.point.rate_fps is None or full_speed is None:
            return False
        if full_speed.failure is not None:
            return True
        return self.is_done(full_speed) and trial.point.rate_fps >= full_speed.rate_fps


def _corner(trial: Trial, *, worst: bool) -> tuple[float, float | None]:
    """Rate and power at the worst, or the best, that the rounds allow."""
    rates_fps = [sample.rate_fps for sample in trial.samples]
    powers_w = [sample.power_w for sample in trial.samples if sample.power_w is not None]
    power_w = None if trial.power_w is None else max(powers_w) if worst else min(powers_w)
    return min(rates_fps) if worst else max(rates_fps), power_w


def find_front(trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front: the points of which none other is at least as fast at no more power, and better in one of them.

    Points without a figure of power are compared by speed alone, and then only where no point has one.
    """
    measured = [trial for trial in trials if trial.samples and trial.failure is None]
    powered = [trial for trial in measured if trial.power_w is not None]
    if not powered:
        fastest = max((trial.rate_fps for trial in measured), default=0.0)
        return [trial for trial in measured if trial.rate_fps == fastest]
    return [trial for trial in powered if not any(_dominates(other, trial) for other in powered)]


def _dominates(one: Trial, other: Trial) -> bool:
    one_w, other_w = one.power_w or 0.0, other.power_w or 0.0
    is_no_worse = one.rate_fps >= other.rate_fps and one_w <= other_w
    return is_no_worse and (one.rate_fps > other.rate_fps or one_w < other_w)
