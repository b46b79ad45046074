"""What every drawing shares: colours, widths, and how it becomes an SVG for the page or a PNG.

In SVG, colours become the page's CSS variables, so that one drawing is right in light, in dark and in print, and text stays
text. What a drawing needs of `matplotlib` is imported when it is drawn: a board that draws nothing needs none.

Estimates are hatched and say so, wherever they stand; measured figures never are.

References:
    https://matplotlib.org/stable/users/explain/customizing.html: ``svg.fonttype``, ``svg.hashsalt``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from device.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW_IN = 3.75
"""Width of a drawing for a phone: 360 px of CSS."""

WIDE_IN = 10.4
"""Width of one for a desk: 1000 px."""

PIXELS_PER_IN = 96
"""CSS's. PNGs have twice as many, for dense screens and for print."""

SCOPES = {
    "board": "the whole board",
    "soc": "the SoC's rails only",
    "cpu": "the processor only",
    "battery": "the battery",
    "wall": "at the wall",
}
"""What a scope covers, for people."""


class Palette(NamedTuple):
    """Colours by what they are for. The names are those of the page's CSS variables."""

    ink: str
    faint: str
    grid: str
    card: str
    first: str
    second: str
    third: str
    estimate: str
    bad: str
    lost: str


LIGHT = Palette(
    ink="#1c2430",
    faint="#5f6773",
    grid="#e8e5dd",
    card="#ffffff",
    first="#1f66b5",
    second="#b8501c",
    third="#8a4fa3",
    estimate="#8a6d00",
    bad="#b3261e",
    lost="#868d98",
)
"""Of the pictures, and of the page by day."""

DARK = Palette(
    ink="#e6e3dc",
    faint="#98a0ac",
    grid="#2a313b",
    card="#1b2129",
    first="#6fb1f5",
    second="#f0995f",
    third="#c79be0",
    estimate="#e0bf4a",
    bad="#ff8a80",
    lost="#7d8794",
)
"""Of the page by night."""

# Colours that stand for the variables in an SVG until it is in the page: no drawing uses them otherwise.
_MARKS = Palette(*(f"#fe01{index:02x}" for index in range(len(Palette._fields))))


def check_matplotlib() -> None:
    """Says what to install where nothing can be drawn.

    Raises:
        MissingDependencyError: matplotlib isn't there.
    """
    try:
        import matplotlib.figure  # noqa: F401  # asked whether it is there
    except ImportError as error:
        raise MissingDependencyError(
            "report",
            f"can't draw ({error})",
            remedy="pip install 'ghostwatt[report]'; or use --csv or --json, which need nothing",
            reason="not_installed",
        ) from error


def encode_svg(draw: Callable[[Palette], Figure], name: str) -> str:
    """Draws for the page: an ``svg`` element whose colours are the page's, and whose ids no other element has.

    Args:
        draw: what draws, given a palette.
        name: of the drawing, unique in the page.
    """
    with _settings():
        figure = draw(_MARKS)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for variable, mark in zip(Palette._fields, _MARKS, strict=True):
        text = text.replace(mark, f"var(--{variable})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    # A hundredth of a point is finer than any screen.
    text = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), text)
    head, _, rest = text.partition(">")
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ' role="img">' + rest


def encode_png(draw: Callable[[Palette], Figure]) -> bytes:
    """Draws a picture, light."""
    with _settings():
        figure = draw(LIGHT)
        stream = io.BytesIO()
        figure.savefig(
            stream,
            format="png",
            dpi=2 * PIXELS_PER_IN,
            facecolor=LIGHT.card,
            bbox_inches="tight",
            pad_inches=0.15,
            metadata={"Software": None},
        )
    return stream.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib as mpl

    # Equal figures give equal bytes; text stays text.
    values = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ghostwatt",
        "font.family": "sans-serif",
        "font.size": 9.0,
        "hatch.linewidth": 1.0,
    }
    with mpl.rc_context(values):  # type: ignore[arg-type]  # its keys are one great Literal
        yield


def new_figure(width_in: float, height_in: float, palette: Palette) -> Figure:
    """An empty drawing."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), facecolor=palette.card)


def style_axes(axes: Axes, palette: Palette) -> None:
    """No frame, a faint grid, small figures."""
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.faint)
    axes.grid(axis="y", color=palette.grid, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.faint, labelsize=8.5, length=0, pad=4)
    axes.locator_params(axis="y", nbins=4)


def write_heading(axes: Axes, text: str, palette: Palette, *, x: float = 0.0, pad: float = 5.0) -> None:
    """Writes what a plot shows above it."""
    axes.set_title(text, loc="left", fontsize=9.5, color=palette.ink, x=x, pad=pad)


def format_figure(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    digits = 2 if abs(value) >= 1 else 3
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.3g}"
