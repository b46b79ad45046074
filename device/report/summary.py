"""Makes figures of what was recorded: of each run, and of what can be compared, side by side.

Energy an inference is gross: what the meter counted over the time that it covered, by the inferences of that time. Idle power
is not subtracted. A gap adds neither energy nor time nor inferences.

Whatever isn't alike is never added up: power of another source, of another scope, or an estimate; runs of another network,
board or setting; and runs that were throttled stand apart from those that weren't, and from those of which nothing could tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Literal

import msgspec

from device import __version__
from device.bench.result import BenchResult, ChoiceResult, Interval
from device.contract.profile import Scope
from device.protocols import MeterRecord, RunRecord
from device.report.words import format_duration
from device.telemetry.read import Band, Extent, Interruptions, PowerSums, SourceSums, Store

ThrottleState = Literal["throttled", "not_throttled", "unsupported"]
Method = Literal["run", "bench"]


class Throttling(msgspec.Struct, frozen=True):
    """Whether the processor was slowed down, or short of voltage.

    Attributes:
        state: ``unsupported`` where nothing could tell, which isn't "not throttled".
        flags: those that held -> for how long, in seconds; None where it isn't known how long.
        told_s: the time of which the board could tell.
    """

    state: ThrottleState
    flags: dict[str, float | None]
    told_s: float | None


class Range(msgspec.Struct, frozen=True):
    """A figure, between the least and the greatest that it was made of: runs, or a benchmark's rounds."""

    value: float
    low: float
    high: float


class RunPower(msgspec.Struct, frozen=True):
    """Power of a run by one source.

    Attributes:
        source: what gives the figure.
        scope: what it covers.
        is_estimate: a model gave it, not a sensor.
        power_w: mean over ``covered_s``.
        least_w: least of the intervals; None for a meter that isn't the headline's: it has one figure a run.
        most_w: greatest of the intervals; likewise.
        energy_j: over ``covered_s``.
        covered_s: time that the meter covered; the rest is a gap.
        covered_frames: inferences of that time.
        energy_per_inference_j: gross; None where there were no inferences.
        fps_per_w: inferences a joule; None where there was no energy.
    """

    source: str
    scope: Scope
    is_estimate: bool
    power_w: float
    least_w: float | None
    most_w: float | None
    energy_j: float
    covered_s: float
    covered_frames: float
    energy_per_inference_j: float | None
    fps_per_w: float | None


class RunReport(msgspec.Struct, frozen=True):
    """A run.

    Attributes:
        file: the store that it is in.
        run: what was run, where.
        length_s: from its first interval's begin to its last one's end.
        recorded_s: what of it intervals cover.
        gaps: times between intervals that nothing was recorded of.
        gaps_s: their length together.
        intervals: how many.
        frames: inferences.
        dropped: frames that were never looked at.
        unknown: frames that were not named; None where the store is older than that.
        fps: inferences by recorded time.
        least_fps: least of the intervals.
        most_fps: greatest of the intervals.
        latency_s: ``p50``, ``p90``, ``p99`` -> the least, the median and the greatest of the intervals' percentiles. That isn't
            the percentile of the run, which can't be had from them.
        power: by source; empty where there is no figure. The headline's from the intervals, other meters' from their totals.
        meters: each meter's total, and what reading them cost; empty where the store is older than that.
        unmarked_power_intervals: with power that doesn't say where it comes from: left out.
        temperature_c: least, mean and greatest.
        frequency_hz: least and greatest.
        throttling: as it says.
        heat_limited_s: length of the intervals in which the profile's limit on heat held it to a lower rate, in all or in part
            of them: those of an old run last a minute or an hour. None where the store is older than that.
        interruptions: by source and reason.
        sources: what each gave.
        most_rss_bytes: the most memory at any interval's end.
    """

    file: str
    run: RunRecord
    length_s: float
    recorded_s: float
    gaps: int
    gaps_s: float
    intervals: int
    frames: int
    dropped: int
    unknown: int | None
    fps: float
    least_fps: float
    most_fps: float
    latency_s: dict[str, Band]
    power: tuple[RunPower, ...]
    meters: tuple[MeterRecord, ...]
    unmarked_power_intervals: int
    temperature_c: tuple[float, float, float] | None
    frequency_hz: tuple[float, float] | None
    throttling: Throttling
    heat_limited_s: float | None
    interruptions: tuple[Interruptions, ...]
    sources: tuple[SourceSums, ...]
    most_rss_bytes: int


class SubjectPower(msgspec.Struct, frozen=True):
    """Power of a subject by one source. The attributes are those of `RunPower`.

    ``net_energy_per_inference_j`` is a benchmark's, with the idle power subtracted.
    """

    source: str
    scope: Scope
    is_estimate: bool
    power_w: Range
    energy_per_inference_j: Range | None
    fps_per_w: Range | None
    net_energy_per_inference_j: Range | None = None


