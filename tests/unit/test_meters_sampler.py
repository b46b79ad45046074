"""Integration of samples: trapezoids, counters, gaps, and meters that misbehave."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters.meter import Meter
from device.meters.sampler import PowerSampler
from device.protocols import PowerOrigin, PowerSample


class ScriptedMeter(Meter):
    """Says what it is told to: a power, energy, None, or an error."""

    origin = PowerOrigin(source="scripted", scope="board", is_estimate=False)
    resolution_w = 0.5

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.power_w: float | None = 0.0
        self.energy_j: float | None = None
        self.period_s = 0.0
        self.error: Exception | None = None

    def read(self) -> PowerSample | None:
        if self.error:
            raise self.error
        if self.power_w is None:
            return None
        return PowerSample(
            timestamp_ns=self._clock.now_ns(), power_w=self.power_w, energy_j=self.energy_j, period_s=self.period_s
        )


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
    assert sampler.overhead_cpu_s > 0
    assert sampler.stop()
    assert meter.reads == reads


class HangingMeter(ScriptedMeter):
    """Hangs until it is released."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.is_reading, self.release = threading.Event(), threading.Event()

    def read(self) -> PowerSample | None:
        self.is_reading.set()
        self.release.wait(60.0)
        return super().read()


def test_a_meter_that_hangs_hangs_no_one_else(clock: ManualClock) -> None:
    enough = threading.Event()

    class SteadyMeter(ScriptedMeter):
        reads = 0

        def read(self) -> PowerSample | None:
            self.reads += 1
            if self.reads > 20:
                enough.set()
            clock.advance(0.01)
            return super().read()

    hanging, steady = HangingMeter(clock), SteadyMeter(clock)
    steady.power_w = 3.0
    sampler = PowerSampler([hanging, steady], 200.0, clock)
    sampler.start()
    assert hanging.is_reading.wait(30.0)
    assert enough.wait(30.0)
    assert sampler.take() is None
    figure = sampler.take(1)
    assert figure is not None
    assert figure.power_w == pytest.approx(3.0)
    assert sampler.stop(timeout_s=0.01) is False
    hanging.release.set()
    assert sampler.stop(timeout_s=30.0) is True


def test_a_meter_that_hangs_is_told_and_what_it_says_in_the_end_spans_no_gap(clock: ManualClock) -> None:
    hanging = HangingMeter(clock)
    hanging.power_w = 5.0
    sampler = PowerSampler([hanging], 100.0, clock)
    hanging.release.set()
    sampler.sample()
    clock.advance(0.1)
    sampler.sample()
    hanging.release.clear()
    hanging.is_reading.clear()
    sampler.start()
    assert hanging.is_reading.wait(30.0)
    assert sampler.error() is None
    clock.advance(7.0)
    assert sampler.error() == "scripted: no answer for 7.0 s"
    (total,) = sampler.figures()
    assert total.error == "scripted: no answer for 7.0 s"
    assert total.covered_s == pytest.approx(0.1)
    hanging.release.set()
    assert sampler.stop(timeout_s=30.0)
    assert sampler.error() is None
    (total,) = sampler.figures()
    assert total.covered_s == pytest.approx(0.1)


def test_every_meters_total_is_told_with_its_samples_and_its_failures(clock: ManualClock, meter: ScriptedMeter) -> None:
    broken = ScriptedMeter(clock)
    broken.error = MeterError("plug", "gone", reason="missing")
    sampler = PowerSampler([meter, broken], 10.0, clock)
    sample_at(sampler, clock, meter, 2.0, 4.0, None, 4.0)
    good, bad = sampler.figures()
    assert (good.source, good.scope, good.is_estimate) == ("scripted", "board", False)
    assert (good.samples, good.failed, good.error) == (3, 0, None)
    assert [good.power_w, good.energy_j, good.covered_s] == [pytest.approx(value) for value in (1.1 / 0.3, 1.1, 0.3)]
    assert (bad.power_w, bad.energy_j, bad.covered_s, bad.samples, bad.failed) == (None, None, 0.0, 0, 4)
    # Two spans in 0.3 s: one read in between gave nothing.
    assert good.resolution_w == 0.5
    assert good.sample_rate_hz == pytest.approx(2 / 0.3)
    assert bad.sample_rate_hz is None
    assert bad.error == "plug: gone"
    broken.error = None
    sampler.sample()
    assert sampler.error(1) is None
    assert sampler.figures()[1].error == "plug: gone"


def test_a_slow_meters_samples_are_joined_and_a_gap_of_its_own_is_not(clock: ManualClock, meter: ScriptedMeter) -> None:
    sampler = PowerSampler([meter], 10.0, clock)
    meter.period_s = 2.0
    for span_s, power_w in ((2.0, 3.0), (2.0, 5.0), (4.5, 5.0), (6.0, 1.0), (2.0, 1.0)):
        sample_at(sampler, clock, meter, None)
        clock.advance(span_s - 0.2)
        sample_at(sampler, clock, meter, power_w)
    total = sampler.total()
    assert total is not None
    assert total.covered_s == pytest.approx(2.0 + 4.5 + 2.0)
    assert total.energy_j == pytest.approx(4.0 * 2.0 + 5.0 * 4.5 + 1.0 * 2.0)


def test_what_the_sampling_costs_is_the_sum_of_its_threads() -> None:
    class BusyMeter(ScriptedMeter):
        def __init__(self, clock: ManualClock) -> None:
            super().__init__(clock)
            self.reads = 0
            self.has_worked = threading.Event()

        def read(self) -> PowerSample | None:
            until_s = time.thread_time() + 0.02
            while time.thread_time() < until_s and self.reads < 5:
                pass
            self.reads += 1
            if self.reads == 8:
                self.has_worked.set()
            return super().read()

    meters = [BusyMeter(ManualClock()), BusyMeter(ManualClock())]
    with PowerSampler(meters, 1000.0) as sampler:
        for meter in meters:
            assert meter.has_worked.wait(30.0)
    assert sampler.overhead_cpu_s > 2 * 5 * 0.02


def test_a_sampler_that_was_never_started_can_be_stopped(meter: ScriptedMeter) -> None:
    assert PowerSampler([meter], 10.0).stop()
