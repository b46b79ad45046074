"""Draws a run over time: rate, latency, power, temperature, clock and throttling, one above the other.

Where nothing was recorded, nothing is drawn: no line leads across, and no 0 stands for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from device.report.plots import SCOPES, Palette, new_figure, style_axes, write_heading
from device.report.summary import RunPower, RunReport, describe_length
from device.telemetry.read import Extent, Point, PowerPoint, Span, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLAGS = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")

HEAT_LIMIT = "by the profile's limit on heat"
"""What the daemon itself slows down by."""

_LINE_IN = 0.165
"""Height of a line of notes."""


class Course(NamedTuple):
    """A run over time.

    Attributes:
        extent: of the run.
        points: see `device.telemetry.read.Store.read_points`.
        power: each source, and its points.
        gaps: when nothing was recorded.
        interrupted: when a source gave no good frames.
        slowed: flag -> when it held; also `HEAT_LIMIT`, the daemon's own.
    """

    extent: Extent
    points: Sequence[Point]
    power: Sequence[tuple[RunPower, Sequence[PowerPoint]]]
    gaps: Sequence[Span]
    interrupted: Sequence[Span]
    slowed: dict[str, Sequence[Span]]


At = Callable[[float], float]
"""From a monotonic moment to the axis of time."""


class _Panel(NamedTuple):
    """One plot: what it shows, what must be known of it, how it is drawn, and the names and colours of several lines."""

    heading: str
    notes: tuple[str, ...]
    draw: Callable[[Axes, At], None]
    height: float = 1.0
    key: tuple[tuple[str, str], ...] = ()


def draw_course(run: RunReport, course: Course, palette: Palette, width_in: float) -> Figure:
    """Draws a run over time; a figure that nobody has gets no plot.

    Args:
        run: its figures.
        course: the run over time.
        palette: of the drawing.
        width_in: of the drawing.
    """
    panels = _panels(run, course, palette)
    is_wide = width_in > 6
    columns = 130 if is_wide else 56
    notes = [_wrap(panel.notes, columns) for panel in panels]
    panel_in = 1.25 if is_wide else 1.15
    head_in = [0.42 + _LINE_IN * len(lines) for lines in notes]
    height_in = sum(panel.height for panel in panels) * panel_in + sum(head_in) + 0.5
    figure = new_figure(width_in, height_in, palette)
    left, right = (0.05, 0.985) if is_wide else (0.11, 0.97)
    unit, unit_s = _time_unit(course.extent.end_s - course.extent.start_s)

    def at(moment_s: float) -> float:
        return (moment_s - course.extent.start_s) / unit_s

    top_in = height_in
    for panel, lines, above_in in zip(panels, notes, head_in, strict=True):
        bottom_in = top_in - above_in - panel.height * panel_in
        axes = figure.add_axes((left, bottom_in / height_in, right - left, panel.height * panel_in / height_in))
        top_in = bottom_in
        style_axes(axes, palette)
        write_heading(axes, panel.heading, palette, x=-left / (right - left), pad=6 + 72 * _LINE_IN * len(lines))
        _write_notes(axes, lines, -left / (right - left), palette)
        _write_key(axes, panel.key, 6 + 72 * _LINE_IN * len(lines))
        _shade(axes, course, at, palette)
        panel.draw(axes, at)
        axes.set_xlim(0, at(course.extent.end_s))
        axes.tick_params(labelbottom=panel is panels[-1])
    axes.set_xlabel(f"{unit} since the start", color=palette.faint, loc="right")
    return figure


def describe_shades(course: Course) -> list[str]:
    """What is shaded, for a caption."""
    shades = []
    if course.interrupted:
        shades.append("red: a source gave no good frames")
    if course.gaps:
        length_s = sum(span.end_s - span.start_s for span in course.gaps)
        shades.append(f"crossed: nothing was recorded ({describe_length(length_s)})")
    return shades


def _wrap(notes: Sequence[str], columns: int) -> list[str]:
    return textwrap.wrap("; ".join(notes), columns)


def _write_notes(axes: Axes, lines: Sequence[str], x: float, palette: Palette) -> None:
    for row, line in enumerate(reversed(lines)):
        axes.annotate(
            line, (x, 1.0), xycoords="axes fraction", xytext=(0, 6 + 72 * _LINE_IN * row), textcoords="offset points",
            color=palette.faint, fontsize=8, va="bottom", annotation_clip=False,
        )  # fmt: skip


def _write_key(axes: Axes, key: Sequence[tuple[str, str]], above_points: float) -> None:
    """Names the lines, right of the heading, in their colours."""
    for place, (name, colour) in enumerate(reversed(key)):
        axes.annotate(
            name,
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(-26 * place, above_points),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            fontweight="bold",
            ha="right",
            va="bottom",
            annotation_clip=False,
        )


def _panels(run: RunReport, course: Course, palette: Palette) -> list[_Panel]:
    several = max((point.rows for point in course.points), default=1)
    mark = ("throttled run",) if run.throttling.state == "throttled" else ()
    band = () if several == 1 else (f"band: least to greatest of up to {several} intervals",)
    points = course.points

    def spreads(heading: str, find: Callable[[Point], Spread | None], colour: str, scale: float = 1.0) -> _Panel:
        return _Panel(heading, (*mark, *band), lambda axes, at: _draw_spreads(axes, at, points, find, colour, scale=scale))

    panels = [_Panel("Inferences a second", (*mark, *band), lambda axes, at: _draw_fps(axes, at, points, palette))]
    if any(point.latency_s for point in points):
        many = f"the median of up to {several} intervals' percentiles; p99: band to the greatest"
        note = "percentiles of each interval" if several == 1 else many
        key = tuple(_percentile_colours(palette).items())
        panels.append(_Panel("Latency, ms", (*mark, note), lambda axes, at: _draw_latency(axes, at, points, palette), key=key))
    for power, power_points in course.power:
        if not power_points:
            continue
        kind = "ESTIMATED" if power.is_estimate else "measured"
        heading = f"Power, W: {kind}, {SCOPES[power.scope]}"
        panels.append(_Panel(heading, (power.source, *mark, *band), _power_drawing(power, power_points, palette)))
    if any(point.temperature_c for point in points):
        panels.append(spreads("Temperature of the processor, °C", lambda point: point.temperature_c, palette.second))
    if any(point.frequency_hz for point in points):
        panels.append(spreads("Clock of the fastest core, GHz", lambda point: point.frequency_hz, palette.third, 1e-9))
    if course.slowed:
        height = 0.3 * len(course.slowed)
        panels.append(_Panel("Slowed down", (), lambda axes, at: _draw_slowed(axes, at, course.slowed, palette), height))
    return panels


def _power_drawing(power: RunPower, points: Sequence[PowerPoint], palette: Palette) -> Callable[[Axes, At], None]:
    def draw(axes: Axes, at: At) -> None:
        colour = palette.estimate if power.is_estimate else palette.first
        spreads = [(point.start_s, point.end_s, point.power_w) for point in points]
        _draw_band(axes, at, spreads, colour, hatch="////" if power.is_estimate else None)
        _draw_line(axes, at, [(start, end, one.median) for start, end, one in spreads], colour, dashed=power.is_estimate)
        _from_zero(axes, [one.most for _, _, one in spreads])

    return draw


def _draw_fps(axes: Axes, at: At, points: Sequence[Point], palette: Palette) -> None:
    _draw_spreads(axes, at, points, lambda point: point.fps, palette.first)
    _from_zero(axes, [point.fps.most for point in points])


def _percentile_colours(palette: Palette) -> dict[str, str]:
    return {"p50": palette.first, "p90": palette.third, "p99": palette.second}


def _draw_latency(axes: Axes, at: At, points: Sequence[Point], palette: Palette) -> None:
    for name, colour in _percentile_colours(palette).items():
        spreads = [(point.start_s, point.end_s, point.latency_s[name]) for point in points if name in point.latency_s]
        _draw_line(axes, at, [(start, end, one.median * 1e3) for start, end, one in spreads], colour)
        if name == "p99":
            _draw_band(
                axes,
                at,
                [(start, end, Spread(one.median, one.median, one.most)) for start, end, one in spreads],
                colour,
                scale=1e3,
            )
    _from_zero(axes, [spread.most * 1e3 for point in points for spread in point.latency_s.values()])


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """An axis from 0, with a little room above the greatest value."""
    axes.set_ylim(0, 1.08 * max([*values, 1e-9]))


def _draw_spreads(
    axes: Axes,
    at: At,
    points: Sequence[Point],
    find: Callable[[Point], Spread | None],
    colour: str,
    *,
    scale: float = 1.0,
) -> None:
    spreads = [(point.start_s, point.end_s, spread) for point in points if (spread := find(point)) is not None]
    _draw_band(axes, at, spreads, colour, scale=scale)
    _draw_line(axes, at, [(start, end, one.median * scale) for start, end, one in spreads], colour)
    low = min(one.least for _, _, one in spreads) * scale
    high = max(one.most for _, _, one in spreads) * scale
    margin = max((high - low) * 0.12, abs(high) * 0.02, 1e-9)
    axes.set_ylim(low - margin, high + margin)


def _draw_slowed(axes: Axes, at: At, slowed: dict[str, Sequence[Span]], palette: Palette) -> None:
    names = [flag for flag in _FLAGS if flag in slowed] + sorted(set(slowed) - set(_FLAGS))
    for row, flag in enumerate(reversed(names)):
        bars = [(at(span.start_s), at(span.end_s) - at(span.start_s)) for span in slowed[flag]]
        axes.broken_barh(bars, (row + 0.12, 0.46), facecolors=palette.bad, edgecolors=palette.bad, linewidth=1)
        axes.text(
            0.004,
            row + 0.64,
            flag.replace("_", " "),
            transform=axes.get_yaxis_transform(),
            color=palette.ink,
            fontsize=8,
            va="bottom",
        )
    axes.set_ylim(0, len(names))
    axes.set_yticks([])


def _shade(axes: Axes, course: Course, at: At, palette: Palette) -> None:
    """Shades, behind the figures, the times that they don't tell of or that aren't as they should be."""
    for span in course.gaps:
        axes.axvspan(
            at(span.start_s), at(span.end_s), facecolor="none", edgecolor=palette.lost, hatch="xx", linewidth=0, alpha=0.55
        )
    for span in course.interrupted:
        axes.axvspan(at(span.start_s), at(span.end_s), color=palette.bad, alpha=0.16, linewidth=0.8)


def _draw_band(
    axes: Axes,
    at: At,
    spreads: Sequence[tuple[float, float, Spread]],
    colour: str,
    *,
    scale: float = 1.0,
    hatch: str | None = None,
) -> None:
    for run in _unbroken(spreads):
        times = [at(moment) for start, end, _ in run for moment in (start, end)]
        low = [one.least * scale for _, _, one in run for _ in range(2)]
        high = [one.most * scale for _, _, one in run for _ in range(2)]
        if hatch:
            # From 0: hatched under the line even where each point is one interval, so that no estimate looks measured.
            axes.fill_between(
                times, [0.0] * len(times), high, facecolor="none", edgecolor=colour, hatch=hatch, linewidth=0, alpha=0.45
            )
        elif low != high:
            axes.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_line(
    axes: Axes,
    at: At,
    values: Sequence[tuple[float, float, float]],
    colour: str,
    *,
    dashed: bool = False,
) -> None:
    for run in _unbroken(values):
        times = [at(moment) for start, end, _ in run for moment in (start, end)]
        heights = [value for _, _, value in run for _ in range(2)]
        style = "--" if dashed else "-"
        axes.plot(times, heights, color=colour, linewidth=1.3, linestyle=style, solid_joinstyle="round")


def _unbroken(values: Sequence[tuple[float, float, Any]]) -> Iterator[list[tuple[float, float, Any]]]:
    """Splits where time is missing between two values, by half of a value's length: nothing is drawn across a gap."""
    run: list[tuple[float, float, Any]] = []
    for start_s, end_s, value in values:
        if run and start_s - run[-1][1] > (end_s - start_s) / 2:
            yield run
            run = []
        if run:
            # Rows that were thinned out may overlap.
            start_s = max(start_s, run[-1][1])
        run.append((start_s, end_s, value))
    if run:
        yield run


def _time_unit(length_s: float) -> tuple[str, float]:
    for name, unit_s in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if length_s >= 3 * unit_s:
            return name, unit_s
    return "seconds", 1.0
