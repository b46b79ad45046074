"""Writes a comparison: ``compare.json`` for programs, ``compare.html`` and ``compare.png`` for people."""

from __future__ import annotations

from pathlib import Path

from converter.compare.figures import draw_png, draw_svgs
from converter.compare.records import JSON_NAME, Comparison, encode, replace_file
from converter.exporters import runtime_title
from converter.work.machine import format_machine
from device.report import document

HTML_NAME = "compare.html"
PNG_NAME = "compare.png"


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Writes all three files, each atomically."""
    replace_file(folder / JSON_NAME, encode(comparison))
    replace_file(folder / HTML_NAME, render(comparison).encode())
    replace_file(folder / PNG_NAME, draw_png(comparison))


def render(comparison: Comparison) -> str:
    """The page; equal comparisons give equal text."""
    return document.render(
        "converter.compare",
        "compare.html",
        {"runtime_title": runtime_title},
        comparison=comparison,
        machine=format_machine(comparison.machine),
        plots=draw_svgs(comparison),
    )
