"""Sets side by side what may be compared: runs of one setting together, and each choice of a benchmark.

Figures that aren't alike are never pooled: power of different origins; runs of different networks, boards or settings. Runs
that were throttled stand apart from those that weren't, and from those of which nothing could tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Literal

import msgspec

from device import __version__
from device.bench.result import BenchResult, ChoiceResult, MedianRange
from device.protocols import PowerOrigin
from device.report.summary import RunPower, RunReport, join_power, rate
from device.report.throttling import ThrottleState, Throttling, describe_heat_limit, join_throttling
from device.report.words import format_duration, number_of

Method = Literal["run", "bench"]


class Range(msgspec.Struct, frozen=True):
    """A figure, between the least and the greatest of those that it was made of: runs, or a benchmark's rounds."""

    value: float
    low: float
    high: float


class SubjectPower(PowerOrigin, frozen=True, kw_only=True):
    """Power of a subject by one source.

    Attributes:
        power_w: see `RunPower`.
        energy_per_inference_j: see `RunPower`.
        fps_per_w: see `RunPower`.
        net_energy_per_inference_j: of a benchmark: with the idle power subtracted.
    """

    power_w: Range
    energy_per_inference_j: Range | None
    fps_per_w: Range | None
    net_energy_per_inference_j: Range | None = None


class Subject(msgspec.Struct, frozen=True):
    """What is compared: runs of one setting together, or one choice of a benchmark.

    Attributes:
        label: short, and unique in a report.
        method: a run's rate is the daemon's with its camera, a benchmark's the bare network's: they aren't compared.
        of: run ids, or the benchmark's file.
        fps: inferences per second.
        latency_p50_s: median latency of a benchmark's inferences; None for runs, whose intervals have one each.
        power: by origin.
        throttling: of all of it.
        warnings: reasons to doubt the figures.
    """

    label: str
    method: Method
    of: tuple[str, ...]
    profile: str
    board: str
    model: str
    runtime: str
    threads: int
    manifest_sha256: str
    fps: Range | None
    latency_p50_s: Range | None
    power: tuple[SubjectPower, ...]
    throttling: Throttling
    warnings: tuple[str, ...]


class Report(msgspec.Struct, frozen=True):
    """All figures of runs and benchmarks.

    Attributes:
        runs: in the order of the files, and of time.
        subjects: what stands side by side.
        empty_runs: ids of runs that have no intervals.
        version: of ghostwatt.
        kind: tells this file from others.
        schema: of this format.
    """

    runs: tuple[RunReport, ...]
    subjects: tuple[Subject, ...]
    empty_runs: tuple[str, ...] = ()
    version: str = __version__
    kind: Literal["ghostwatt report"] = "ghostwatt report"
    schema: Literal[1] = 1


class Panel(msgspec.Struct, frozen=True):
    """Power figures that may stand beside each other: of one method, one scope, and all measured or all estimated."""

    method: Method
    is_estimate: bool
    scope: str
    bars: tuple[tuple[Subject, SubjectPower], ...]


# --- side by side -----------------------------------------------------------------------------------------------------


def make_report(
    runs: Sequence[RunReport], benches: Sequence[tuple[Path, BenchResult]], empty_runs: Sequence[str] = ()
) -> Report:
    """Sets runs and benchmarks side by side.

    Args:
        runs: summed up.
        benches: results, and their files.
        empty_runs: ids of runs that have no intervals.
    """
    groups: dict[tuple[object, ...], list[RunReport]] = {}
    for run in runs:
        groups.setdefault(_setting(run), []).append(run)
    subjects = [_subject_of_runs(group) for group in groups.values()]
    subjects += [
        _subject_of_choice(path, bench, choice) for path, bench in benches for choice in bench.choices if _hasrate(choice)
    ]
    subjects.sort(key=lambda subject: (subject.method != "run", subject.profile, subject.board, subject.label, subject.of))
    return Report(tuple(runs), _tell_apart(subjects), tuple(empty_runs))


def find_panels(subjects: Iterable[Subject]) -> list[Panel]:
    """Groups the power figures that may stand beside each other; measured ones first."""
    found: dict[tuple[bool, Method, str], list[tuple[Subject, SubjectPower]]] = {}
    for subject in subjects:
        for power in subject.power:
            found.setdefault((power.is_estimate, subject.method, power.scope), []).append((subject, power))
    ordered = sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != "run", item[0][2]))
    return [Panel(method, is_estimate, scope, tuple(bars)) for (is_estimate, method, scope), bars in ordered]


def _setting(run: RunReport) -> tuple[object, ...]:
    of = run.run
    return of.profile, of.board, of.model, of.manifest_sha256, of.runtime, of.threads, run.throttling.state


def _subject_of_runs(runs: Sequence[RunReport]) -> Subject:
    first = runs[0].run
    recorded_s = sum(run.recorded_s for run in runs)
    every = [run.fps for run in runs]
    fps = Range(rate(sum(run.frames for run in runs), recorded_s), min(every), max(every))
    by_origin: dict[PowerOrigin, list[RunPower]] = {}
    for run in runs:
        for power in run.power:
            by_origin.setdefault(power.origin, []).append(power)
    return Subject(
        label=first.profile,
        method="run",
        of=tuple(run.run.run_id for run in runs),
        profile=first.profile,
        board=first.board,
        model=first.model,
        runtime=first.runtime,
        threads=first.threads,
        manifest_sha256=first.manifest_sha256,
        fps=fps,
        latency_p50_s=None,
        power=tuple(_together(powers) for powers in by_origin.values()),
        throttling=join_throttling(run.throttling for run in runs),
        warnings=_warn(runs),
    )


