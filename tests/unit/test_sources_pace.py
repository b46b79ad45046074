"""A steady rate: what falls due when, and what a wait does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import SourceError, UsageError
from device.sources.pace import MAX_RATE_FPS, Pace, choose_rate_fps

rates = st.floats(0.01, MAX_RATE_FPS)


def be_open() -> None:
    """Says nothing: the source is open."""


def make_pace(rate_fps: float, clock: ManualClock) -> Pace:
    return Pace("source:", rate_fps, clock, be_open)


@given(rate_fps=rates, count=st.integers(2, 50))
def test_a_quick_reader_gets_every_frame_when_it_falls_due(rate_fps: float, count: int) -> None:
    clock = ManualClock(start_ns=123)
    pace = make_pace(rate_fps, clock)
    for index in range(count):
        due = pace.wait(index, timeout_s=200.0)
        assert due.frame_index == index
        assert due.timestamp_ns == 123 + round(index * 1e9 / rate_fps)
        assert 0 <= clock.now_ns() - due.timestamp_ns <= 1


@given(rate_fps=rates, pauses_s=st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=20))
def test_a_slow_reader_gets_the_newest_and_none_twice(rate_fps: float, pauses_s: list[float]) -> None:
    clock = ManualClock()
    pace = make_pace(rate_fps, clock)
    period_ns = 1e9 / rate_fps
    following = 0
    for pause_s in pauses_s:
        clock.advance(pause_s)
        due = pace.wait(following, timeout_s=200.0)
        assert due.frame_index >= following
        # The next one isn't due yet, give or take the rounding to nanoseconds.
        assert -1 <= clock.now_ns() - due.timestamp_ns < period_ns + 2
        following = due.frame_index + 1


def test_frames_fall_due_from_the_first_wait_on() -> None:
    clock = ManualClock()
    pace = make_pace(10.0, clock)
    clock.advance(55.0)
    assert pace.wait(0, 1.0) == (0, 55_000_000_000)


def test_nothing_due_in_time_is_a_stall_and_takes_just_that_time() -> None:
    clock = ManualClock()
    pace = make_pace(0.5, clock)
    pace.wait(0, 1.0)
    with pytest.raises(SourceError, match=r"source:: no frame within 0\.7 s") as caught:
        pace.wait(1, 0.7)
    assert caught.value.reason == "stalled"
    assert clock.now_ns() == 700_000_000
    assert pace.wait(1, 2.0) == (1, 2_000_000_000)


def test_a_source_that_is_closed_ends_the_wait() -> None:
    clock = ManualClock()

    def require_open() -> None:
        if clock.now_ns() >= 300_000_000:
            raise SourceError("source:", "closed", reason="closed")

    pace = Pace("source:", 0.01, clock, require_open)
    pace.wait(0, 1.0)
    with pytest.raises(SourceError) as caught:
        pace.wait(1, 60.0)
    assert caught.value.reason == "closed"
    assert clock.now_ns() < 400_000_000


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [((25.0, 30.0), 25.0), ((None, 30.0), 30.0), ((0.0, 30.0), 30.0), ((math.nan, 15.0), 15.0), ((1000.0, 30.0), 30.0)],
)
def test_the_first_rate_that_can_be_kept_is_taken(candidates: tuple[float | None, ...], expected: float) -> None:
    assert choose_rate_fps("video:clip", *candidates) == expected


@pytest.mark.parametrize("candidates", [(), (None,), (0.0, -1.0), (math.nan, math.inf, 90_000.0)])
def test_no_rate_at_all_is_refused(candidates: tuple[float | None, ...]) -> None:
    with pytest.raises(UsageError, match="video:clip: has no frame rate") as caught:
        choose_rate_fps("video:clip", *candidates)
    assert caught.value.reason == "no_rate"
