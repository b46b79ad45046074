"""The drawing kit of every report: colours, widths, and how a drawing becomes an SVG in a page or a PNG. Only this module
imports matplotlib.

In an SVG, colours are the page's CSS variables, so one drawing is right in light, in dark and in print; text stays text.
matplotlib is imported when something is drawn: a board that draws nothing does not need it.

Estimates are hatched and say so wherever they stand; measured figures never are.

References:
    https://matplotlib.org/stable/users/explain/customizing.html: ``svg.fonttype``, ``svg.hashsalt``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW_IN = 3.75
"""Width of a drawing for a phone: 360 px of CSS."""

WIDE_IN = 10.4
"""Width of one for a desktop: 1000 px."""

PIXELS_PER_IN = 96
"""CSS's. PNGs have twice as many, for dense screens and for print."""


class Palette(NamedTuple):
    """Colours by role. The names are those of the page's CSS variables."""

    paper: str
    card: str
    ink: str
    faint: str
    line: str
    grid: str
    first: str
    second: str
    third: str
    estimate: str
    good: str
    bad: str
    lost: str


LIGHT = Palette(
    paper="#f7f5f0",
    card="#ffffff",
    ink="#1c2430",
    faint="#5f6773",
    line="#d9d5cc",
    grid="#e8e5dd",
    first="#1f66b5",
    second="#b8501c",
    third="#8a4fa3",
    estimate="#8a6d00",
    good="#1c7a4b",
    bad="#b3261e",
    lost="#868d98",
)
"""Of pages in light mode, and of every PNG."""

DARK = Palette(
    paper="#14181e",
    card="#1b2129",
    ink="#e6e3dc",
    faint="#98a0ac",
    line="#333a45",
    grid="#2a313b",
    first="#6fb1f5",
    second="#f0995f",
    third="#c79be0",
    estimate="#e0bf4a",
    good="#5fc493",
    bad="#ff8a80",
    lost="#7d8794",
)
"""Of pages in dark mode."""

Draw = Callable[[Palette], "Figure"]
"""Draws a figure in the colours of a palette."""

# These stand for the CSS variables while matplotlib draws: it accepts real colours only. No drawing uses them otherwise.
_STAND_INS = Palette(*(f"#fe01{index:02x}" for index in range(len(Palette._fields))))

_SETTINGS = {
    # Text stays text, and equal figures give equal bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "ghostwatt",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "hatch.linewidth": 1.0,
}

_TOOLTIP = "tooltip:"


def encode_svg(draw: Draw, name: str, title: str = "") -> str:
    """Draws for a page.

    Args:
        draw: the drawing.
        name: of the drawing, unique in the page; every id in the drawing begins with it.
        title: what the drawing shows, for screen readers.

    Returns:
        An ``svg`` element whose colours are the page's CSS variables. It refers to nothing outside itself.
    """
    with _settings():
        figure = draw(_STAND_INS)
        stream = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None} | ({"Title": title} if title else {})
        figure.savefig(stream, format="svg", metadata=metadata, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for role, stand_in in zip(Palette._fields, _STAND_INS, strict=True):
        text = text.replace(stand_in, f"var(--{role})")
    text = re.sub(rf'<g id="{_TOOLTIP}([^"]*)">', r"<g><title>\1</title>", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    # The page's font is used, and whitespace between elements means nothing.
    text = re.sub(r" font-family: [^;]*;", "", text).replace(' style=""', "")
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    # A hundredth of a point is finer than any screen.
    text = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), text)
    # HTML knows the namespaces of what stands in it, and the page sets the size.
    head, _, rest = text.replace("xlink:href=", "href=").partition(">")
    return re.sub(r' (?:width|height|version|xmlns(?::\w+)?)="[^"]*"', "", head) + ' role="img">' + rest


def encode_png(draw: Draw) -> bytes:
    """Draws a picture in light mode."""
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

    with mpl.rc_context(_SETTINGS):  # type: ignore[arg-type]  # its keys are one great Literal
        yield


def new_figure(width_in: float, height_in: float, palette: Palette) -> Figure:
    """Makes an empty drawing."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), facecolor=palette.card)


def add_axes(
    figure: Figure, palette: Palette, box_in: tuple[float, float, float, float], grid: Literal["x", "y", "both"] = "y"
) -> Axes:
    """Adds axes with a faint grid, small labels and no frame but the line below.

    Args:
        figure: to add them to.
        palette: of the drawing.
        box_in: left, bottom, width and height, in inches from the figure's lower left corner.
        grid: which axes' ticks have grid lines.
    """
    width_in, height_in = figure.get_size_inches()
    left_in, bottom_in, axes_width_in, axes_height_in = box_in
    box = (left_in / width_in, bottom_in / height_in, axes_width_in / width_in, axes_height_in / height_in)
    axes = figure.add_axes(box)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.faint)
    axes.grid(axis=grid, color=palette.grid, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.faint, labelsize=8.5, length=0, pad=4)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(palette.faint)
    return axes


def write_heading(axes: Axes, text: str, palette: Palette, *, x: float = 0.0, pad: float = 5.0) -> None:
    """Writes above a plot what it shows."""
    axes.set_title(text, loc="left", fontsize=9.5, color=palette.ink, x=x, pad=pad)


def set_tooltip(artist: Artist, text: str) -> None:
    """Gives part of a drawing a text that an SVG shows under the pointer."""
    artist.set_gid(_TOOLTIP + text)