def _warn(runs: Sequence[RunReport]) -> tuple[str, ...]:
    interrupted_s = sum(one.total_s for run in runs for one in run.interruptions if one.reason != "dark")
    gaps_s = sum(run.gaps_s for run in runs)
    warnings = []
    if interrupted_s:
        warnings.append(f"sources interrupted for {format_duration(interrupted_s)}")
    limited_s = sum(run.heat_limited_s or 0.0 for run in runs)
    if limited_s:
        warnings.append(f"held to a lower rate {describe_heat_limit(limited_s)}")
    if gaps_s:
        warnings.append(f"not recorded for {format_duration(gaps_s)}")
    return tuple(warnings)


def _together(powers: Sequence[RunPower]) -> SubjectPower:
    total = join_power(powers)
    return SubjectPower(
        **msgspec.structs.asdict(total.origin),
        power_w=Range(total.power_w, min(one.power_w for one in powers), max(one.power_w for one in powers)),
        energy_per_inference_j=_range(total.energy_per_inference_j, [one.energy_per_inference_j for one in powers]),
        fps_per_w=_range(total.fps_per_w, [one.fps_per_w for one in powers]),
    )


def _range(value: float | None, parts: Sequence[float | None]) -> Range | None:
    known = [part for part in parts if part is not None]
    return None if value is None else Range(value, min([value, *known]), max([value, *known]))


# --- benchmarks -------------------------------------------------------------------------------------------------------


def _hasrate(choice: ChoiceResult) -> bool:
    return choice.latency is not None or choice.energy is not None


def _subject_of_choice(path: Path, bench: BenchResult, result: ChoiceResult) -> Subject:
    choice, latency, energy = result.choice, result.latency, result.energy
    rate = latency.rate_fps if latency else energy.rate_fps if energy else None
    return Subject(
        label=choice.profile,
        method="bench",
        of=(str(path),),
        profile=choice.profile,
        board=bench.machine.board or bench.machine.machine,
        model=choice.model,
        runtime=choice.runtime,
        threads=choice.threads,
        manifest_sha256=choice.manifest_sha256,
        fps=_range_of(rate) if rate else None,
        latency_p50_s=_range_of(latency.p50_s) if latency else None,
        power=_power_of_choice(result),
        throttling=_throttling_of_choice(result),
        warnings=(
            *(f"{flag.code}: {flag.detail}" for flag in result.flags),
            *(() if bench.settings.conforms else ("a quick benchmark: shorter than it should be",)),
            *(() if bench.is_complete else ("the benchmark was interrupted",)),
        ),
    )


def _power_of_choice(result: ChoiceResult) -> tuple[SubjectPower, ...]:
    energy = result.energy
    if energy is None:
        return ()
    gross = _range_of(energy.gross_j)
    is_positive = min(gross.value, gross.low) > 0
    return (
        SubjectPower(
            source=energy.source,
            scope=energy.scope,
            is_estimate=energy.is_estimate,
            power_w=_range_of(energy.power_w),
            energy_per_inference_j=gross,
            fps_per_w=Range(1 / gross.value, 1 / gross.high, 1 / gross.low) if is_positive else None,
            net_energy_per_inference_j=_range_of(energy.net_j) if energy.net_j else None,
        ),
    )


def _throttling_of_choice(result: ChoiceResult) -> Throttling:
    told = [one.conditions.throttled for one in result.rounds if one.conditions.throttled is not None]
    flags: dict[str, float | None] = {flag: None for flags in told for flag in flags}
    if flags:
        return Throttling("throttled", flags, None)
    return Throttling("not_throttled" if told else "unsupported", {}, None)


def _range_of(interval: MedianRange) -> Range:
    return Range(interval.median, interval.low, interval.high)


# --- labels -----------------------------------------------------------------------------------------------------------


def _tell_apart(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Labels subjects by what tells those of one profile apart, and by no more."""
    labelled = []
    for subject in subjects:
        others = [
            one for one in subjects if one.method == subject.method and one.profile == subject.profile and one is not subject
        ]
        labelled.append(msgspec.structs.replace(subject, label=_label(subject, others)))
    return tuple(labelled)


_STATES: dict[ThrottleState, str] = {
    "throttled": "throttled",
    "not_throttled": "not throttled",
    "unsupported": "throttling unknown",
}


def _label(subject: Subject, others: Sequence[Subject]) -> str:
    parts = [subject.profile]
    for name, text in (
        ("board", subject.board),
        ("model", subject.model),
        ("runtime", subject.runtime),
        ("threads", number_of(subject.threads, "thread")),
        ("manifest_sha256", f"bundle {subject.manifest_sha256[:8]}"),
        ("throttling.state", _STATES[subject.throttling.state]),
        ("of", Path(subject.of[0]).name),
    ):
        value = attrgetter(name)
        others_differ = any(value(one) != value(subject) for one in others)
        if others_differ and (name != "of" or subject.method == "bench"):
            parts.append(text)
            others = [one for one in others if value(one) == value(subject)]
    return ", ".join(parts)