class Subject(msgspec.Struct, frozen=True):
    """What is compared: runs of one setting together, or one choice of a benchmark.

    Attributes:
        label: short, and another for each subject of a report.
        method: a run's rate is the daemon's with its camera, a benchmark's the bare network's: they aren't compared.
        of: run ids, or the benchmark's file.
        latency_p50_s: median latency: of a benchmark's inferences; None for runs, whose intervals have one each.
        fps: inferences a second.
        power: by source.
        throttling: of all of it.
        warnings: what speaks against the figures.
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
    """All figures.

    Attributes:
        runs: in the order of the files, and of time.
        subjects: side by side.
        empty_runs: ids of runs that have no intervals.
        version: of ghostwatt.
        kind: tells this from other files.
        schema: of it.
    """

    runs: tuple[RunReport, ...]
    subjects: tuple[Subject, ...]
    empty_runs: tuple[str, ...] = ()
    version: str = __version__
    kind: Literal["ghostwatt report"] = "ghostwatt report"
    schema: Literal[1] = 1


class Panel(msgspec.Struct, frozen=True):
    """Figures that may stand beside each other: of one method, one scope, and all measured or all estimated."""

    method: Method
    is_estimate: bool
    scope: Scope
    bars: tuple[tuple[Subject, SubjectPower], ...]


# --- runs -------------------------------------------------------------------------------------------------------------


def summarise_run(store: Store, run: RunRecord, extent: Extent) -> RunReport:
    """Sums a run up."""
    sums = store.sum_up(run.run_id)
    _, gaps, gaps_s = store.read_gaps(run.run_id, near_s=extent.end_s - extent.start_s)
    meters = tuple(store.list_meters(run.run_id))
    bands = {name: store.find_band(run.run_id, f"latency_{name}_s") for name in ("p50", "p90", "p99")}
    return RunReport(
        file=str(store.path),
        run=run,
        length_s=extent.end_s - extent.start_s,
        recorded_s=sums.recorded_s,
        gaps=gaps,
        gaps_s=gaps_s,
        intervals=extent.rows,
        frames=sums.frames,
        dropped=sums.dropped,
        unknown=sums.unknown,
        fps=_rate(sums.frames, sums.recorded_s),
        least_fps=sums.least_fps,
        most_fps=sums.most_fps,
        latency_s={name: band for name, band in bands.items() if band is not None},
        power=_list_power(store.sum_power(run.run_id), meters, _rate(sums.frames, sums.recorded_s)),
        meters=meters,
        unmarked_power_intervals=sums.unmarked_power_rows,
        temperature_c=_all(sums.least_temperature_c, sums.mean_temperature_c, sums.most_temperature_c),
        frequency_hz=_both(sums.least_frequency_hz, sums.most_frequency_hz),
        throttling=judge_throttling(store.sum_throttling(run.run_id)),
        heat_limited_s=sums.heat_limited_s,
        interruptions=tuple(store.sum_interruptions(run.run_id, extent.end_s)),
        sources=tuple(store.sum_sources(run.run_id)),
        most_rss_bytes=sums.most_rss_bytes,
    )


def _list_power(sums: Sequence[PowerSums], meters: Sequence[MeterRecord], fps: float) -> tuple[RunPower, ...]:
    """By source. A meter that isn't the headline's has a total only: its inferences are the run's rate times its time."""
    found = [_run_power([one]) for one in sums if one.covered_s > 0]
    known = {(one.source, one.scope, one.is_estimate) for one in found}
    for meter in meters:
        is_new = (meter.source, meter.scope, meter.is_estimate) not in known
        if is_new and meter.energy_j is not None and meter.covered_s > 0:
            found.append(
                _power_of(
                    meter.source,
                    meter.scope,
                    meter.energy_j,
                    meter.covered_s,
                    fps * meter.covered_s,
                    is_estimate=meter.is_estimate,
                )
            )
    return tuple(found)


def judge_throttling(lengths_s: dict[str | None, float]) -> Throttling:
    """What flags say, joined by commas -> for how long; None: nothing could tell."""
    flags: dict[str, float | None] = {}
    for text, length_s in sorted(lengths_s.items(), key=lambda item: item[0] or ""):
        for flag in (text or "").split(","):
            if flag:
                flags[flag] = (flags.get(flag) or 0.0) + length_s
    told_s = sum(length_s for text, length_s in lengths_s.items() if text is not None)
    if flags:
        return Throttling("throttled", flags, told_s)
    return Throttling("not_throttled" if told_s > 0 else "unsupported", {}, told_s)


def describe_throttling(throttling: Throttling) -> str:
    """For people: ``throttled: under voltage (in 12 s)``, which is the length of the intervals that saw it."""
    if throttling.state == "unsupported":
        return "can't tell whether it was throttled"
    if throttling.state == "not_throttled":
        return "not throttled"
    flags = (
        flag.replace("_", " ") + ("" if length_s is None else f" (in {format_duration(length_s)})")
        for flag, length_s in throttling.flags.items()
    )
    return f"throttled: {', '.join(flags)}"


