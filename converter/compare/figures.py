"""Draws the comparison with matplotlib: as SVG whose colours are the page's, and as one PNG.

In the SVG every colour is a role of the page's style sheet, so that one drawing serves light and dark. matplotlib wants real
colours: it is given one stand-in for each role, which is then replaced.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from converter.compare.claims import CLAIMED_PARAMETERS_M
from converter.compare.records import Comparison, Row

RUNTIME_TITLES = {"litert": "LiteRT", "executorch": "ExecuTorch"}
_MARKERS = {"litert": "o", "executorch": "s"}
_OFFSETS = {"litert": -0.16, "executorch": 0.16}


class Palette(NamedTuple):
    """A colour a role."""

    paper: str
    ink: str
    faint: str
    line: str
    litert: str
    executorch: str

    def runtime(self, name: str) -> str:
        """Colour of a runtime's figures."""
        return {"litert": self.litert, "executorch": self.executorch}[name]


LIGHT = Palette(paper="#fbfaf7", ink="#1c2430", faint="#68707c", line="#d9d5cc", litert="#1f66b5", executorch="#b8501c")
DARK = Palette(paper="#14181e", ink="#e6e3dc", faint="#98a0ac", line="#333a45", litert="#6fb1f5", executorch="#f0995f")

# One stand-in a role; no drawing has these colours by chance.
_STAND_INS = Palette(*(f"#{0xA0B1C0 + index:06x}" for index in range(len(Palette._fields))))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "ghostwatt",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_svgs(comparison: Comparison) -> dict[str, Markup]:
    """Every plot as markup to stand inside HTML: title -> ``<svg>``. Colours are ``var(--ink)`` and the like."""
    drawn: dict[str, Markup] = {}
    for title, plot in _plots(comparison).items():
        figure = _make_figure((7.2, _height(comparison, plot)))
        with mpl.rc_context(_STYLE):
            _dress(plot, figure.subplots(), comparison, _STAND_INS)
            drawn[title] = _as_markup(figure, title)
    return drawn


