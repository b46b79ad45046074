"""Formats a search as a table of measured points, with the Pareto front, the pick, and notes."""

from __future__ import annotations

from device.bench.conditions import list_unknowns
from device.bench.machine import format_machine
from device.bench.runner import describe_choice
from device.bench.table import describe_caveats, format_columns, format_interval, format_power
from device.tune.result import PointResult, TuneResult

_HEADINGS = ("", "runtime", "threads", "precision", "px", "rate", "governor", "FPS", "W", "mJ", "p50 ms", "rounds", "")


def format_tuning(result: TuneResult) -> str:
    """Formats the machine, the table, and the notes."""
    lines = [format_machine(result.machine), f"aim: {result.aim}", "", *format_points(result), "", *_notes(result)]
    return "\n".join(lines)


def format_points(result: TuneResult) -> list[str]:
    """Formats the lines of the table: measured points, fastest first. ``=>`` marks the pick, ``*`` the Pareto front."""
    measured = [(index, point) for index, point in enumerate(result.points) if point.rate_fps is not None]
    measured.sort(key=lambda pair: -(pair[1].rate_fps.median if pair[1].rate_fps else 0.0))
    return format_columns([_HEADINGS, *(_row(point, is_pick=index == result.pick) for index, point in measured)])


def _row(point: PointResult, *, is_pick: bool) -> tuple[str, ...]:
    choice = point.choice
    marks = (["ESTIMATE"] if point.is_estimate else []) + [caveat.code for caveat in point.flags]
    if point.state == "stopped":
        marks.append("stopped early")
    return (
        ("=>" if is_pick else "  ") + ("*" if point.is_on_front else " "),
        choice.runtime,
        str(choice.threads),
        choice.precision,
        str(choice.input_px),
        f"{point.asked_rate_fps:g}" if point.asked_rate_fps else "full",
        point.governor or "-",
        format_interval(point.rate_fps, 1) if point.rate_fps else "-",
        format_interval(point.power_w, 2) if point.power_w else "-",
        f"{point.energy_j * 1e3:.1f}" if point.energy_j is not None else "-",
        f"{point.p50_s.median * 1e3:.2f}" if point.p50_s else "-",
        str(len(point.rounds)),
        ", ".join(marks),
    )


def _notes(result: TuneResult) -> list[str]:
    settings = result.settings
    counts = {state: sum(point.state == state for point in result.points) for state in ("measured", "stopped", "skipped")}
    notes = [
        f"{len(result.points)} points: {counts['measured']} measured {settings.rounds} times, "
        f"{counts['stopped']} stopped early and {counts['skipped']} skipped, because they could not win",
        "=> the pick; * the Pareto front; in brackets the range of rounds; inference only, without a camera",
        *_describe_power(result),
    ]
    if result.noise > settings.noise:
        notes.append(f"NOISY: rounds of one point differ by a factor of up to {result.noise:.2f}; measure on a quiet machine")
    if result.rivals:
        rivals = "; ".join(_describe(result.points[index]) for index in result.rivals)
        notes.append(f"perhaps as good as the pick (the ranges overlap): {rivals}")
    notes += dict.fromkeys(f"failed: {_describe(point)}: {point.failure.message}" for point in result.points if point.failure)
    notes += describe_caveats(caveat for point in result.points for caveat in point.flags)
    unknowns = list_unknowns([taken.conditions for point in result.points for taken in point.rounds])
    if unknowns:
        notes.append(f"this machine can't report: {', '.join(unknowns)}")
    return notes


def _describe(point: PointResult) -> str:
    rate = f", {point.asked_rate_fps:g} FPS" if point.asked_rate_fps else ""
    return describe_choice(point.choice) + rate + (f", governor {point.governor}" if point.governor else "")


def _describe_power(result: TuneResult) -> list[str]:
    if result.no_power_reason:
        return [f"no power: {result.no_power_reason}"]
    kinds = {
        (point.source, point.scope, point.is_estimate) for point in result.points if point.source and point.scope is not None
    }
    notes = [
        f"power: {'ESTIMATE, not measured' if is_estimate else 'measured'}: {source}, scope {scope}"
        for source, scope, is_estimate in sorted(kinds, key=str)
    ]
    for governor, idle in result.idle.items():
        if idle.power:
            idle_w = format_power(idle.power.power_w, is_estimate=idle.power.is_estimate)
            notes.append(f"idle{f' ({governor})' if governor else ''}: {idle_w}")
    return notes
