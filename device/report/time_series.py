"""Draws a run over time: rate, latency, power, temperature, clock and throttling, one above the other.

Where nothing was recorded, nothing is drawn: no line crosses the gap, and no 0 stands for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from device.report.drawing import Palette, add_axes, new_figure, write_heading
from device.report.summary import RunPower, RunReport
from device.report.words import SCOPES, format_duration, mark_kind
from device.telemetry.read import Band, Bucket, Extent, PowerBucket, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLAGS = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")

HEAT_LIMIT = "by the profile's limit on heat"
"""The flag for the daemon's own slowing down."""

_LINE_IN = 0.165
"""Height of a line of notes."""


class TimeSeries(NamedTuple):
    """A run over time.

    Attributes:
        extent: of the run.
        buckets: see `device.telemetry.read.Store.read_buckets`.
        power: each source, with its buckets.
        gaps: when nothing was recorded.
        interrupted: when a source gave no good frames.
        slowed: flag -> when it held; `HEAT_LIMIT` among them.
    """

    extent: Extent
    buckets: Sequence[Bucket]
    power: Sequence[tuple[RunPower, Sequence[PowerBucket]]]
    gaps: Sequence[Span]
    interrupted: Sequence[Span]
    slowed: dict[str, Sequence[Span]]


At = Callable[[float], float]
"""From monotonic seconds to the time axis."""

Values = Sequence[tuple[float, float, Any]]
"""Each with its start and its end, monotonic, in seconds."""


class _Plot(NamedTuple):
    """One of the plots above each other.

    Attributes:
        heading: what it shows.
        notes: what must be known to read it.
        draw: draws it.
        height: relative to the others.
        key: name and colour of each line, where there are several.
    """

    heading: str
    notes: tuple[str, ...]
    draw: Callable[[Axes, At], None]
    height: float = 1.0
    key: tuple[tuple[str, str], ...] = ()


def draw_time_series(run: RunReport, series: TimeSeries, palette: Palette, width_in: float) -> Figure:
    """Draws a run over time. A quantity without any value gets no plot.

    Args:
        run: its figures.
        series: its time series.
        palette: of the drawing.
        width_in: of the drawing.
    """
    plots = _plots(run, series, palette)
    is_wide = width_in > 6
    columns = 130 if is_wide else 56
    notes = [textwrap.wrap("; ".join(plot.notes), columns) for plot in plots]
    plot_in = 1.25 if is_wide else 1.15
    head_in = [0.42 + _LINE_IN * len(lines) for lines in notes]
    height_in = sum(plot.height for plot in plots) * plot_in + sum(head_in) + 0.5
    figure = new_figure(width_in, height_in, palette)
    left, right = (0.05, 0.985) if is_wide else (0.11, 0.97)
    unit, unit_s = _time_unit(series.extent.end_s - series.extent.start_s)

    def at(moment_s: float) -> float:
        return (moment_s - series.extent.start_s) / unit_s

    bottom_in = height_in
    for plot, lines, above_in in zip(plots, notes, head_in, strict=True):
        bottom_in -= above_in + plot.height * plot_in
        axes = add_axes(figure, palette, (left * width_in, bottom_in, (right - left) * width_in, plot.height * plot_in))
        axes.locator_params(axis="y", nbins=4)
        above_points = 6 + 72 * _LINE_IN * len(lines)
        write_heading(axes, plot.heading, palette, x=-left / (right - left), pad=above_points)
        for row, line in enumerate(reversed(lines)):
            above_line = 6 + 72 * _LINE_IN * row
            _annotate(axes, line, (-left / (right - left), 1.0), (0, above_line), color=palette.faint, fontsize=8)
        for place, (name, colour) in enumerate(reversed(plot.key)):
            style = {"color": colour, "fontsize": 9, "fontweight": "bold", "ha": "right"}
            _annotate(axes, name, (1.0, 1.0), (-26 * place, above_points), **style)
        _shade(axes, series, at, palette)
        plot.draw(axes, at)
        axes.set_xlim(0, at(series.extent.end_s))
        axes.tick_params(labelbottom=plot is plots[-1])
    axes.set_xlabel(f"{unit} since the start", color=palette.faint, loc="right")
    return figure


