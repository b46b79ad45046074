"""Windows: what is counted, how long they last, what the meter's figure is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.bench.window import find_quantiles, measure_idle_power, measure_window, warm_up
from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters.meter import Meter
from device.meters.sampler import PowerSampler
from device.protocols import Array, Image, PowerOrigin, PowerSample
from tests.unit.boards import IMAGES, BusyMeter, SampledClock, TimedSession


def ignore() -> None:
    """Looks at nothing."""


def test_a_window_lasts_its_time_and_counts_every_inference() -> None:
    clock = ManualClock()
    session = TimedSession(clock, 0.04)
    window = measure_window(session, IMAGES, clock, 10.0, observe=ignore)
    assert window.inferences == 250
    assert window.duration_s == pytest.approx(10.0)
    assert window.rate_fps == pytest.approx(25.0)
    assert window.latency_s.p50 == window.latency_s.p99 == pytest.approx(0.04)
    assert session.seen[:4] == [0, 80, 160, 0]
    assert (window.power, window.power_missing_reason) == (None, None)


def test_a_slow_network_still_gets_ten_inferences_and_no_p99() -> None:
    clock = ManualClock()
    window = measure_window(TimedSession(clock, 7.0), IMAGES, clock, 10.0, observe=ignore)
    assert window.inferences == 10
    assert window.duration_s == pytest.approx(70.0)
    assert window.latency_s.p99 is None


def test_warm_up_sees_every_image_even_where_it_has_no_time() -> None:
    clock = ManualClock()
    session = TimedSession(clock, 1.0)
    warm_up(session, IMAGES, clock, 0.0)
    assert session.seen == [0, 80, 160]


def test_a_rate_is_kept_and_every_inference_has_its_share_of_waiting() -> None:
    clock = ManualClock()
    window = measure_window(TimedSession(clock, 0.04), IMAGES, clock, 10.0, observe=ignore, rate_fps=5.0)
    assert window.inferences == 50
    assert window.rate_fps == pytest.approx(5.0)
    assert window.latency_s.p50 == pytest.approx(0.04)


def test_a_late_inference_is_not_made_up_for() -> None:
    clock = ManualClock()
    starts_ns: list[int] = []

    class LateOnce(TimedSession):
        def run(self, pixels: Image) -> Array:
            starts_ns.append(clock.now_ns())
            clock.advance(0.5 if len(starts_ns) == 3 else 0.0)
            return super().run(pixels)

    window = measure_window(LateOnce(clock, 0.04), IMAGES, clock, 10.0, observe=ignore, rate_fps=10.0)
    gaps_s = [(after - before) / 1e9 for before, after in pairwise(starts_ns)]
    # The next one follows the late one at once; from then on each has its turn.
    assert min(gaps_s) == pytest.approx(0.1)
    assert max(gaps_s) == pytest.approx(0.54)
    assert window.inferences == 96


def test_a_rate_that_is_too_high_is_not_made_up() -> None:
    clock = ManualClock()
    window = measure_window(TimedSession(clock, 0.04), IMAGES, clock, 10.0, observe=ignore, rate_fps=100.0)
    assert window.rate_fps == pytest.approx(25.0)


def test_conditions_are_looked_at_once_a_second_and_never_in_an_inference() -> None:
    clock = ManualClock()
    looks: list[int] = []

    def observe() -> None:
        looks.append(clock.now_ns())
        clock.advance(0.001)

    window = measure_window(TimedSession(clock, 0.04), IMAGES, clock, 10.0, observe=observe)
    assert 9 <= len(looks) <= 10
    assert window.latency_s.deciles[-1] == pytest.approx(0.04)


def run_with_meter(duration_s: float, energy_j: float, idle_w: float, rate_fps: float | None = None) -> tuple[float, float]:
    """Energy an inference and power, as a window gives them."""
    clock = SampledClock()
    meter = BusyMeter(clock, idle_w)
    clock.sampler = PowerSampler([meter], 10.0, clock)
    session = TimedSession(clock, duration_s, meter, energy_j)
    warm_up(session, IMAGES, clock, 2.0, rate_fps)
    window = measure_window(session, IMAGES, clock, 10.0, observe=ignore, sampler=clock.sampler, rate_fps=rate_fps)
    assert window.power is not None
    return window.power.power_w * window.duration_s / window.inferences, window.power.power_w


def test_energy_is_known_to_the_digit() -> None:
    # 25 inferences a second of 0.1 J, on 2 W of idle: 4.5 W, of which an inference has 0.18 J.
    energy_j, power_w = run_with_meter(0.04, 0.1, 2.0)
    assert power_w == pytest.approx(4.5)
    assert energy_j == pytest.approx(0.18)


def test_energy_at_a_low_rate_has_the_idle_time_in_it() -> None:
    # 5 a second of 0.1 J on 2 W: 2.5 W, 0.5 J each.
    energy_j, power_w = run_with_meter(0.04, 0.1, 2.0, rate_fps=5.0)
    assert power_w == pytest.approx(2.5, rel=0.005)
    assert energy_j == pytest.approx(0.5, rel=0.005)


def test_what_was_drawn_before_the_window_is_not_in_it() -> None:
    clock = SampledClock()
    meter = BusyMeter(clock, 1.0)
    sampler = clock.sampler = PowerSampler([meter], 10.0, clock)
    clock.advance(0.2)
    meter.extra_j = 1000.0
    clock.advance(0.2)
    _, power, _ = measure_idle_power(sampler, clock, 30.0, ignore)
    assert power is not None
    assert power.power_w == pytest.approx(1.0)
    assert power.covered_s == pytest.approx(30.0)
    assert power.samples == 300


class DyingMeter(Meter):
    """Gives a power until it is gone."""

    origin = PowerOrigin(source="dying", scope="board", is_estimate=False)

    def __init__(self, clock: ManualClock, dies_ns: int) -> None:
        self._clock = clock
        self._dies_ns = dies_ns

    def read(self) -> PowerSample:
        if self._clock.now_ns() > self._dies_ns:
            raise MeterError("dying", "gone", reason="missing")
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=3.0)


def test_a_meter_that_covers_too_little_gives_no_figure_and_says_why() -> None:
    clock = SampledClock()
    meter = DyingMeter(clock, clock.now_ns() + 5_000_000_000)
    clock.sampler = PowerSampler([meter], 10.0, clock)
    window = measure_window(TimedSession(clock, 0.04), IMAGES, clock, 10.0, observe=ignore, sampler=clock.sampler)
    assert window.power is None
    assert window.power_missing_reason is not None
    assert "of 10.0 s" in window.power_missing_reason
    assert "dying: gone" in window.power_missing_reason


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=300))
def test_quantiles_are_values_that_occurred_in_order(durations_s: list[float]) -> None:
    found = find_quantiles(durations_s)
    assert set(found.deciles) <= set(durations_s)
    assert list(found.deciles) == sorted(found.deciles)
    assert (found.deciles[0], found.deciles[-1]) == (min(durations_s), max(durations_s))
    assert found.p50 == found.deciles[5]
    assert sum(value <= found.p90 for value in durations_s) >= 0.9 * len(durations_s)
    assert sum(value < found.p90 for value in durations_s) < 0.9 * len(durations_s)
    assert (found.p99 is None) == (len(durations_s) < 100)
