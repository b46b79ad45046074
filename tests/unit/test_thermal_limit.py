"""The limit on heat: when it slows down, when it lets go, and what it says."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.contract import RateLimits
from device.daemon.heat_limit import MIN_SLOW_S, ThermalLimit

LIMITS = RateLimits(slow_above_c=75.0, slow_rate_fps=2.0)
TEMPERATURES = st.none() | st.floats(40.0, 100.0)


def run(*readings: tuple[float, float | None], limits: RateLimits = LIMITS) -> tuple[list[float | None], list[str]]:
    """Rates and lines after readings of (seconds, °C)."""
    lines: list[str] = []
    limit = ThermalLimit(limits, lines.append)
    return [limit.update(temperature_c, round(time_s * 1e9)) for time_s, temperature_c in readings], lines


def test_it_slows_down_above_the_threshold_at_once_and_says_so() -> None:
    rates, lines = run((0, 74.0), (1, 75.0), (2, 75.1), (3, 80.0))
    assert rates == [None, None, 2.0, 2.0]
    assert lines == ["75 °C, above 75 °C: slowed down to 2 a second"]


def test_it_lets_go_when_it_is_cooler_by_the_hysteresis() -> None:
    rates, lines = run((0, 76.0), (20, 74.9), (30, 72.1), (40, 72.0), (41, 74.9), (42, 75.1))
    assert rates == [2.0, 2.0, 2.0, None, None, 2.0]
    assert len(lines) == 3


def test_a_slow_spell_lasts_its_least_time() -> None:
    rates, _ = run((0, 76.0), (1, 50.0), (MIN_SLOW_S - 0.001, 50.0), (MIN_SLOW_S, 50.0))
    assert rates == [2.0, 2.0, 2.0, None]


def test_the_profile_may_widen_the_hysteresis() -> None:
    limits = RateLimits(slow_above_c=75.0, slow_rate_fps=2.0, slow_hysteresis_c=10.0)
    assert run((0, 76.0), (20, 66.0), (30, 65.0), limits=limits)[0] == [2.0, 2.0, None]


def test_a_temperature_that_can_not_be_read_is_said_once_and_changes_nothing() -> None:
    rates, lines = run((0, None), (1, None), (2, 80.0), (3, None), (60, None), (61, 60.0), (62, None))
    assert rates == [None, None, 2.0, 2.0, 2.0, None, None]
    assert [line for line in lines if "can't act" in line] == [lines[0]]


def test_a_profile_without_the_limit_is_left_alone() -> None:
    assert run((0, None), (1, 120.0), limits=RateLimits(max_rate_fps=5.0)) == ([None, None], [])


@given(st.lists(st.tuples(st.floats(0.0, 5.0), TEMPERATURES), max_size=60))
def test_whatever_the_heat_does(steps: list[tuple[float, float | None]]) -> None:
    lines: list[str] = []
    limit = ThermalLimit(LIMITS, lines.append)
    now_ns, changed_ns, before, changes = 0, -(10**12), None, 0
    for step_s, temperature_c in steps:
        now_ns += round(step_s * 1e9)
        rate = limit.update(temperature_c, now_ns)
        assert rate in (None, 2.0)
        assert limit.is_slow is (rate is not None)
        if temperature_c is not None and temperature_c > 75.0:
            assert rate == 2.0
        if temperature_c is None:
            assert rate == before
        if before == 2.0 and rate is None:
            assert temperature_c is not None
            assert temperature_c <= 72.0
            assert now_ns - changed_ns >= MIN_SLOW_S * 1e9
        if rate != before:
            changes, changed_ns, before = changes + 1, now_ns, rate
    assert len([line for line in lines if "can't act" not in line]) == changes
    assert limit.spells == (changes + 1) // 2


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"slow_above_c": 75}, "both slow_above_c and slow_rate_fps, or neither"),
        ({"slow_rate_fps": 2}, "both slow_above_c and slow_rate_fps, or neither"),
        ({"slow_above_c": 75, "slow_rate_fps": 5, "max_rate_fps": 5}, "below max_rate_fps"),
        ({"slow_above_c": 7, "slow_rate_fps": 5}, ">= 30"),
        ({"slow_above_c": 75, "slow_rate_fps": 5, "slow_hysteresis_c": 0}, "> 0"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limits: dict[str, float], match: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=match):
        msgspec.convert(limits, RateLimits)