def describe_shades(series: TimeSeries) -> list[str]:
    """What is shaded, for a caption."""
    shades = []
    if series.interrupted:
        shades.append("red: a source gave no good frames")
    if series.gaps:
        length_s = sum(span.end_s - span.start_s for span in series.gaps)
        shades.append(f"crossed: nothing was recorded ({format_duration(length_s)})")
    return shades


def _annotate(axes: Axes, text: str, at: tuple[float, float], offset_points: tuple[float, float], **style: Any) -> None:
    """Writes outside the axes: ``at`` is a fraction of them."""
    axes.annotate(
        text,
        at,
        xycoords="axes fraction",
        xytext=offset_points,
        textcoords="offset points",
        va="bottom",
        annotation_clip=False,
        **style,
    )


def _plots(run: RunReport, series: TimeSeries, palette: Palette) -> list[_Plot]:
    buckets = series.buckets
    several = max((bucket.rows for bucket in buckets), default=1)
    mark = ("throttled run",) if run.throttling.state == "throttled" else ()
    notes = (*mark, *(() if several == 1 else (f"band: least to greatest of up to {several} intervals",)))

    def of_band(heading: str, find: Callable[[Bucket], Band | None], colour: str, scale: float = 1.0) -> _Plot:
        return _Plot(heading, notes, lambda axes, at: _draw_bands(axes, at, buckets, find, colour, scale=scale))

    plots = [_Plot("Inferences per second", notes, lambda axes, at: _draw_fps(axes, at, buckets, palette))]
    if any(bucket.latency_s for bucket in buckets):
        many = f"the median of up to {several} intervals' percentiles; p99: band to the greatest"
        note = "percentiles of each interval" if several == 1 else many
        key = tuple(_percentile_colours(palette).items())
        plots.append(_Plot("Latency, ms", (*mark, note), lambda axes, at: _draw_latency(axes, at, buckets, palette), key=key))
    for power, power_buckets in series.power:
        if power_buckets:
            heading = f"Power, W: {mark_kind(power.is_estimate)}, {SCOPES[power.scope]}"
            plots.append(_Plot(heading, (power.source, *notes), _power_drawing(power, power_buckets, palette)))
    if any(bucket.temperature_c for bucket in buckets):
        plots.append(of_band("Temperature of the processor, °C", lambda bucket: bucket.temperature_c, palette.second))
    if any(bucket.frequency_hz for bucket in buckets):
        plots.append(of_band("Clock of the fastest core, GHz", lambda bucket: bucket.frequency_hz, palette.third, 1e-9))
    if series.slowed:
        height = 0.3 * len(series.slowed)
        plots.append(_Plot("Slowed down", (), lambda axes, at: _draw_slowed(axes, at, series.slowed, palette), height))
    return plots


def _power_drawing(power: RunPower, buckets: Sequence[PowerBucket], palette: Palette) -> Callable[[Axes, At], None]:
    def draw(axes: Axes, at: At) -> None:
        colour = palette.estimate if power.is_estimate else palette.first
        bands = [(bucket.start_s, bucket.end_s, bucket.power_w) for bucket in buckets]
        _draw_band(axes, at, bands, colour, hatch="////" if power.is_estimate else None)
        _draw_line(axes, at, [(start, end, one.middle) for start, end, one in bands], colour, dashed=power.is_estimate)
        _from_zero(axes, [one.most for _, _, one in bands])

    return draw


def _draw_fps(axes: Axes, at: At, buckets: Sequence[Bucket], palette: Palette) -> None:
    _draw_bands(axes, at, buckets, lambda bucket: bucket.fps, palette.first)
    _from_zero(axes, [bucket.fps.most for bucket in buckets])


def _percentile_colours(palette: Palette) -> dict[str, str]:
    return {"p50": palette.first, "p90": palette.third, "p99": palette.second}


def _draw_latency(axes: Axes, at: At, buckets: Sequence[Bucket], palette: Palette) -> None:
    for name, colour in _percentile_colours(palette).items():
        bands = [(bucket.start_s, bucket.end_s, bucket.latency_s[name]) for bucket in buckets if name in bucket.latency_s]
        _draw_line(axes, at, [(start, end, one.middle * 1e3) for start, end, one in bands], colour)
        if name == "p99":
            above = [(start, end, Band(one.middle, one.middle, one.most)) for start, end, one in bands]
            _draw_band(axes, at, above, colour, scale=1e3)
    _from_zero(axes, [band.most * 1e3 for bucket in buckets for band in bucket.latency_s.values()])


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """Starts the axis at 0 and leaves a little room above the greatest value."""
    axes.set_ylim(0, 1.08 * max([*values, 1e-9]))


