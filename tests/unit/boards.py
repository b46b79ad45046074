"""A simulated board: inferences take time on a clock that is turned by hand, and a meter says what they draw.

Everything above the session and the meter is the real code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from device.bench.conditions import ConditionMonitor
from device.bench.result import Choice, Conditions, Idle, Round, RoundFailure
from device.bench.rounds import Outcome, RoundJob
from device.bench.window import measure_idle_power, measure_window, warm_up
from device.core.clock import ManualClock
from device.core.resources import Resource
from device.meters.meter import Meter
from device.meters.sampler import PowerSampler
from device.protocols import Array, Image, PowerOrigin, PowerSample, ThermalSample
from tests.unit.fakes import INPUT, OUTPUT, FixedThermals

STEADY = ThermalSample(
    temperature_c=50.0,
    frequency_hz=1.8e9,
    throttled=(),
    throttled_since_start=(),
    unsupported=(),
    governor="performance",
)
IMAGES = [np.full((1, 32, 32, 3), value, np.uint8) for value in (0, 80, 160)]


class SampledClock(ManualClock):
    """Samples power while time passes, as the sampler's thread would."""

    def __init__(self, period_s: float = 0.1) -> None:
        super().__init__(start_ns=5_000_000_000)
        self.sampler: PowerSampler | None = None
        self._period_ns = round(period_s * 1e9)

    def advance(self, duration_s: float) -> None:
        left_ns = round(duration_s * 1e9)
        while left_ns > 0:
            step_ns = min(left_ns, self._period_ns - self.now_ns() % self._period_ns)
            super().advance(step_ns / 1e9)
            left_ns -= step_ns
            if self.sampler and self.now_ns() % self._period_ns == 0:
                self.sampler.sample()


class BusyMeter(Meter):
    """Counts the energy of a board that draws one power at work and another when idle."""

    resolution_w = 0.02

    def __init__(self, clock: ManualClock, idle_w: float, *, is_estimate: bool = False) -> None:
        self._clock = clock
        self._idle_w = idle_w
        self._read_ns: int | None = None
        self.origin = PowerOrigin(source="simulated", scope="board", is_estimate=is_estimate)
        self.extra_j = 0.0

    def read(self) -> PowerSample | None:
        now_ns, before_ns = self._clock.now_ns(), self._read_ns
        self._read_ns = now_ns
        energy_j, self.extra_j = self.extra_j, 0.0
        if before_ns is None or now_ns == before_ns:
            return None
        span_s = (now_ns - before_ns) / 1e9
        energy_j += self._idle_w * span_s
        return PowerSample(timestamp_ns=now_ns, power_w=energy_j / span_s, energy_j=energy_j)


class TimedSession(Resource):
    """Takes so long, and so much energy above idle, an inference."""

    input = INPUT
    output = OUTPUT
    threads = 1

    def __init__(self, clock: ManualClock, duration_s: float, meter: BusyMeter | None = None, energy_j: float = 0.0) -> None:
        self._clock = clock
        self._duration_s = duration_s
        self._meter = meter
        self._energy_j = energy_j
        self.seen: list[int] = []

    def run(self, pixels: Image) -> Array:
        self.seen.append(int(pixels[0, 0, 0, 0]))
        # In two halves, so that a sample in between sees half of the energy.
        for _ in range(2):
            self._clock.advance(self._duration_s / 2)
            if self._meter:
                self._meter.extra_j += self._energy_j / 2
        return np.zeros((1, 4), np.float32)


class Behaviour(NamedTuple):
    """What an inference takes on the simulated board."""

    duration_s: float
    energy_j: float


