"""Writes a comparison: ``compare.json`` for programs, ``compare.html`` and ``compare.png`` for people."""

from __future__ import annotations

from pathlib import Path

import jinja2

from converter.compare.claims import format_verdict
from converter.compare.figures import DARK, LIGHT, RUNTIME_TITLES, Palette, draw_png, draw_svgs
from converter.compare.records import JSON_NAME, Comparison, encode, replace_file
from converter.work.machine import format_machine

HTML_NAME = "compare.html"
PNG_NAME = "compare.png"


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Writes all three files, each atomically."""
    replace_file(folder / JSON_NAME, encode(comparison))
    replace_file(folder / HTML_NAME, render(comparison).encode())
    replace_file(folder / PNG_NAME, draw_png(comparison))


def render(comparison: Comparison) -> str:
    """The page: one file that fetches nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("converter.compare"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals |= {
        "format_machine": format_machine,
        "format_verdict": format_verdict,
        "runtime_titles": RUNTIME_TITLES,
        "style": _style,
    }
    return environment.get_template("compare.html").render(
        comparison=comparison, plots=draw_svgs(comparison), light=LIGHT, dark=DARK
    )


def _style(palette: Palette) -> str:
    """A palette as the declarations of a style sheet."""
    return " ".join(f"--{role}: {colour};" for role, colour in palette._asdict().items())
