"""Plots of the conversion report, drawn with the kit of all reports: pure functions from figures to markup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from converter.evaluate.accuracy import ConfidenceInterval
from converter.evaluate.confidence import ReliabilityBin
from converter.exporters import exporter_names, runtime_title
from device.protocols import Percentiles
from device.report.drawing import NARROW_IN, Palette, add_axes, encode_svg, new_figure, set_tooltip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROLES = ("first", "second", "third")
"""Colours of the runtimes, in their order."""

_ROW_IN = 0.21
_LABELS_IN = 0.88
_VALUES_IN = 0.62
_AXIS_IN = 0.22


class Share(NamedTuple):
    """A share from 0 to 1, with its interval; ``series`` is the network that it is a figure of."""

    series: str
    share: float
    interval: ConfidenceInterval


class _Dot(NamedTuple):
    """A row of a dot plot: a dot on a line, which may have ticks, and its figure in words."""

    series: str
    value: float
    low: float
    high: float
    text: str
    ticks: tuple[float, ...] = ()


def find_title(series: str) -> str:
    """What a series is called for people: ``fp32``, or a runtime's name."""
    return runtime_title(series)


def find_role(series: str) -> str:
    """The colour of a series, as a role of `Palette`."""
    return dict(zip(exporter_names(), _ROLES, strict=False)).get(series, "faint")


def plot_shares(title: str, groups: Mapping[str, Sequence[Share]]) -> str:
    """Plots shares as dots with their intervals, group after group, on one axis.

    Args:
        title: for screen readers.
        groups: heading -> its shares, in order.
    """
    dots = {
        heading: [_Dot(one.series, one.share, one.interval.low, one.interval.high, f"{one.share:.1%}") for one in shares]
        for heading, shares in groups.items()
    }
    return encode_svg(lambda palette: _draw_dots(dots, palette, "{:.0%}".format), "accuracy", title)


def plot_latency(title: str, latencies_s: Mapping[str, Percentiles]) -> str:
    """Plots latencies from 0: a dot at the median, a line to the 99th percentile, ticks at it and at the 90th.

    Args:
        title: for screen readers.
        latencies_s: series -> its percentiles; at least one.
    """
    dots = []
    for series, found in latencies_s.items():
        p50_ms, p90_ms, p99_ms = (1e3 * value_s for value_s in (found.p50, found.p90, found.p99))
        dots.append(_Dot(series, p50_ms, p50_ms, p99_ms, f"{p50_ms:.2f} ms", (p90_ms, p99_ms)))
    return encode_svg(lambda palette: _draw_dots({"": dots}, palette, "{:g} ms".format, from_zero=True), "latency", title)


def plot_reliability(title: str, series: str, bins: Sequence[ReliabilityBin]) -> str:
    """Plots a reliability diagram: a bar per bin of confidence, as high as the share that was right; below, its images.

    Args:
        title: for screen readers.
        series: the network.
        bins: in order, from 0 to 1.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599), figure 1.
    """
    return encode_svg(lambda palette: _draw_reliability(series, bins, palette), f"reliability-{series}", title)


def _draw_dots(
    groups: Mapping[str, Sequence[_Dot]], palette: Palette, write_tick: Callable[[float], str], *, from_zero: bool = False
) -> Figure:
    lines = sum(len(dots) + bool(heading) for heading, dots in groups.items())
    figure = new_figure(NARROW_IN, _ROW_IN * lines + _AXIS_IN, palette)
    box_in = (_LABELS_IN, _AXIS_IN, NARROW_IN - _LABELS_IN - _VALUES_IN, _ROW_IN * lines)
    axes = add_axes(figure, palette, box_in, grid="x")
    axes.spines["bottom"].set_visible(False)
    left, right = -box_in[0] / box_in[2], 1 + _VALUES_IN / box_in[2]
    place = axes.get_yaxis_transform()
    row = -0.5
    for heading, dots in groups.items():
        if heading:
            row += 1
            axes.text(left, row, heading, transform=place, va="center", color=palette.ink, fontweight="bold")
        for dot in dots:
            row += 1
            colour = getattr(palette, find_role(dot.series))
            axes.text(left, row, find_title(dot.series), transform=place, va="center", color=colour)
            axes.plot([dot.low, dot.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="round", clip_on=False)
            for tick in dot.ticks:
                axes.plot([tick, tick], [row - 0.3, row + 0.3], color=colour, linewidth=1.6, clip_on=False)
            axes.plot([dot.value], [row], "o", color=colour, markersize=6, clip_on=False)
            axes.text(right, row, dot.text, transform=place, va="center", ha="right", color=palette.ink)
    axes.set_ylim(lines, 0)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: write_tick(value))
    if from_zero:
        axes.set_xlim(left=0)
    return figure


def _draw_reliability(series: str, bins: Sequence[ReliabilityBin], palette: Palette) -> Figure:
    colour = getattr(palette, find_role(series))
    figure = new_figure(NARROW_IN, 3.1, palette)
    axes = add_axes(figure, palette, (0.4, 0.83, NARROW_IN - 0.6, 2.2))
    counts = add_axes(figure, palette, (0.4, 0.42, NARROW_IN - 0.6, 0.38))
    most = max((one.images for one in bins), default=0) or 1
    for one in bins:
        middle, width = (one.low + one.high) / 2, 0.93 * (one.high - one.low)
        (count,) = counts.bar(middle, one.images, width, color=colour, alpha=0.35)
        set_tooltip(count, f"{one.images} images")
        if one.accuracy is not None and one.confidence is not None:
            (bar,) = axes.bar(middle, one.accuracy, width, color=colour, alpha=0.75)
            set_tooltip(bar, f"confidence {one.confidence:.1%}, right {one.accuracy:.1%}, {one.images} images")
            axes.hlines(one.confidence, middle - width / 2, middle + width / 2, color=palette.ink, linewidth=1.2)
    axes.plot([0, 1], [0, 1], color=palette.faint, linewidth=1, linestyle=(0, (3, 3)))
    quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
    axes.set_yticks(quarters, [f"{share:.0%}" for share in quarters])
    axes.set_xticks([])
    axes.set_ylim(0, 1)
    counts.set_xticks(quarters, [f"{share:.0%}" for share in quarters])
    counts.set_yticks([])
    counts.set_ylim(0, most)
    counts.set_xlabel("confidence")
    for one_axes in (axes, counts):
        one_axes.set_xlim(0, 1)
        one_axes.spines["bottom"].set_visible(False)
    return figure
