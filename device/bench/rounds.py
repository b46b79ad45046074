"""One round: a process loads a network, warms up, and measures; or waits, and measures the idle machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from device.bench.conditions import Watch
from device.bench.plan import find_artefact
from device.bench.result import Choice, Failure, Idle, Round, Window
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


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a round's process is asked to do.

    Attributes:
        bundle: its folder.
        choice: what of it; None measures the idle machine, for ``energy_s``, with the meters of the bundle's profile.
        warm_up_s: before each window.
        latency_s: of the window without meters; None leaves it out.
        energy_s: of the window in which the meters are read; None leaves it out.
        rate_fps: inferences a second in the energy window, at most; None for as many as can be.
    """

    bundle: str
    choice: Choice | None
    warm_up_s: float
    latency_s: float | None
    energy_s: float | None
    rate_fps: float | None = None


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a round's process answers: one of the three."""

    round: Round | None = None
    idle: Idle | None = None
    failure: Failure | None = None


class Surroundings(NamedTuple):
    """What is outside of a round's process; tests give their own.

    Attributes:
        clock: times everything.
        root: where ``proc``, ``sys`` and ``dev`` are.
        watch: of the machine's conditions.
    """

    clock: Clock
    root: Path
    watch: Watch


def system_surroundings(root: Path = Path("/")) -> Surroundings:
    """This machine."""
    clock = SystemClock()
    return Surroundings(clock, root, Watch(SysfsThermals(root), clock, root))


class Meters(NamedTuple):
    """The open meters of a profile, the headline's first, and why the others are missing."""

    open: Sequence[PowerMeter]
    missing: tuple[str, ...]


@contextlib.contextmanager
def opened_meters(profile: Profile, around: Surroundings) -> Iterator[Meters]:
    """Opens a profile's meters, and closes them."""
    with contextlib.ExitStack() as stack:
        meters, missing = open_meters(profile.power, MeterContext(around.root, around.clock))
        for meter in meters:
            stack.enter_context(meter)
        yield Meters(meters, tuple(missing))


def run_job(job: Job, around: Surroundings) -> Outcome:
    """Does what a job asks for, in this process.

    Raises:
        GhostwattError: the bundle, the runtime, the network or an inference failed.
    """
    bundle = open_bundle(Path(job.bundle))
    with opened_meters(bundle.manifest.profile, around) as meters:
        if job.choice is None:
            return Outcome(idle=measure_idle(bundle.manifest.profile.power, meters, job.energy_s or 0.0, around))
        _check_bundle(bundle, job.choice)
        return Outcome(round=measure_round(bundle, job.choice, job, meters, around))


def _check_bundle(bundle: Bundle, choice: Choice) -> None:
    if bundle.manifest_sha256 != choice.manifest_sha256:
        raise BenchError(str(bundle.root), "was changed while it was measured", reason="changed")


def measure_idle(power: Power, meters: Meters, duration_s: float, around: Surroundings) -> Idle:
    """Measures the machine with nothing to do.

    Raises:
        MeterError: ``missing``: no meter is there any more.
    """
    if not meters.open:
        raise MeterError("meters", "; ".join(meters.missing) or "none is named", reason="missing")
    around.watch.start()
    with PowerSampler(meters.open, power.sample_rate_hz, around.clock) as sampler:
        elapsed_s, figure, reason = measure_idle_power(sampler, around.clock, duration_s, around.watch.look)
    return Idle(elapsed_s, figure, reason, around.watch.finish())


def measure_round(bundle: Bundle, choice: Choice, job: Job, meters: Meters, around: Surroundings) -> Round:
    """Loads a choice, warms it up, and measures it."""
    clock = around.clock
    started_at_utc = datetime.now(UTC).isoformat(timespec="seconds")
    around.watch.start()
    runtime: Runtime = RUNTIMES.load(choice.runtime)()
    images = [image[None] for image in bundle.golden().pixels]
    artefact = find_artefact(bundle, choice)
    started_ns = clock.now_ns()
    session = runtime.open(bundle.path(artefact.file), input=artefact.input, output=artefact.output, threads=choice.threads)
    loaded_ns = clock.now_ns()
    with session:
        session.run(images[0])
        first_ns = clock.now_ns()
        latency, energy = measure_windows(session, images, job, meters, bundle.manifest.profile.power, around)
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
        conditions=around.watch.finish(),
    )


def measure_windows(
    session: Session, images: Sequence[Image], job: Job, meters: Meters, power: Power, around: Surroundings
) -> tuple[Window | None, Window | None]:
    """The latency window, in which no meter is read, and the energy window."""
    clock, look = around.clock, around.watch.look
    latency = energy = None
    if job.latency_s is not None:
        warm_up(session, images, clock, job.warm_up_s)
        latency = measure_window(session, images, clock, job.latency_s, look=look)
    if job.energy_s is not None:
        with contextlib.ExitStack() as stack:
            sampler: Sampler | None = None
            if meters.open:
                sampler = stack.enter_context(PowerSampler(meters.open, power.sample_rate_hz, clock))
            # The sampler runs already, so that the window begins with a sample in hand.
            warm_up(session, images, clock, job.warm_up_s, job.rate_fps)
            energy = measure_window(session, images, clock, job.energy_s, look=look, sampler=sampler, rate_fps=job.rate_fps)
        if not meters.open:
            energy = msgspec.structs.replace(energy, power_missing_reason="; ".join(meters.missing) or "no meter is named")
    return latency, energy
