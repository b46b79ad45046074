"""Draws figures side by side: one bar per subject, on one axis from 0.

Bars on one axis must be comparable; see `device.report.subjects.find_panels`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from device.report.drawing import Palette, new_figure, write_heading
from device.report.subjects import Panel, Range, Subject, SubjectPower
from device.report.words import format_figure, number_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEAD_IN = 0.35
_LINE_IN = 0.165
_BAR_IN = 0.34
_MARK = "throttled"


class Bar(NamedTuple):
    """One bar.

    Attributes:
        label: what it stands for.
        note: what must be read beside it.
        figure: None where there is none.
        is_throttled: the processor was slowed down meanwhile.
    """

    label: str
    note: str
    figure: Range | None
    is_throttled: bool


class Bars(NamedTuple):
    """Bars on one axis: all of them measured, or all estimated."""

    title: str
    unit: str
    bars: Sequence[Bar]
    scale: float = 1.0
    is_estimate: bool = False


def rate_bars(subjects: Sequence[Subject]) -> Bars:
    """Inferences per second."""
    bars = [Bar(one.label, _place(one), one.fps, one.throttling.state == "throttled") for one in subjects]
    return Bars("Inferences per second", "FPS", bars)


def power_bars(panel: Panel) -> list[Bars]:
    """Watts, energy per inference, and inferences per second and watt."""
    most_j = max((power.energy_per_inference_j.high for _, power in panel.bars if power.energy_per_inference_j), default=1.0)
    unit, scale = ("J", 1.0) if most_j >= 1 else ("mJ", 1e3)

    def bars(title: str, unit: str, find: Callable[[SubjectPower], Range | None], scale: float = 1.0) -> Bars:
        found = [
            Bar(subject.label, power.source, find(power), subject.throttling.state == "throttled")
            for subject, power in panel.bars
        ]
        return Bars(title, unit, found, scale, panel.is_estimate)

    return [
        bars("Power", "W", lambda power: power.power_w),
        bars("Energy per inference", unit, lambda power: power.energy_per_inference_j, scale),
        bars("Inferences per second and watt", "FPS/W", lambda power: power.fps_per_w),
    ]


def draw_bars(bars: Bars, palette: Palette, width_in: float, suffix: str = "") -> Figure:
    """Draws one bar per subject from 0, with its figure and the range that it comes from; estimates are hatched.

    Args:
        bars: to draw.
        palette: of the drawing.
        width_in: of the drawing.
        suffix: of the heading, such as ": measured, the whole board".
    """
    columns = int(72 * width_in / _text_width("n"))
    rows = [_words(bar, columns) for bar in bars.bars]
    bars_in = sum(_LINE_IN * len(lines) + _BAR_IN for lines in rows)
    figure = new_figure(width_in, _HEAD_IN + bars_in, palette)
    # The vertical axis is in inches, so that a row may have as many lines as its words need.
    axes = figure.add_axes((0.0, 0.0, 1.0, bars_in / (_HEAD_IN + bars_in)))
    write_heading(axes, f"{bars.title}, {bars.unit}{suffix}", palette)
    axes.axis("off")
    axes.set_xlim(0, _limit(bars, 72 * width_in))
    axes.set_ylim(bars_in, 0)
    top_in = 0.0
    for bar, lines in zip(bars.bars, rows, strict=True):
        for label, note in lines:
            top_in += _LINE_IN
            _write(axes, 0, top_in - 0.03, label, palette.ink, va="bottom")
            _write(
                axes, 0, top_in - 0.03, note, palette.faint, 8.0, after_points=_text_width(label) + 6 * bool(label), va="bottom"
            )
        _draw_bar(axes, top_in + 0.12, bar, bars, palette)
        top_in += _BAR_IN
    return figure


def _words(bar: Bar, columns: int) -> list[tuple[str, str]]:
    """Lines of a bar's label and note: one line, if both fit on it."""
    if len(bar.label) + len(bar.note) + 2 <= columns:
        return [(bar.label, bar.note)]
    lines = [(line, "") for line in textwrap.wrap(bar.label, columns)]
    return lines + [("", line) for line in textwrap.wrap(bar.note, columns)]


def _draw_bar(axes: Axes, middle_in: float, bar: Bar, bars: Bars, palette: Palette) -> None:
    if bar.figure is None:
        _write(axes, 0, middle_in, "no figure", palette.faint)
        return
    value, low, high = (part * bars.scale for part in (bar.figure.value, bar.figure.low, bar.figure.high))
    estimate = {"facecolor": "none", "edgecolor": palette.estimate, "hatch": "////"}
    style: dict[str, Any] = estimate if bars.is_estimate else {"color": palette.first}
    axes.barh(middle_in, value, height=0.2, linewidth=1, **style)
    if high > low:
        axes.plot([low, high], [middle_in] * 2, color=palette.ink, linewidth=1.6)
        for end in (low, high):
            axes.plot([end, end], [middle_in - 0.05, middle_in + 0.05], color=palette.ink, linewidth=1.6)
    text = _figure_text(value, bars)
    end = max(value, high)
    _write(axes, end, middle_in, text, palette.ink, 9.5, after_points=6)
    if bar.is_throttled:
        _write(axes, end, middle_in, _MARK, palette.bad, after_points=10 + _text_width(text, 9.5), fontweight="bold")


def _write(
    axes: Axes, x: float, y: float, text: str, colour: str, size: float = 9.0, *, after_points: float = 0.0, **style: Any
) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(after_points, 0),
        textcoords="offset points",
        color=colour,
        fontsize=size,
        **({"va": "center"} | style),
    )


def _limit(bars: Bars, width_points: float) -> float:
    """The end of the axis: beyond each bar there is room for its figure and its mark."""
    limits = [1e-9]
    for bar in bars.bars:
        if bar.figure is not None:
            text = _figure_text(bar.figure.value * bars.scale, bars)
            words_points = _text_width(text, 9.5) + (_text_width(_MARK) + 4 if bar.is_throttled else 0) + 8
            limits.append(max(bar.figure.value, bar.figure.high) * bars.scale / max(0.3, 1 - words_points / width_points))
    return max(limits)


def _figure_text(value: float, bars: Bars) -> str:
    return f"{'≈ ' if bars.is_estimate else ''}{format_figure(value)} {bars.unit}"


def _place(subject: Subject) -> str:
    runs = len(subject.of)
    return subject.board + (f", {number_of(runs, 'run')}" if subject.method == "run" and runs > 1 else "")


def _text_width(text: str, size: float = 9.0) -> float:
    """Approximate width in points: a sans-serif letter is a little more than half as wide as the type is high."""
    return 0.56 * size * len(text)
