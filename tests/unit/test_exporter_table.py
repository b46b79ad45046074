"""The table of exporters: what each declares, without its toolchain, and an exporter of another package."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from converter.exporters import Exporter, Lowering, default_recipe, exporter_names, load_exporter
from converter.quantise.recipes import RECIPES
from device.runtimes.registry import RUNTIMES

LIST = """
import sys
from converter.exporters import exporter_names, load_exporter
for name in exporter_names():
    print(name, load_exporter(name).suffix)
heavy = {"torch", "executorch", "litert_torch", "ai_edge_litert", "ai_edge_quantizer"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_table_is_made_without_any_toolchain() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["executorch", "pte", "litert", "tflite"]


@pytest.mark.parametrize("name", exporter_names())
def test_an_exporter_declares_its_format(name: str) -> None:
    exporter = load_exporter(name)
    assert name in RUNTIMES.names()
    assert exporter.title
    assert exporter.packages
    assert not exporter.suffix.startswith(".")
    assert set(exporter.default_recipes.values()) <= set(RECIPES)


class OtherExporter(Exporter):
    """As a package from outside would bring it."""

    title = "Other"
    suffix = "oth"
    packages = ("other-toolchain",)
    default_recipes = {"int8": "int8_min_max", "fp32": "fp32"}  # noqa: RUF012  # never changed

    def lower(self, network: Any, pixels: Any, recipe: Any) -> Lowering:
        """Never called here."""
        raise NotImplementedError


def test_another_package_adds_an_exporter_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(*, group: str) -> tuple[EntryPoint, ...]:
        assert group == "ghostwatt.exporters"
        return (EntryPoint("other", f"{__name__}:OtherExporter", group),)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert exporter_names() == ("executorch", "litert", "other")
    assert load_exporter("other").suffix == "oth"
    assert default_recipe("int8", "other").name == "int8_min_max"
