"""The search picks what measuring everything would pick, on any board, and stops early where it may."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.bench.result import RoundFailure
from device.bench.runner import Candidate
from device.tune.aims import Aim, LeastEnergy, LeastPowerAtRate, MostFrames, MostFramesWithinPower
from device.tune.search import NOISE, Measure, Pick, PointMeasurement, Search, find_front
from device.tune.space import OperatingPoint, build_space, describe_point
from tests.unit.boards import make_choice

ROUNDS = 3
CAMERA_FPS = 12.0


class Speed(NamedTuple):
    """Of a choice: inferences a second, and what one costs above idle."""

    full_fps: float
    energy_j: float


class Board:
    """A board without a clock: what a point gives, in its n-th round; the same to whoever asks, in whatever order.

    ``noise`` is drawn for each point and round.
    """

    def __init__(
        self,
        speeds: dict[Candidate, Speed],
        idle_w: float,
        noise: Callable[[], float] = lambda: 1.0,
        fails: frozenset[Candidate] = frozenset(),
    ) -> None:
        self.speeds = speeds
        self.idle_w = idle_w
        self.noise = noise
        self.fails = fails
        self._given: dict[tuple[OperatingPoint, int], PointMeasurement] = {}

    def __repr__(self) -> str:
        speeds = {f"{one.choice.runtime} {one.choice.threads}": tuple(speed) for one, speed in self.speeds.items()}
        return f"Board({speeds}, idle {self.idle_w}, {len(self.fails)} fail)"

    def make_measure(self, asked: list[OperatingPoint]) -> Measure:
        """What measures, and writes down what it was asked for."""
        counts: dict[OperatingPoint, int] = {}

        def measure(point: OperatingPoint) -> PointMeasurement | RoundFailure:
            asked.append(point)
            if point.candidate in self.fails:
                return RoundFailure("crashed", "as it does")
            number = counts[point] = counts.get(point, 0) + 1
            if (point, number) not in self._given:
                self._given[point, number] = self.sample(point)
            return self._given[point, number]

        return measure

    def sample(self, point: OperatingPoint) -> PointMeasurement:
        """One round's figures."""
        speed = self.speeds[point.candidate]
        rate_fps = min(speed.full_fps, point.rate_fps or math.inf)
        power_w = self.idle_w + rate_fps * speed.energy_j
        return PointMeasurement(min(rate_fps * self.noise(), point.rate_fps or math.inf), power_w * self.noise())


def candidates(count: int) -> list[Candidate]:
    choices = [make_choice(runtime, threads) for threads in (1, 2, 3, 4) for runtime in ("litert", "executorch")]
    return [Candidate(Path("bundle"), choice) for choice in choices[:count]]


def search(board: Board, aim: Aim, *, exhaustive: bool = False) -> tuple[Pick | None, list[OperatingPoint], Search]:
    asked: list[OperatingPoint] = []
    points = build_space(list(board.speeds), aim, CAMERA_FPS)
    found = Search(points, aim, board.make_measure(asked), rounds=ROUNDS, idle_w={None: board.idle_w * board.noise()})
    return (found.run_exhaustively() if exhaustive else found.run()), asked, found


AIMS: list[Aim] = [MostFrames(), LeastEnergy(), LeastPowerAtRate(15.0), MostFramesWithinPower(3.0)]


@st.composite
def boards(draw: st.DrawFn, noise: float = NOISE) -> Board:
    """Boards on which threads help, hurt, or do either by turns."""
    chosen = candidates(draw(st.integers(1, 8)))
    speeds = {candidate: Speed(draw(st.floats(0.5, 120.0)), draw(st.floats(0.0, 0.5))) for candidate in chosen}
    half = max(1.0, math.sqrt(noise) * (1 - 1e-9))
    numbers = draw(st.randoms(use_true_random=False))
    fails = frozenset(candidate for candidate in chosen if draw(st.integers(0, 9)) == 0)
    return Board(speeds, draw(st.floats(0.0, 4.0)), lambda: numbers.uniform(1 / half, half), fails)


@pytest.mark.parametrize("aim", AIMS, ids=lambda aim: aim.slug)
@settings(deadline=None)
@given(board=boards())
def test_the_pick_is_that_of_measuring_everything(aim: Aim, board: Board) -> None:
    everything, asked_all, _ = search(board, aim, exhaustive=True)
    pick, asked, _ = search(board, aim)
    assert len(asked) <= len(asked_all)
    assert (pick is None) == (everything is None)
    if pick and everything:
        assert describe_point(pick.contender.point) == describe_point(everything.contender.point)
        assert pick.score == everything.score


