"""The conversion's report: ``report.json`` for programs, ``report.html`` for people, of one content.

Holds no time and no host name, so that equal input gives equal bytes.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
import msgspec

from converter.checkpoints import Card
from converter.recipes import Recipe
from converter.verify import Verification
from device.contract import Artefact, ModelCard

JSON_NAME = "report.json"
HTML_NAME = "report.html"


class ArtefactReport(msgspec.Struct, frozen=True):
    """An artefact: what it is, how large, what it is worth."""

    artefact: Artefact
    size_bytes: int
    verification: Verification


class Report(msgspec.Struct, frozen=True):
    """All that is said of a conversion.

    Attributes:
        profile: name.
        model: the network.
        card: of the weights.
        recipe: how it was quantised, with its floors.
        artefacts: one a runtime.
        calibration_images: how many photographs the ranges were taken from.
        verification_source: where the photographs for the figures came from.
        versions: of what converted.
    """

    profile: str
    model: ModelCard
    card: Card
    recipe: Recipe
    artefacts: tuple[ArtefactReport, ...]
    calibration_images: int
    verification_source: str
    versions: dict[str, str]


def write_report(folder: Path, report: Report) -> None:
    """Writes both files into a folder."""
    (folder / JSON_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=2) + b"\n")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("converter"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": _percent, "decibels": _decibels}
    (folder / HTML_NAME).write_text(environment.get_template("report.html").render(report=report), encoding="utf-8")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _decibels(value: float) -> str:
    return f"{value:.1f} dB"
