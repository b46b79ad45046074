"""What is measured, and for how long: in the manner of MLPerf Tiny, without being a submission to it.

As MLPerf Tiny's runners do: speed and energy in windows of their own, warm-up outside, at least 10 s a window, five windows,
their median, and energy as the window's whole energy by its inferences. Besides: what the machine draws when idle.

Other than there, each round is a process of its own, and the choices take turns: a machine that slows down, an unlucky layout
of memory, or a neighbour who comes and goes then shows as a wider interval, not as a difference between choices.

References:
    Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021 (arXiv:2106.07597), section 4.
    EEMBC, EnergyRunner, https://github.com/eembc/energyrunner: performance mode and energy mode; the median of five.
    Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013: repeat at the level that varies: the process.
    Mytkowicz et al., Producing Wrong Data Without Doing Anything Obviously Wrong, ASPLOS 2009.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device.bench.result import Choice, Settings
from device.bundle import Bundle
from device.contract import Artefact
from device.core.errors import UsageError, nearest
from device.runtimes.registry import RUNTIMES

CONFORMING = Settings(conforms=True, rounds=5, warm_up_s=2.0, latency_s=10.0, energy_s=10.0, idle_s=30.0)
QUICK = Settings(conforms=False, rounds=3, warm_up_s=0.2, latency_s=1.0, energy_s=2.0, idle_s=3.0)

LEAST_INFERENCES = 10
"""In a window, however slow the network: MLPerf Tiny's number."""


def find_choices(bundle: Bundle, cores: int, runtimes: Sequence[str] = (), threads: Iterable[int] = ()) -> list[Choice]:
    """Lists every choice that a bundle holds.

    Args:
        bundle: an open one.
        cores: of this machine.
        runtimes: only these; every one if empty.
        threads: only these numbers; 1 to ``cores`` if empty.

    Raises:
        UsageError: a runtime that the bundle has nothing for, or more threads than cores.
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
    """The artefact that a choice of this bundle means."""
    return next(artefact for artefact in bundle.manifest.artefacts if artefact.file == choice.file)


def expected_s(settings: Settings, choices: int, *, has_energy: bool) -> float:
    """How long a benchmark takes at least."""
    windows = [settings.latency_s] + ([settings.energy_s] if has_energy else [])
    return settings.rounds * choices * sum(window_s + settings.warm_up_s for window_s in windows) + (
        settings.idle_s if has_energy else 0.0
    )