def draw_png(comparison: Comparison) -> bytes:
    """All plots in one picture, light."""
    plots = _plots(comparison)
    figure = _make_figure((8, sum(_height(comparison, plot) + 0.35 for plot in plots.values())))
    figure.set_facecolor(LIGHT.paper)
    with mpl.rc_context(_STYLE):
        heights = [_height(comparison, plot) for plot in plots.values()]
        all_axes = figure.subplots(len(plots), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, plot) in zip(all_axes, plots.items(), strict=True):
            _dress(plot, axes, comparison, LIGHT)
            axes.set_title(title, color=LIGHT.ink, loc="left", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


Plot = Callable[[Axes, Comparison, Palette], None]


def _plots(comparison: Comparison) -> dict[str, Plot]:
    """What there is to draw: a plot without a figure is left out."""
    plots: dict[str, Plot] = {f"Parameters, beside the article's {CLAIMED_PARAMETERS_M} M": _plot_parameters}
    if any(one.timing for row in comparison.rows for one in row.artefacts):
        plots = {
            f"Latency on {comparison.machine.processor}, int8, 1 thread": _plot_latency,
            "Latency per multiply-accumulate": _plot_cost,
        } | plots
        if any(row.published and row.artefacts[0].timing for row in comparison.rows):
            plots["Published accuracy (fp32) beside the latency here"] = _plot_accuracy
    return plots


def _height(comparison: Comparison, plot: Plot) -> float:
    """In inches: a line a network where networks are rows."""
    return 0.8 + 0.3 * len(comparison.rows) if plot is not _plot_accuracy else 3.6


def _make_figure(size_inches: tuple[float, float]) -> Figure:
    with mpl.rc_context(_STYLE):
        return Figure(figsize=size_inches, layout="constrained")


def _dress(plot: Plot, axes: Axes, comparison: Comparison, palette: Palette) -> None:
    axes.set_facecolor("none")
    plot(axes, comparison, palette)
    axes.tick_params(colors=palette.faint, labelcolor=palette.ink)
    axes.xaxis.label.set_color(palette.faint)
    axes.yaxis.label.set_color(palette.faint)
    for spine in axes.spines.values():
        spine.set_color(palette.line)
    legend = axes.get_legend()
    if legend:
        for text in legend.get_texts():
            text.set_color(palette.ink)


def _plot_latency(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    _plot_spreads(axes, comparison, palette, {row.network: 1e3 for row in comparison.rows})
    axes.set_xlabel("milliseconds an inference: median, p10 and p90")


def _plot_cost(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    _plot_spreads(axes, comparison, palette, {row.network: 1e3 / (row.macs / 1e8) for row in comparison.rows})
    axes.set_xlabel("milliseconds per 100 million multiply-accumulates: median, p10 and p90")


def _plot_spreads(axes: Axes, comparison: Comparison, palette: Palette, factors: dict[str, float]) -> None:
    """Latencies in seconds, times a network's factor: a dot and its whiskers, a line a network."""
    for runtime in comparison.runtimes:
        places, lows, middles, highs = [], [], [], []
        for index, row in enumerate(comparison.rows):
            timing, factor = row.artefact(runtime).timing, factors[row.network]
            if timing:
                latency_s = timing.latency_s
                places.append(index + _OFFSETS[runtime])
                middles.append(latency_s.p50 * factor)
                lows.append((latency_s.p50 - latency_s.p10) * factor)
                highs.append((latency_s.p90 - latency_s.p50) * factor)
        axes.errorbar(
            middles,
            places,
            xerr=[lows, highs],
            fmt=_MARKERS[runtime],
            color=palette.runtime(runtime),
            markersize=5,
            capsize=2.5,
            label=RUNTIME_TITLES[runtime],
        )
    axes.set_xlim(left=0)
    _name_rows(axes, comparison.rows, palette)
    axes.legend(frameon=False, loc="best")


def _plot_parameters(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    for index, row in enumerate(comparison.rows):
        parameters_m = row.parameters / 1e6
        axes.barh(index, parameters_m, height=0.6, color=palette.faint)
        axes.text(parameters_m - 0.06, index, f"{parameters_m:.2f}", va="center", ha="right", color=palette.paper)
    axes.axvline(CLAIMED_PARAMETERS_M, color=palette.ink, linestyle="--", linewidth=1.2)
    axes.set_xlabel(f"million parameters, {comparison.num_classes} classes; dashed: the article's claim")
    _name_rows(axes, comparison.rows, palette)


def _plot_accuracy(axes: Axes, comparison: Comparison, palette: Palette) -> None:
    runtime = comparison.runtimes[0]
    for row in comparison.rows:
        timing = row.artefact(runtime).timing
        if row.published and timing:
            latency_ms = timing.latency_s.p50 * 1e3
            axes.plot(latency_ms, row.published.top1 * 100, _MARKERS[runtime], color=palette.runtime(runtime), markersize=6)
            _label_point(axes, row, latency_ms, row.published.top1 * 100, palette)
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])  # room for the names
    axes.margins(y=0.15)
    axes.set_xlabel(f"milliseconds an inference here, median, {RUNTIME_TITLES[runtime]}")
    axes.set_ylabel("ImageNet top-1, %")
    axes.grid(color=palette.line, linewidth=0.6)


def _name_rows(axes: Axes, rows: Sequence[Row], palette: Palette) -> None:
    axes.set_yticks(range(len(rows)), [row.network for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=palette.line, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _label_point(axes: Axes, row: Row, x: float, y: float, palette: Palette) -> None:
    axes.annotate(row.network, (x, y), xytext=(6, -3), textcoords="offset points", color=palette.faint, fontsize=8)


def _as_markup(figure: Figure, title: str) -> Markup:
    """The figure's ``<svg>`` alone, with roles for colours: no prologue, no metadata, nothing that names another host."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Creator": None, "Date": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg (.*?)width="[^"]*" height="[^"]*"', r'<svg role="img" \1', text, count=1, flags=re.DOTALL)
    # Ids are the page's, where another plot has the same.
    mark = re.sub(r"\W+", "-", title.lower()).strip("-")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{mark}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", text)
    for role, stand_in in zip(Palette._fields, _STAND_INS, strict=True):
        text = text.replace(stand_in, f"var(--{role})")
    return Markup(text)  # noqa: S704  # matplotlib escapes what it is given as text
