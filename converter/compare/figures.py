"""Draws the comparison with the kit of all reports: as SVG for the page, and as one PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from converter.compare.claims import CLAIMED_PARAMETERS_M
from converter.compare.records import Comparison
from converter.exporters import runtime_title
from converter.report.plots import find_role
from device.report.drawing import NARROW_IN, Palette, add_axes, encode_png, encode_svg, new_figure, write_heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_WIDTH_IN = 7.5

_MARKERS = "os^D"
_STEP = 0.32
"""Between the rows of two runtimes, as a share of a network's row."""

_NAMES_IN = 1.55
_HEAD_IN = 0.4
_ROW_IN = 0.26
_AXIS_IN = 0.45


class _Chart(NamedTuple):
    """A plot: what it shows, how it is drawn, and the height of its axes."""

    title: str
    draw: Callable[[Axes, Comparison, Palette], None]
    height_in: float
    has_row_names: bool = True


def draw_svgs(comparison: Comparison) -> dict[str, str]:
    """Every plot for the page: title -> ``svg`` element."""
    return {
        plot.title: encode_svg(_drawing(comparison, [plot], NARROW_IN), f"plot-{index}", plot.title)
        for index, plot in enumerate(_plots(comparison))
    }


def draw_png(comparison: Comparison) -> bytes:
    """All plots in one picture, in light mode."""
    return encode_png(_drawing(comparison, _plots(comparison), PNG_WIDTH_IN, with_titles=True))


def _plots(comparison: Comparison) -> list[_Chart]:
    """The plots that have a figure to show."""
    rows_in = _ROW_IN * len(comparison.rows)
    title = f"Parameters ({comparison.num_classes} classes) beside the article's {CLAIMED_PARAMETERS_M} M"
    parameters = _Chart(title, _plot_parameters, rows_in)
    if not any(one.timing for row in comparison.rows for one in row.artefacts):
        return [parameters]
    plots = [
        _Chart(f"Latency on {comparison.machine.processor}, int8, 1 thread", _plot_latency, rows_in),
        _Chart("Latency per multiply-accumulate", _plot_cost, rows_in),
        parameters,
    ]
    if any(row.published and row.artefact(comparison.runtimes[0]).timing for row in comparison.rows):
        plots.append(_Chart("Published accuracy (fp32) against the latency here", _plot_accuracy, 2.6, has_row_names=False))
    return plots


def _drawing(
    comparison: Comparison, plots: Sequence[_Chart], width_in: float, *, with_titles: bool = False
) -> Callable[[Palette], Figure]:
    """Draws plots, one above the other."""
    head_in = _HEAD_IN if with_titles else 0.1

    def draw(palette: Palette) -> Figure:
        bottom_in = sum(plot.height_in + head_in + _AXIS_IN for plot in plots)
        figure = new_figure(width_in, bottom_in, palette)
        for plot in plots:
            bottom_in -= plot.height_in + head_in
            left_in = _NAMES_IN if plot.has_row_names else 0.55
            box_in = (left_in, bottom_in, width_in - left_in - 0.15, plot.height_in)
            axes = add_axes(figure, palette, box_in, grid="x" if plot.has_row_names else "both")
            if plot.has_row_names:
                axes.set_yticks(range(len(comparison.rows)), [row.network for row in comparison.rows])
                axes.tick_params(axis="y", labelcolor=palette.ink)
                axes.locator_params(axis="x", nbins=6)
            plot.draw(axes, comparison, palette)
            if plot.has_row_names:
                axes.set_ylim(len(comparison.rows) - 0.4, -0.6)
            if with_titles:
                write_heading(axes, plot.title, palette, x=-box_in[0] / box_in[2])
            bottom_in -= _AXIS_IN
        return figure

    return draw


def _plot_latency(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    _plot_latencies(axes, comparison, palette, {row.network: 1e3 for row in comparison.rows})
    axes.set_xlabel("ms per inference: median, p10 and p90", loc="right")


def _plot_cost(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    _plot_latencies(axes, comparison, palette, {row.network: 1e3 / (row.macs / 1e8) for row in comparison.rows})
    axes.set_xlabel("ms per 100 million MACs: median, p10 and p90", loc="right")


def _plot_latencies(axes: Axes, comparison: Comparison, palette: Palette, factors: dict[str, float]) -> None:
    """Latencies in seconds, times a factor per network: dots with whiskers, a row per network."""
    count = len(comparison.runtimes)
    for place, runtime in enumerate(comparison.runtimes):
        offset = (place - (count - 1) / 2) * _STEP
        found = [
            (index, one.latency_s, factors[row.network])
            for index, row in enumerate(comparison.rows)
            if (one := row.artefact(runtime).timing)
        ]
        axes.errorbar(
            [latency_s.p50 * factor for _, latency_s, factor in found],
            [index + offset for index, _, _ in found],
            xerr=[
                [(latency_s.p50 - latency_s.p10) * factor for _, latency_s, factor in found],
                [(latency_s.p90 - latency_s.p50) * factor for _, latency_s, factor in found],
            ],
            fmt=_MARKERS[place % len(_MARKERS)],
            color=getattr(palette, find_role(runtime)),
            markersize=4.5,
            capsize=2.5,
            label=runtime_title(runtime),
        )
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="best", labelcolor="linecolor", handletextpad=0.2)


def _plot_parameters(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    for index, row in enumerate(comparison.rows):
        parameters_m = row.parameters / 1e6
        axes.barh(index, parameters_m, height=0.6, color=palette.faint)
        axes.text(parameters_m - 0.06, index, f"{parameters_m:.2f}", va="center", ha="right", color=palette.card)
    axes.axvline(CLAIMED_PARAMETERS_M, color=palette.ink, linestyle="--", linewidth=1.2)
    axes.set_xlabel("million parameters; dashed: the article's claim", loc="right")


def _plot_accuracy(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    runtime = comparison.runtimes[0]
    found = [
        (row.network, timing.latency_s.p50 * 1e3, row.published.top1 * 100)
        for row in comparison.rows
        if row.published and (timing := row.artefact(runtime).timing)
    ]
    limit_ms = 1.1 * max(latency_ms for _, latency_ms, _ in found)
    for network, latency_ms, top1_percent in found:
        axes.plot(latency_ms, top1_percent, _MARKERS[0], color=getattr(palette, find_role(runtime)), markersize=5)
        # The name stands where there is room for it.
        side, offset_points = ("left", 6) if latency_ms < limit_ms / 2 else ("right", -6)
        axes.annotate(
            network,
            (latency_ms, top1_percent),
            (offset_points, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            color=palette.ink,
            fontsize=8,
        )
    axes.set_xlim(0, limit_ms)
    axes.margins(y=0.15)
    axes.locator_params(nbins=5)
    axes.set_xlabel(f"ms per inference here, median, {runtime_title(runtime)}")
    axes.set_ylabel("ImageNet top-1, %")
