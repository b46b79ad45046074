"""The page kit of every report: one base template with its style sheet, and figures that programs can read.

A page is one HTML file that refers to no other: it opens on a board, on a phone and from a mail. A report is a template that
extends ``base.html``; its package has it in a folder ``templates``. Only this module imports jinja2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from device.core.errors import MissingDependencyError
from device.report import words
from device.report.drawing import DARK, LIGHT

if TYPE_CHECKING:
    from markupsafe import Markup

SPACE = "\N{NARROW NO-BREAK SPACE}"
DASH = "–"
"""Stands for a figure that nobody has, which is not 0."""


def check_dependencies() -> None:
    """Checks that pages can be written and pictures drawn.

    Raises:
        MissingDependencyError: a package of the extra is not installed; says what to install.
    """
    try:
        for name in ("jinja2", "matplotlib.figure"):
            import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            "report",
            f"can't draw ({error})",
            remedy="pip install 'ghostwatt[report]'; or use --csv or --json, which need nothing",
            reason="not_installed",
        ) from error


def render(package: str, template: str, filters: Mapping[str, Callable[..., object]] | None = None, **values: object) -> str:
    """Renders a page; equal arguments give equal text.

    Args:
        package: whose ``templates`` folder has the template.
        template: its file name.
        filters: of this report, beside those that every report has.
        values: what the template shows.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("device.report")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"light": LIGHT._asdict(), "dark": DARK._asdict(), "data": data, "SPACE": SPACE, "DASH": DASH}
    environment.filters |= {
        "figure": words.format_figure,
        "energy": words.format_energy,
        "mark_kind": words.mark_kind,
        "duration": words.format_duration,
        "number_of": words.number_of,
        "scope": words.SCOPES.__getitem__,
        **(filters or {}),
    }
    return environment.get_template(template).render(values)


def data(value: float, text: str) -> Markup:
    """A figure as a ``data`` element: ``text`` for people, the exact ``value`` for programs."""
    from markupsafe import Markup

    return Markup('<data value="{}">{}</data>').format(repr(value), text)
