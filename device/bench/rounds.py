"""One round: a process that loads a network, warms up and measures it; or one that measures the idle machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from device.bench.conditions import ConditionMonitor
from device.bench.plan import find_artefact
from device.bench.result import Choice, Idle, InferenceWindow, Round, RoundFailure
from device.bench.window import Sampler, measure_idle_power, measure_window, warm_up
from device.bundle import Bundle, open_bundle
from device.contract import Power, Profile
from device.core.clock import SystemClock
from device.core.errors import BenchError, MeterError
from device.machine.memory import read_memory
from device.machine.thermals import SysfsThermals
from device.meters.meter import MeterContext
from device.meters.sampler import PowerSampler
from device.meters.select import open_meters
from device.protocols import Clock, Image, PowerMeter, Runtime, Session
from device.runtimes.registry import RUNTIMES


class RoundJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a round's process has to measure.

    Attributes:
        bundle: the bundle's folder.
        choice: what to run; None measures the idle machine for ``energy_s``, with the meters of the bundle's profile.
        warm_up_s: warm-up before each window.
        latency_s: length of the window without meters; None leaves it out.
        energy_s: length of the window in which meters are read; None leaves it out.
        rate_fps: maximum inferences a second in the energy window; None for full speed.
    """

    bundle: str
    choice: Choice | None
    warm_up_s: float
    latency_s: float | None
    energy_s: float | None
    rate_fps: float | None = None


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round process's answer: exactly one of the three."""

    round: Round | None = None
    idle: Idle | None = None
    failure: RoundFailure | None = None


class RoundContext(NamedTuple):
    """The machine on which a round runs; tests substitute their own.

    Attributes:
        clock: for all timing.
        root: folder that holds ``proc``, ``sys`` and ``dev``.
        monitor: records the machine's conditions.
    """

    clock: Clock
    root: Path
    monitor: ConditionMonitor


def system_context(root: Path = Path("/")) -> RoundContext:
    """This machine."""
    clock = SystemClock()
    return RoundContext(clock, root, ConditionMonitor(SysfsThermals(root), clock, root))


class Meters(NamedTuple):
    """The open meters of a profile, with the headline meter first, and why others are missing."""

    open: Sequence[PowerMeter]
    missing: tuple[str, ...]


@contextlib.contextmanager
def opened_meters(profile: Profile, context: RoundContext) -> Iterator[Meters]:
    """Opens a profile's meters for the length of a ``with`` block."""
    with contextlib.ExitStack() as stack:
        meters, missing = open_meters(profile.power, MeterContext(context.root, context.clock))
        for meter in meters:
            stack.enter_context(meter)
        yield Meters(meters, tuple(missing))


def run_job(job: RoundJob, context: RoundContext) -> Outcome:
    """Runs a job in this process.

    Raises:
        GhostwattError: the bundle, the runtime, the network or an inference failed.
    """
    bundle = open_bundle(Path(job.bundle))
    with opened_meters(bundle.manifest.profile, context) as meters:
        if job.choice is None:
            return Outcome(idle=measure_idle(bundle.manifest.profile.power, meters, job.energy_s or 0.0, context))
        _check_bundle(bundle, job.choice)
        return Outcome(round=measure_round(bundle, job.choice, job, meters, context))


def _check_bundle(bundle: Bundle, choice: Choice) -> None:
    if bundle.manifest_sha256 != choice.manifest_sha256:
        raise BenchError(str(bundle.root), "changed during the measurement", reason="changed")


def measure_idle(power: Power, meters: Meters, duration_s: float, context: RoundContext) -> Idle:
    """Measures the idle machine.

    Raises:
        MeterError: ``missing`` if no meter is available any more.
    """
    if not meters.open:
        raise MeterError("meters", "; ".join(meters.missing) or "the profile names none", reason="missing")
    context.monitor.start()
    with PowerSampler(meters.open, power.sample_rate_hz, context.clock) as sampler:
        elapsed_s, figure, reason = measure_idle_power(sampler, context.clock, duration_s, context.monitor.observe)
    return Idle(elapsed_s, figure, reason, context.monitor.finish())


def measure_round(bundle: Bundle, choice: Choice, job: RoundJob, meters: Meters, context: RoundContext) -> Round:
    """Loads a choice, warms it up, and measures it."""
    clock = context.clock
    started_at_utc = datetime.now(UTC).isoformat(timespec="seconds")
    context.monitor.start()
    runtime: Runtime = RUNTIMES.load(choice.runtime)()
    images = [image[None] for image in bundle.golden().pixels]
    artefact = find_artefact(bundle, choice)
    started_ns = clock.now_ns()
    session = runtime.open(bundle.path(artefact.file), input=artefact.input, output=artefact.output, threads=choice.threads)
    loaded_ns = clock.now_ns()
    with session:
        session.run(images[0])
        first_ns = clock.now_ns()
        latency, energy = measure_windows(session, images, job, meters, bundle.manifest.profile.power, context)
        threads = session.threads
    return Round(
        started_at_utc=started_at_utc,
        runtime_version=runtime.version,
        threads=threads,
        load_s=(loaded_ns - started_ns) / 1e9,
        first_inference_s=(first_ns - loaded_ns) / 1e9,
        peak_rss_bytes=read_memory().peak_rss_bytes,
        latency=latency,
        energy=energy,
        conditions=context.monitor.finish(),
    )


def measure_windows(
    session: Session, images: Sequence[Image], job: RoundJob, meters: Meters, power: Power, context: RoundContext
) -> tuple[InferenceWindow | None, InferenceWindow | None]:
    """Measures the latency window, in which no meter is read, and the energy window."""
    clock, observe = context.clock, context.monitor.observe
    latency = energy = None
    if job.latency_s is not None:
        warm_up(session, images, clock, job.warm_up_s)
        latency = measure_window(session, images, clock, job.latency_s, observe=observe)
    if job.energy_s is not None:
        with contextlib.ExitStack() as stack:
            sampler: Sampler | None = None
            if meters.open:
                sampler = stack.enter_context(PowerSampler(meters.open, power.sample_rate_hz, clock))
            # The sampler starts before the warm-up, so that it has a sample when the window begins.
            warm_up(session, images, clock, job.warm_up_s, job.rate_fps)
            energy = measure_window(
                session, images, clock, job.energy_s, observe=observe, sampler=sampler, rate_fps=job.rate_fps
            )
        if not meters.open:
            energy = msgspec.structs.replace(
                energy, power_missing_reason="; ".join(meters.missing) or "the profile names no meter"
            )
    return latency, energy