@pytest.mark.parametrize("aim", AIMS, ids=lambda aim: aim.slug)
@settings(deadline=None)
@given(board=boards(noise=1.0))
def test_without_noise_the_pick_is_the_best_that_there_is(aim: Aim, board: Board) -> None:
    pick, _, _ = search(board, aim)
    scores = []
    for point in build_space(list(board.speeds), aim, CAMERA_FPS):
        if point.candidate not in board.fails:
            sample = board.sample(point)
            score = aim.score(sample.rate_fps, sample.power_w)
            scores += [score] if score is not None else []
    assert (pick is None) == (not scores)
    if pick:
        assert pick.score == pytest.approx(max(scores), rel=1e-6)


def quiet(speeds: dict[Candidate, Speed], idle_w: float = 2.0) -> Board:
    return Board(speeds, idle_w)


def test_what_is_clearly_slower_is_measured_once() -> None:
    one, two, three = candidates(3)
    pick, asked, _ = search(quiet({one: Speed(20, 0.1), two: Speed(40, 0.1), three: Speed(5, 0.1)}), MostFrames())
    assert pick is not None
    assert pick.contender.point.candidate == two
    assert [sum(point.candidate == candidate for point in asked) for candidate in (one, two, three)] == [1, 3, 1]


def test_more_threads_that_hurt_do_not_end_the_search() -> None:
    one, _, two, _, three, _ = candidates(6)  # litert with 1, 2 and 3 threads
    pick, _, _ = search(quiet({one: Speed(20, 0.1), two: Speed(10, 0.1), three: Speed(50, 0.1)}), MostFrames())
    assert pick is not None
    assert pick.contender.point.candidate == three


def test_rates_that_draw_too_much_are_left_and_the_highest_that_fits_is_taken() -> None:
    (one,) = candidates(1)
    # 2 W idle, 0.1 J each: within 3 W there are 10 a second.
    pick, asked, _ = search(quiet({one: Speed(25, 0.1)}), MostFramesWithinPower(3.0))
    assert pick is not None
    assert pick.contender.point.rate_fps == 10
    assert all(point.rate_fps is None or 10 <= point.rate_fps < 25 for point in asked)


@pytest.mark.parametrize("lateness", [0.0, 0.004])
@pytest.mark.parametrize("exhaustive", [False, True])
def test_of_points_that_keep_the_same_rate_the_thriftiest_is_taken(lateness: float, exhaustive: bool) -> None:
    one, two, three = candidates(3)
    draws_w = {one: 2.8, two: 2.4, three: 2.6}

    def measure(point: OperatingPoint) -> PointMeasurement:
        if point.rate_fps is None:
            return PointMeasurement(50.0, 9.0)
        # The hungrier it is, the less late it comes: by nothing that anybody would pay watts for.
        rate_fps = point.rate_fps * (1 - lateness * (3.0 - draws_w[point.candidate]))
        return PointMeasurement(rate_fps, draws_w[point.candidate] if point.rate_fps <= 10 else 9.0)

    points = build_space([one, two, three], MostFramesWithinPower(3.0), CAMERA_FPS)
    found = Search(points, MostFramesWithinPower(3.0), measure, rounds=ROUNDS, idle_w={None: 2.0})
    pick = found.run_exhaustively() if exhaustive else found.run()
    assert pick is not None
    assert (pick.contender.point.candidate, pick.contender.point.rate_fps) == (two, 10.0)


def test_where_idle_alone_is_too_much_little_is_measured() -> None:
    (one,) = candidates(1)
    pick, asked, _ = search(quiet({one: Speed(25, 0.1)}, idle_w=5.0), MostFramesWithinPower(3.0))
    assert pick is None
    assert asked == []


def test_a_limit_above_full_speed_is_not_taken_for_one() -> None:
    (one,) = candidates(1)

    def measure(point: OperatingPoint) -> PointMeasurement:
        # The same thing measured twice, the second time with more luck.
        return PointMeasurement(10.2 if point.rate_fps == 12 else min(10.0, point.rate_fps or 10.0), 3.0)

    for exhaustively in (False, True):
        points = build_space([one], MostFramesWithinPower(5.0), 12.0)
        found = Search(points, MostFramesWithinPower(5.0), measure, rounds=3, idle_w={})
        pick = found.run_exhaustively() if exhaustively else found.run()
        assert pick is not None
        assert pick.contender.point.rate_fps is None