def _draw_bands(
    axes: Axes,
    at: At,
    buckets: Sequence[Bucket],
    find: Callable[[Bucket], Band | None],
    colour: str,
    *,
    scale: float = 1.0,
) -> None:
    bands = [(bucket.start_s, bucket.end_s, band) for bucket in buckets if (band := find(bucket)) is not None]
    _draw_band(axes, at, bands, colour, scale=scale)
    _draw_line(axes, at, [(start, end, one.middle * scale) for start, end, one in bands], colour)
    low = min(one.least for _, _, one in bands) * scale
    high = max(one.most for _, _, one in bands) * scale
    margin = max((high - low) * 0.12, abs(high) * 0.02, 1e-9)
    axes.set_ylim(low - margin, high + margin)


def _draw_slowed(axes: Axes, at: At, slowed: dict[str, Sequence[Span]], palette: Palette) -> None:
    names = [flag for flag in _FLAGS if flag in slowed] + sorted(set(slowed) - set(_FLAGS))
    for row, flag in enumerate(reversed(names)):
        bars = [(at(span.start_s), at(span.end_s) - at(span.start_s)) for span in slowed[flag]]
        axes.broken_barh(bars, (row + 0.12, 0.46), facecolors=palette.bad, edgecolors=palette.bad, linewidth=1)
        place = axes.get_yaxis_transform()
        axes.text(0.004, row + 0.64, flag.replace("_", " "), transform=place, color=palette.ink, fontsize=8, va="bottom")
    axes.set_ylim(0, len(names))
    axes.set_yticks([])


def _shade(axes: Axes, series: TimeSeries, at: At, palette: Palette) -> None:
    """Marks, behind the figures, gaps in the record and interruptions of a source."""
    for span in series.gaps:
        axes.axvspan(
            at(span.start_s), at(span.end_s), facecolor="none", edgecolor=palette.lost, hatch="xx", linewidth=0, alpha=0.55
        )
    for span in series.interrupted:
        axes.axvspan(at(span.start_s), at(span.end_s), color=palette.bad, alpha=0.16, linewidth=0.8)


def _draw_band(axes: Axes, at: At, bands: Values, colour: str, *, scale: float = 1.0, hatch: str | None = None) -> None:
    for run in _unbroken(bands):
        times = [at(moment) for start, end, _ in run for moment in (start, end)]
        low = [one.least * scale for _, _, one in run for _ in range(2)]
        high = [one.most * scale for _, _, one in run for _ in range(2)]
        if hatch:
            # From 0: hatched under the line even where each bucket is one interval, so that no estimate looks measured.
            axes.fill_between(
                times, [0.0] * len(times), high, facecolor="none", edgecolor=colour, hatch=hatch, linewidth=0, alpha=0.45
            )
        elif low != high:
            axes.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)


def _draw_line(axes: Axes, at: At, values: Values, colour: str, *, dashed: bool = False) -> None:
    for run in _unbroken(values):
        times = [at(moment) for start, end, _ in run for moment in (start, end)]
        heights = [value for _, _, value in run for _ in range(2)]
        style = "--" if dashed else "-"
        axes.plot(times, heights, color=colour, linewidth=1.3, linestyle=style, solid_joinstyle="round")


def _unbroken(values: Values) -> Iterator[list[tuple[float, float, Any]]]:
    """Splits where more than half of a value's duration is missing before it: nothing is drawn across a gap."""
    run: list[tuple[float, float, Any]] = []
    for start_s, end_s, value in values:
        if run and start_s - run[-1][1] > (end_s - start_s) / 2:
            yield run
            run = []
        if run:
            # Rows that were thinned out with age may overlap.
            start_s = max(start_s, run[-1][1])
        run.append((start_s, end_s, value))
    if run:
        yield run


def _time_unit(length_s: float) -> tuple[str, float]:
    for name, unit_s in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if length_s >= 3 * unit_s:
            return name, unit_s
    return "seconds", 1.0
