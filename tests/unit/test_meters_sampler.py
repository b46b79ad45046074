"""Integration of samples: trapezoids, counters, gaps, and meters that misbehave."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.clock import ManualClock
from device.contract.profile import Scope
from device.errors import MeterError
from device.meters import PowerSampler
from device.protocols import PowerSample
from device.resources import Resource


class ScriptedMeter(Resource):
    """Says what it is told to: a power, energy, None, or an error."""

    source = "scripted"
    scope: Scope = "board"
    is_estimate = False

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.power_w: float | None = 0.0
        self.energy_j: float | None = None
        self.error: Exception | None = None

    def read(self) -> PowerSample | None:
        if self.error:
            raise self.error
        if self.power_w is None:
            return None
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=self.power_w, energy_j=self.energy_j)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=123_456_789)


@pytest.fixture
def meter(clock: ManualClock) -> ScriptedMeter:
    return ScriptedMeter(clock)


def sample_at(sampler: PowerSampler, clock: ManualClock, meter: ScriptedMeter, *powers_w: float | None) -> None:
    for power_w in powers_w:
        clock.advance(0.1)
        meter.power_w = power_w
        sampler.sample()


def test_samples_are_joined_by_trapezoids(clock: ManualClock, meter: ScriptedMeter) -> None:
    sampler = PowerSampler([meter], 10.0, clock)
    sample_at(sampler, clock, meter, 2.0, 4.0, 4.0, 0.0)
    figure = sampler.total()
    assert figure is not None
    assert figure.energy_j == pytest.approx(0.3 + 0.4 + 0.2)
    assert figure.covered_s == pytest.approx(0.3)
    assert figure.power_w == pytest.approx(3.0)


def test_nothing_is_said_before_there_are_two_samples(clock: ManualClock, meter: ScriptedMeter) -> None:
    sampler = PowerSampler([meter], 10.0, clock)
    assert sampler.take() is None
    sample_at(sampler, clock, meter, 5.0)
    assert sampler.take() is None
    assert sampler.total() is None


def test_what_a_counter_counts_is_summed_as_it_is(clock: ManualClock, meter: ScriptedMeter) -> None:
    sampler = PowerSampler([meter], 10.0, clock)
    sample_at(sampler, clock, meter, None)
    meter.energy_j = 0.7
    sample_at(sampler, clock, meter, 7.0, 7.0)
    figure = sampler.total()
    assert figure is not None
    assert figure.energy_j == pytest.approx(1.4)
    assert figure.covered_s == pytest.approx(0.2)


@given(st.lists(st.floats(0.0, 20.0), min_size=2, max_size=30), st.sets(st.integers(0, 30)))
def test_windows_add_up_to_the_total(powers_w: list[float], cuts: set[int]) -> None:
    clock = ManualClock()
    meter = ScriptedMeter(clock)
    sampler = PowerSampler([meter], 10.0, clock)
    windows = []
    for index, power_w in enumerate(powers_w):
        sample_at(sampler, clock, meter, power_w)
        if index in cuts:
            windows.append(sampler.take())
    windows.append(sampler.take())
    total = sampler.total()
    assert total is not None
    assert sum(window.energy_j for window in windows if window) == pytest.approx(total.energy_j)
    assert sum(window.covered_s for window in windows if window) == pytest.approx(total.covered_s)
    assert min(powers_w) - 1e-9 <= total.power_w <= max(powers_w) + 1e-9


def test_a_failure_is_a_gap_and_no_old_value(clock: ManualClock, meter: ScriptedMeter) -> None:
    sampler = PowerSampler([meter], 10.0, clock)
    sample_at(sampler, clock, meter, 2.0, 2.0)
    meter.error = MeterError("ina219", "gone", reason="missing")
    sample_at(sampler, clock, meter, 9.0, 9.0)
    assert sampler.error() == "ina219: gone"
    first = sampler.take()
    assert first is not None
    assert first.covered_s == pytest.approx(0.1)
    assert sampler.take() is None
    meter.error = None
    sample_at(sampler, clock, meter, 6.0)
    assert sampler.error() is None
    assert sampler.take() is None
    sample_at(sampler, clock, meter, 6.0)
    total = sampler.total()
    assert total is not None
    assert total.energy_j == pytest.approx(0.2 + 0.6)
    assert total.covered_s == pytest.approx(0.2)


def test_samples_far_apart_are_not_joined(clock: ManualClock, meter: ScriptedMeter) -> None:
    sampler = PowerSampler([meter], 10.0, clock)
    sample_at(sampler, clock, meter, 2.0, 2.0)
    clock.advance(30.0)
    sample_at(sampler, clock, meter, 2.0, 2.0)
    total = sampler.total()
    assert total is not None
    assert total.covered_s == pytest.approx(0.2)


def test_one_meters_bug_leaves_the_others_figures(clock: ManualClock, meter: ScriptedMeter) -> None:
    broken = ScriptedMeter(clock)
    broken.error = ZeroDivisionError("a bug from outside")
    sampler = PowerSampler([broken, meter], 10.0, clock)
    sample_at(sampler, clock, meter, 3.0, 3.0)
    assert sampler.take() is None
    assert sampler.error() == "a bug from outside"
    figure = sampler.take(1)
    assert figure is not None
    assert figure.power_w == pytest.approx(3.0)


def test_the_thread_samples_and_its_own_work_is_counted() -> None:
    enough = threading.Event()

    class CountingMeter(ScriptedMeter):
        reads = 0

        def read(self) -> PowerSample | None:
            self.reads += 1
            if self.reads == 20:
                enough.set()
            return super().read()

    meter = CountingMeter(ManualClock())
    with PowerSampler([meter], 1000.0) as sampler:
        assert enough.wait(30.0)
    reads = meter.reads
    assert sampler.cpu_time_s > 0
    assert sampler.stop()
    assert meter.reads == reads


def test_a_meter_that_hangs_hangs_no_one_else(clock: ManualClock) -> None:
    release, reading = threading.Event(), threading.Event()

    class HangingMeter(ScriptedMeter):
        def read(self) -> PowerSample | None:
            reading.set()
            release.wait(60.0)
            return None

    sampler = PowerSampler([HangingMeter(clock)], 100.0)
    sampler.start()
    assert reading.wait(30.0)
    assert sampler.take() is None
    assert sampler.stop(timeout_s=0.01) is False
    release.set()
    assert sampler.stop(timeout_s=30.0) is True


def test_a_sampler_that_was_never_started_can_be_stopped(meter: ScriptedMeter) -> None:
    assert PowerSampler([meter], 10.0).stop()