def describe_heat_limit(limited_s: float) -> str:
    """For people. As with a flag, the duration is that of the intervals that saw it."""
    return f"by the profile's limit on heat, during intervals of {format_duration(limited_s)} in all"


# --- side by side -----------------------------------------------------------------------------------------------------


def make_report(
    runs: Sequence[RunReport], benches: Sequence[tuple[Path, BenchResult]], empty_runs: Sequence[str] = ()
) -> Report:
    """Sets everything side by side."""
    groups: dict[tuple[object, ...], list[RunReport]] = {}
    for run in runs:
        groups.setdefault(_setting(run), []).append(run)
    subjects = [_subject_of_runs(group) for group in groups.values()]
    subjects += [
        _subject_of_choice(path, bench, choice) for path, bench in benches for choice in bench.choices if _has_rate(choice)
    ]
    subjects.sort(key=lambda subject: (subject.method != "run", subject.profile, subject.board, subject.label, subject.of))
    return Report(tuple(runs), _tell_apart(subjects), tuple(empty_runs))


def find_panels(subjects: Iterable[Subject]) -> list[Panel]:
    """Which figures of power may stand beside each other; measured ones first."""
    found: dict[tuple[bool, Method, Scope], list[tuple[Subject, SubjectPower]]] = {}
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
    fps = Range(_rate(sum(run.frames for run in runs), recorded_s), min(every), max(every))
    by_source: dict[tuple[str, Scope, bool], list[RunPower]] = {}
    for run in runs:
        for power in run.power:
            by_source.setdefault((power.source, power.scope, power.is_estimate), []).append(power)
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
        power=tuple(_together(powers) for powers in by_source.values()),
        throttling=_join(run.throttling for run in runs),
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
    """Figures of one source over several runs: by their sums, not by the mean of means."""
    total = _run_power(powers)
    return SubjectPower(
        source=total.source,
        scope=total.scope,
        is_estimate=total.is_estimate,
        power_w=Range(total.power_w, min(one.power_w for one in powers), max(one.power_w for one in powers)),
        energy_per_inference_j=_range(total.energy_per_inference_j, [one.energy_per_inference_j for one in powers]),
        fps_per_w=_range(total.fps_per_w, [one.fps_per_w for one in powers]),
    )


def _run_power(parts: Sequence[PowerSums | RunPower]) -> RunPower:
    first = parts[0]
    frames = sum(part.covered_frames if isinstance(part, RunPower) else part.frames for part in parts)
    total = _power_of(
        first.source,
        first.scope,
        sum(part.energy_j for part in parts),
        sum(part.covered_s for part in parts),
        frames,
        is_estimate=first.is_estimate,
    )
    return msgspec.structs.replace(
        total,
        least_w=min((part.least_w for part in parts if part.least_w is not None), default=None),
        most_w=max((part.most_w for part in parts if part.most_w is not None), default=None),
    )


def _power_of(source: str, scope: Scope, energy_j: float, covered_s: float, frames: float, *, is_estimate: bool) -> RunPower:
    return RunPower(
        source=source,
        scope=scope,
        is_estimate=is_estimate,
        power_w=energy_j / covered_s,
        least_w=None,
        most_w=None,
        energy_j=energy_j,
        covered_s=covered_s,
        covered_frames=frames,
        energy_per_inference_j=energy_j / frames if frames > 0 else None,
        fps_per_w=frames / energy_j if energy_j > 0 else None,
    )


def _range(value: float | None, parts: Sequence[float | None]) -> Range | None:
    known = [part for part in parts if part is not None]
    return None if value is None else Range(value, min([value, *known]), max([value, *known]))


def _join(parts: Iterable[Throttling]) -> Throttling:
    lengths_s: dict[str | None, float] = {}
    for part in parts:
        for flag, length_s in part.flags.items():
            lengths_s[flag] = lengths_s.get(flag, 0.0) + (length_s or 0.0)
        lengths_s[""] = lengths_s.get("", 0.0) + (part.told_s or 0.0)
    joined = judge_throttling(lengths_s)
    return msgspec.structs.replace(joined, told_s=lengths_s.get("", 0.0))


# --- benchmarks -------------------------------------------------------------------------------------------------------


def _has_rate(choice: ChoiceResult) -> bool:
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


def _range_of(interval: Interval) -> Range:
    return Range(interval.median, interval.low, interval.high)


# --- labels -----------------------------------------------------------------------------------------------------------


def _tell_apart(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Labels by what tells subjects of one profile apart, and by no more."""
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
    threads = f"{subject.threads} thread" + ("s" if subject.threads != 1 else "")
    for name, text in (
        ("board", subject.board),
        ("model", subject.model),
        ("runtime", subject.runtime),
        ("threads", threads),
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


def _rate(frames: int, length_s: float) -> float:
    return frames / length_s if length_s > 0 else 0.0


def _all(*values: float | None) -> tuple[float, float, float] | None:
    low, middle, high = values
    return None if low is None or middle is None or high is None else (low, middle, high)


def _both(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