def test_a_rate_at_the_least_power() -> None:
    one, two = candidates(2)
    pick, _, _ = search(quiet({one: Speed(100, 0.2), two: Speed(20, 0.1)}), LeastPowerAtRate(15.0))
    assert pick is not None
    assert pick.contender.point.candidate == two
    pick, _, _ = search(quiet({one: Speed(100, 0.2), two: Speed(14, 0.1)}), LeastPowerAtRate(15.0))
    assert pick is not None
    assert pick.contender.point.candidate == one
    pick, _, _ = search(quiet({one: Speed(10, 0.2), two: Speed(14, 0.1)}), LeastPowerAtRate(15.0))
    assert pick is None


def test_least_energy_is_at_full_speed_where_idle_costs() -> None:
    (one,) = candidates(1)
    pick, asked, _ = search(quiet({one: Speed(25, 0.1)}), LeastEnergy())
    assert pick is not None
    assert pick.contender.point.rate_fps is None
    # At 1 a second 2 W of idle make 2 J: there is no need to measure that.
    assert all(point.rate_fps is None or point.rate_fps > 5 for point in asked)


def test_noise_that_is_seen_reopens_what_was_given_up() -> None:
    one, two = candidates(2)
    # The second's first round is unlucky: the first's own rounds show that such things happen here.
    rounds = {one: [100.0, 60.0, 100.0], two: [80.0, 120.0, 120.0]}
    counts = {one: 0, two: 0}

    def measure(point: OperatingPoint) -> PointMeasurement:
        counts[point.candidate] += 1
        return PointMeasurement(rounds[point.candidate][counts[point.candidate] - 1], None)

    found = Search([OperatingPoint(one), OperatingPoint(two)], MostFrames(), measure, rounds=3, idle_w={})
    pick = found.run()
    assert pick is not None
    assert pick.contender.point.candidate == two
    assert found.noise == pytest.approx(100 / 60)
    assert [contender.point.candidate for contender in found.find_rivals(pick)] == [one]


def test_a_meter_that_gives_nothing_leaves_the_point_out() -> None:
    one, two = candidates(2)

    def measure(point: OperatingPoint) -> PointMeasurement:
        return PointMeasurement(20.0, None if point.candidate == one else 3.0)

    found = Search([OperatingPoint(one), OperatingPoint(two)], LeastEnergy(), measure, rounds=1, idle_w={})
    pick = found.run()
    assert pick is not None
    assert pick.contender.point.candidate == two
    assert found.contenders[0].failure is not None


@settings(deadline=None)
@given(board=boards())
def test_the_front_is_what_nothing_beats(board: Board) -> None:
    _, _, found = search(board, MostFramesWithinPower(3.0), exhaustive=True)
    front = find_front(found.contenders)
    measured = [contender for contender in found.contenders if contender.measurements and not contender.failure]
    assert bool(front) == bool(measured)
    for contender in measured:
        better = [
            other
            for other in measured
            if (other.rate_fps, -(other.power_w or 0)) != (contender.rate_fps, -(contender.power_w or 0))
            and other.rate_fps >= contender.rate_fps
            and (other.power_w or 0) <= (contender.power_w or 0)
        ]
        assert (contender in front) == (not better)


def test_without_power_the_front_is_the_fastest() -> None:
    one, two = candidates(2)

    def measure(point: OperatingPoint) -> PointMeasurement:
        return PointMeasurement(20.0 if point.candidate == one else 30.0, None)

    found = Search([OperatingPoint(one), OperatingPoint(two)], MostFrames(), measure, rounds=1, idle_w={})
    found.run_exhaustively()
    assert [contender.point.candidate for contender in find_front(found.contenders)] == [two]


@pytest.mark.parametrize(
    ("aim", "slug"),
    [
        (MostFrames(), "fps"),
        (LeastEnergy(), "efficiency"),
        (LeastPowerAtRate(15.0), "15fps"),
        (LeastPowerAtRate(7.5), "7-5fps"),
        (MostFramesWithinPower(2.5), "2-5w"),
        (MostFramesWithinPower(1e-7), "1e-07w"),
    ],
)
def test_an_aim_has_a_name_that_a_profile_may_have(aim: Aim, slug: str) -> None:
    assert aim.slug == slug
    assert aim.title
