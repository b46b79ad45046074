"""The report for people: one HTML page, and pictures. A throttled run says so beside each of its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from device.report import document
from device.report.bars import Bars, draw_bars, power_bars, rate_bars
from device.report.drawing import NARROW_IN, WIDE_IN, Draw, encode_png, encode_svg
from device.report.subjects import Method, Panel, Report, Subject, find_panels
from device.report.summary import RunReport
from device.report.throttling import describe_heat_limit, describe_throttling
from device.report.time_series import TimeSeries, describe_shades, draw_time_series
from device.report.words import SCOPES, mark_kind, name_kind, number_of

BARS_PNG_IN = 7.0


class _Group(NamedTuple):
    """What stands side by side in one section: runs, or benchmarks."""

    heading: str
    explanation: str
    is_bench: bool
    subjects: Sequence[Subject]
    rates: str
    panels: Sequence[tuple[Panel, Sequence[str]]]
    without_power: Sequence[str]


class _DrawnRun(NamedTuple):
    """A run with its drawings, for a desktop and for a phone."""

    run: RunReport
    wide: str
    narrow: str
    shades: Sequence[str]


def render(report: Report, series: Mapping[str, TimeSeries]) -> str:
    """The page; equal arguments give equal text.

    Args:
        report: all figures.
        series: run id -> its time series, for the runs to draw.
    """
    drawn = [run for run in report.runs if run.run.run_id in series]
    groups = (
        _group(
            report.subjects,
            "run",
            "Runs side by side",
            "What the daemon achieved with its source. The camera's rate or a limit of the profile may bound it.",
        ),
        _group(
            report.subjects,
            "bench",
            "Benchmarks side by side",
            "The network alone, one inference after the other: no camera, no daemon.",
        ),
    )
    return document.render(
        "device.report",
        "runs.html",
        {"throttling": describe_throttling, "heat_limit": describe_heat_limit},
        title=_title(report),
        contents=_contents(report),
        report=report,
        groups=[group for group in groups if group],
        runs=[_draw_run(run, series[run.run.run_id], index) for index, run in enumerate(drawn)],
    )


def draw_pictures(report: Report, series: Mapping[str, TimeSeries]) -> Iterable[tuple[str, bytes]]:
    """PNG files: name and content, one after the other."""
    for method in ("run", "bench"):
        subjects = [one for one in report.subjects if one.method == method and one.fps]
        if subjects:
            yield f"{method}s-fps.png", encode_png(_bars_drawing(rate_bars(subjects), BARS_PNG_IN))
    for panel in find_panels(report.subjects):
        prefix = f"{panel.method}s-{name_kind(panel.is_estimate)}-{panel.scope}"
        suffix = f": {mark_kind(panel.is_estimate)}, {SCOPES[panel.scope]}"
        for bars, name in zip(power_bars(panel), ("power", "energy", "efficiency"), strict=True):
            yield f"{prefix}-{name}.png", encode_png(_bars_drawing(bars, BARS_PNG_IN, suffix))
    for run in report.runs:
        if run.run.run_id in series:
            drawing = _run_drawing(run, series[run.run.run_id], WIDE_IN)
            yield f"run-{run.run.profile}-{run.run.run_id[:12]}.png", encode_png(drawing)


def _group(subjects: Sequence[Subject], method: Method, heading: str, explanation: str) -> _Group | None:
    found = [one for one in subjects if one.method == method]
    if not found:
        return None
    rates = encode_svg(_bars_drawing(rate_bars([one for one in found if one.fps]), NARROW_IN), f"{method}-rate")
    panels = [
        (
            panel,
            [
                encode_svg(_bars_drawing(bars, NARROW_IN), f"{method}-{index}-{place}")
                for place, bars in enumerate(power_bars(panel))
            ],
        )
        for index, panel in enumerate(find_panels(found))
    ]
    without_power = [one.label for one in found if not one.power]
    return _Group(heading, explanation, method == "bench", found, rates, panels, without_power)


def _draw_run(run: RunReport, series: TimeSeries, index: int) -> _DrawnRun:
    wide = encode_svg(_run_drawing(run, series, WIDE_IN), f"run-{index}-wide")
    narrow = encode_svg(_run_drawing(run, series, NARROW_IN), f"run-{index}-narrow")
    return _DrawnRun(run, wide, narrow, describe_shades(series))


def _title(report: Report) -> str:
    names = sorted({subject.profile for subject in report.subjects})
    boards = sorted({subject.board for subject in report.subjects})
    return f"{', '.join(names)} on {', '.join(boards)}" if len(names) <= 4 and len(boards) <= 2 else "Runs and benchmarks"


def _contents(report: Report) -> str:
    benches = sum(subject.method == "bench" for subject in report.subjects)
    parts = ((len(report.runs), "run"), (benches, "benchmark figure"))
    return " and ".join(number_of(number, noun) for number, noun in parts if number)


def _bars_drawing(bars: Bars, width_in: float, suffix: str = "") -> Draw:
    return lambda palette: draw_bars(bars, palette, width_in, suffix)


def _run_drawing(run: RunReport, series: TimeSeries, width_in: float) -> Draw:
    return lambda palette: draw_time_series(run, series, palette, width_in)
