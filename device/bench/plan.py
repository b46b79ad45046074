"""What is measured and for how long: in the style of MLPerf Tiny, but not a submission to it.

As in MLPerf Tiny's runners, speed and energy have separate windows, warm-up isn't counted, a window takes at least 10 s, the
figure is the median of five windows, and energy is the whole energy of the window divided by its inferences. The power of the
idle machine is measured in addition.

Unlike MLPerf Tiny, each round is a separate process, and the choices take turns: a machine that slows down, an unlucky memory
layout or a passing disturbance then shows as a wider interval instead of a difference between choices.

References:
    Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021 (arXiv:2106.07597), section 4.
    EEMBC, EnergyRunner, https://github.com/eembc/energyrunner: performance mode and energy mode; the median of five.
    Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013: repeat at the level that varies: the process.
    Mytkowicz et al., Producing Wrong Data Without Doing Anything Obviously Wrong, ASPLOS 2009.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device.bench.result import BenchSettings, Choice
from device.bundle import Bundle
from device.contract import Artefact
from device.core.errors import UsageError, nearest
from device.runtimes.registry import RUNTIMES

CONFORMING = BenchSettings(conforms=True, rounds=5, warm_up_s=2.0, latency_s=10.0, energy_s=10.0, idle_s=30.0)
QUICK = BenchSettings(conforms=False, rounds=3, warm_up_s=0.2, latency_s=1.0, energy_s=2.0, idle_s=3.0)

LEAST_INFERENCES = 10
"""Minimum inferences in a window, however slow the network: MLPerf Tiny's number."""


def find_choices(bundle: Bundle, cores: int, runtimes: Sequence[str] = (), threads: Iterable[int] = ()) -> list[Choice]:
    """Lists every choice in a bundle.

    Args:
        bundle: the open bundle.
        cores: number of this machine's cores.
        runtimes: only these; all if empty.
        threads: only these numbers of threads; 1 to ``cores`` if empty.

    Raises:
        UsageError: the bundle has no artefact for a runtime, or there are more threads than cores.
    """
    own = [artefact.runtime for artefact in bundle.manifest.artefacts]
    # The profile may name a runtime from another package, which runs one of the artefacts.
    names = dict.fromkeys((*(name for name in own if name in runtimes), *runtimes)) or dict.fromkeys(
        (*own, bundle.manifest.profile.runtime.name)
    )
    artefacts = {name: _artefact_for(bundle, name) for name in names}
    counts = sorted(set(threads)) or list(range(1, cores + 1))
    if counts[-1] > cores:
        raise UsageError("--threads", str(counts[-1]), expected=f"at most {cores}, the cores of this machine", reason="threads")
    return [_choice(bundle, name, artefact, count) for name, artefact in artefacts.items() for count in counts]


def _artefact_for(bundle: Bundle, runtime: str) -> Artefact:
    """The artefact that a runtime runs; one that the bundle's artefacts don't name says so in its class."""
    artefacts = {artefact.runtime: artefact for artefact in bundle.manifest.artefacts}
    found = artefacts.get(runtime)
    if found is None and runtime in RUNTIMES.names():
        found = artefacts.get(RUNTIMES.load(runtime).artefact)
    if found is None:
        raise UsageError(
            "--runtime", f"{bundle.root} has nothing for {runtime!r}", expected=nearest(runtime, artefacts), reason="runtime"
        )
    return found


def _choice(bundle: Bundle, runtime: str, artefact: Artefact, threads: int) -> Choice:
    return Choice(
        profile=bundle.manifest.profile.name,
        model=bundle.manifest.model.name,
        runtime=runtime,
        threads=threads,
        precision=artefact.precision,
        recipe=artefact.recipe,
        input_px=artefact.input.shape[1],
        file=artefact.file,
        manifest_sha256=bundle.manifest_sha256,
    )


def find_artefact(bundle: Bundle, choice: Choice) -> Artefact:
    """The artefact of this bundle that a choice refers to."""
    return next(artefact for artefact in bundle.manifest.artefacts if artefact.file == choice.file)


def expected_s(settings: BenchSettings, choices: int, *, has_energy: bool) -> float:
    """Minimum duration of a benchmark, in seconds."""
    windows = [settings.latency_s] + ([settings.energy_s] if has_energy else [])
    return settings.rounds * choices * sum(window_s + settings.warm_up_s for window_s in windows) + (
        settings.idle_s if has_energy else 0.0
    )