class SimulatedBoard:
    """Does a bench's jobs.

    Args:
        behave: of a choice, in its n-th round.
        idle_w: power with nothing to do.
        thermals: what the board says of its heat.
        is_estimate: of the meter.
        has_meter: False: no figures of power.
        failures: choices' runtimes that fail, and how.
    """

    def __init__(
        self,
        behave: Callable[[Choice, int], Behaviour],
        *,
        idle_w: float = 2.0,
        thermals: ThermalSample = STEADY,
        is_estimate: bool = False,
        has_meter: bool = True,
        failures: dict[str, RoundFailure] | None = None,
    ) -> None:
        self._behave = behave
        self._idle_w = idle_w
        self._thermals = thermals
        self._is_estimate = is_estimate
        self._has_meter = has_meter
        self._failures = failures or {}
        self.jobs: list[RoundJob] = []
        self._taken: dict[Choice, int] = {}

    def execute(self, job: RoundJob) -> Outcome:
        self.jobs.append(job)
        if job.choice and job.choice.runtime in self._failures:
            return Outcome(failure=self._failures[job.choice.runtime])
        clock = SampledClock()
        meter = BusyMeter(clock, self._idle_w, is_estimate=self._is_estimate)
        sampler = PowerSampler([meter], 10.0, clock)
        monitor = ConditionMonitor(FixedThermals(self._thermals), clock, Path("/nowhere"))
        monitor.start()
        if job.choice is None:
            clock.sampler = sampler
            clock.advance(0.2)
            elapsed_s, power, reason = measure_idle_power(sampler, clock, job.energy_s or 0.0, monitor.observe)
            return Outcome(idle=Idle(elapsed_s, power, reason, monitor.finish()))
        return Outcome(round=self._measure(job, job.choice, clock, meter, sampler, monitor))

    def _measure(
        self,
        job: RoundJob,
        choice: Choice,
        clock: SampledClock,
        meter: BusyMeter,
        sampler: PowerSampler,
        monitor: ConditionMonitor,
    ) -> Round:
        number = self._taken[choice] = self._taken.get(choice, 0) + 1
        behaviour = self._behave(choice, number)
        session = TimedSession(clock, behaviour.duration_s, meter, behaviour.energy_j)
        latency = energy = None
        if job.latency_s is not None:
            warm_up(session, IMAGES, clock, job.warm_up_s)
            latency = measure_window(session, IMAGES, clock, job.latency_s, observe=monitor.observe)
        if job.energy_s is not None:
            clock.sampler = sampler if self._has_meter else None
            meter.extra_j = 0.0
            warm_up(session, IMAGES, clock, job.warm_up_s, job.rate_fps)
            energy = measure_window(
                session,
                IMAGES,
                clock,
                job.energy_s,
                observe=monitor.observe,
                sampler=sampler if self._has_meter else None,
                rate_fps=job.rate_fps,
            )
        return Round(
            started_at_utc="2026-01-01T00:00:00+00:00",
            runtime_version=f"simulated {choice.runtime} 1.0",
            threads=choice.threads,
            load_s=0.05,
            first_inference_s=2 * behaviour.duration_s,
            peak_rss_bytes=50_000_000,
            latency=latency,
            energy=energy,
            conditions=monitor.finish(),
        )


def make_choice(runtime: str = "litert", threads: int = 1, precision: str = "int8", input_px: int = 32) -> Choice:
    """A choice of the simulated board."""
    return Choice(
        profile="rpi4",
        model="colours",
        runtime=runtime,
        threads=threads,
        precision=precision,
        recipe="none",
        input_px=input_px,
        file=f"model-{precision}-{input_px}.{runtime}",
        manifest_sha256="0" * 64,
    )


def make_conditions(**changes: object) -> Conditions:
    """Conditions that nothing speaks against, but for what is given."""
    known: dict[str, object] = {
        "temperature_low_c": 50.0,
        "temperature_high_c": 52.0,
        "frequency_low_hz": 1.8e9,
        "frequency_high_hz": 1.8e9,
        "governors": ("performance",),
        "throttled": (),
        "throttle_unsupported": (),
        "other_load_cores": 0.01,
        "stolen_share": 0.0,
        "batteries": (),
    }
    return Conditions(**{**known, **changes})  # type: ignore[arg-type]
