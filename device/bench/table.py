"""Formats a benchmark as a table with notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device.bench.conditions import list_unknowns
from device.bench.figures import find_confidence
from device.bench.machine import format_machine
from device.bench.result import BenchResult, Caveat, ChoiceResult, EnergyFigures, Idle, MedianRange
from device.bench.runner import describe_choice

_HEADINGS = ("runtime", "threads", "precision", "px", "p50 ms", "p90 ms", "p99 ms", "FPS", "mJ gross", "mJ net", "W", "MB", "")


def format_result(result: BenchResult) -> str:
    """Formats the machine, the table, and the notes."""
    lines = [format_machine(result.machine), *_describe_bundles(result), ""]
    lines += format_columns([_HEADINGS, *(_row(one) for one in result.choices)])
    lines += ["", *_notes(result)]
    return "\n".join(lines)


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats rows in columns; text is aligned left, numbers right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lefts = [not any(character.isdigit() for row in rows[1:] for character in row[column][:1]) for column in range(len(widths))]
    return [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in zip(row, widths, lefts, strict=True)
        ).rstrip()
        for row in rows
    ]


def _describe_bundles(result: BenchResult) -> list[str]:
    bundles = {(one.choice.profile, one.choice.model, one.choice.manifest_sha256) for one in result.choices}
    return [f"bundle {profile}: {model} (manifest {digest[:12]})" for profile, model, digest in sorted(bundles)]


def _row(one: ChoiceResult) -> tuple[str, ...]:
    choice, latency, energy = one.choice, one.latency, one.energy
    known = (choice.runtime, str(choice.threads), choice.precision, str(choice.input_px))
    if one.failure:
        return (*known, *["-"] * 8, "failed")
    figures = (
        _milli(latency.p50_s if latency else None),
        _median(latency.p90_s if latency else None, 2, 1e3),
        _median(latency.p99_s if latency else None, 2, 1e3),
        _median(latency.rate_fps if latency else None, 1),
        _milli(energy.gross_j if energy else None),
        _median(energy.net_j if energy else None, 2, 1e3),
        _median(energy.power_w if energy else None, 2),
        f"{one.peak_rss_bytes / 1e6:.0f}" if one.peak_rss_bytes else "-",
    )
    marks = (["ESTIMATE"] if energy and energy.is_estimate else []) + [caveat.code for caveat in one.flags]
    return (*known, *figures, ", ".join(marks))


def _milli(interval: MedianRange | None) -> str:
    return format_interval(interval, 2, 1e3) if interval else "-"


def _median(interval: MedianRange | None, digits: int, factor: float = 1.0) -> str:
    return f"{interval.median * factor:.{digits}f}" if interval else "-"


def format_interval(interval: MedianRange, digits: int, factor: float = 1.0) -> str:
    """``4.53 (4.51-4.60)``."""
    median, low, high = (f"{value * factor:.{digits}f}" for value in (interval.median, interval.low, interval.high))
    return f"{median} ({low}-{high})"


def _notes(result: BenchResult) -> list[str]:
    notes = [_describe_method(result), *_describe_energy(result)]
    if not result.is_complete:
        notes.append("INTERRUPTED: some choices have too few rounds, or none")
    for one in result.choices:
        if one.failure:
            name = f"{one.choice.runtime}, {one.choice.threads}, {one.choice.precision}"
            notes.append(f"failed: {name}: {one.failure.message}")
    notes += describe_caveats(caveat for one in result.choices for caveat in one.flags)
    unknowns = list_unknowns([taken.conditions for one in result.choices for taken in one.rounds])
    if unknowns:
        notes.append(f"this machine can't report: {', '.join(unknowns)}")
    return notes


def describe_caveats(caveats: Iterable[Caveat]) -> list[str]:
    """One line per kind of caveat: the one with the highest figure, or else every distinct one."""
    kinds: dict[str, list[Caveat]] = {}
    for caveat in caveats:
        kinds.setdefault(caveat.code, []).append(caveat)
    return [f"{caveat.code}: {caveat.detail}" for kind in kinds.values() for caveat in _choose_worst(kind)]


def _choose_worst(kind: Sequence[Caveat]) -> list[Caveat]:
    counted = [(caveat.figure, caveat) for caveat in kind if caveat.figure is not None]
    if counted:
        return [max(counted, key=lambda pair: pair[0])[1]]
    return list(dict.fromkeys(kind))


def _describe_method(result: BenchResult) -> str:
    settings = result.settings
    style = "MLPerf-Tiny-style" if settings.conforms else "quick look, not MLPerf-Tiny-style"
    counts = {one.latency.p50_s.rounds for one in result.choices if one.latency} or {settings.rounds}
    fewest, most = min(counts), max(counts)
    rounds, sure = (f"{most}", "with") if fewest == most else (f"{fewest} to {most}", "with at least")
    return (
        f"{style}: median of {rounds} rounds of at least {settings.latency_s:g} s; in brackets the range of rounds, "
        f"which contains the true median {sure} {find_confidence(fewest):.1%} confidence"
    )


def _describe_energy(result: BenchResult) -> list[str]:
    figures = [one.energy for one in result.choices if one.energy]
    notes = [_describe_meter(energies) for energies in _by_meter(figures)]
    notes += dict.fromkeys(
        f"no energy: {one.energy_missing_reason}"
        for one in result.choices
        if one.energy is None and one.energy_missing_reason and not one.failure
    )
    if result.idle and figures:
        notes.append(_describe_idle(result.idle))
        notes += _explain_no_net(result.choices, result.idle)
    return notes


def _by_meter(figures: Sequence[EnergyFigures]) -> list[list[EnergyFigures]]:
    groups: dict[tuple[str, str], list[EnergyFigures]] = {}
    for energy in figures:
        groups.setdefault((energy.source, energy.scope), []).append(energy)
    return list(groups.values())


def _describe_meter(energies: Sequence[EnergyFigures]) -> str:
    first = energies[0]
    kind = "ESTIMATE, not measured" if first.is_estimate else "measured"
    text = f"energy: {kind}: {first.source}, scope {first.scope}{_describe_step(first)}"
    text += f"; the sampler used {first.sampler_cpu_share:.1%} of a core"
    slowdowns = [energy.sampler_slowdown for energy in energies if energy.sampler_slowdown is not None]
    if slowdowns:
        text += f" and slowed inference down by at most {max(slowdowns):.1%}"
    return text


def _describe_step(energy: EnergyFigures) -> str:
    return f", in steps of {energy.resolution_w * 1e3:.3g} mW" if energy.resolution_w else ""


def _describe_idle(idle: Idle) -> str:
    if idle.power is None:
        return f"no net figures: {idle.power_missing_reason}"
    idle_w = format_power(idle.power.power_w, is_estimate=idle.power.is_estimate)
    return f"idle: {idle_w} over {idle.duration_s:.0f} s, subtracted for the net figures"


def _explain_no_net(choices: Sequence[ChoiceResult], idle: Idle) -> list[str]:
    notes = []
    for one in choices:
        if one.energy and idle.power and one.energy.net_j is None:
            is_same = (one.energy.source, one.energy.scope) == (idle.power.source, idle.power.scope)
            other = f"another meter gave the idle power: {idle.power.source}"
            why = "drew no more than the idle machine" if is_same else other
            notes.append(f"no net figure: {describe_choice(one.choice)}: {why}")
    return notes


def format_power(power_w: float, *, is_estimate: bool) -> str:
    """``2.31 W``, or ``2.31 W (ESTIMATE)``."""
    return f"{power_w:.2f} W" + (" (ESTIMATE)" if is_estimate else "")
