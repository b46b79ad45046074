"""Recipes by name, and what each way of clipping makes of the same values."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from converter.exporters import default_recipe, exporter_names
from converter.quantise.calibration import ActivationRange
from converter.quantise.recipes import RECIPES, Recipe, find_recipe, recipe_names
from device.core.errors import UsageError


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_found_by_its_name_and_survives_json(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert len(recipe.reason) > 20
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe


def test_no_two_recipes_do_the_same() -> None:
    settings = {msgspec.json.encode(msgspec.structs.replace(recipe, name="", reason="")) for recipe in RECIPES.values()}
    assert len(settings) == len(RECIPES)


@pytest.mark.parametrize(
    ("wrong", "right"), [("int8_minmax", "int8_min_max"), ("fp23", "fp32"), ("int8_nearset", "int8_nearest")]
)
def test_an_unknown_recipe_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{right}'") as caught:
        find_recipe(wrong)
    assert caught.value.reason == "unknown_recipe"


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("runtime", exporter_names())
def test_each_format_has_a_default_of_each_precision(precision: Any, runtime: str) -> None:
    assert default_recipe(precision, runtime).name in recipe_names(precision)


def limits(values: np.ndarray[Any, Any], **changes: object) -> tuple[float, float]:
    found = ActivationRange(msgspec.structs.replace(find_recipe("int8"), **changes))
    found.observe(values.astype(np.float32))
    return found.limits()


def values_with_an_outlier() -> np.ndarray[Any, Any]:
    values = np.random.default_rng(0).uniform(-1.0, 1.0, (1, 2000))
    values[0, 7] = 50.0
    return values


def test_min_max_keeps_an_outlier_and_a_percentile_does_not() -> None:
    values = values_with_an_outlier()
    assert limits(values, clipping="min_max")[1] == 50.0
    assert limits(values, clipping="percentile", percentile=99.9)[1] < 1.1
    assert limits(values, clipping="percentile", percentile=100.0)[1] == 50.0


def test_least_error_gives_up_rare_extremes_for_finer_steps() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=(64, 2000)))
    low, high = limits(values, clipping="least_error")
    assert low == 0.0
    assert 3.0 < high < 0.96 * values.max()


def test_least_error_keeps_the_range_of_values_without_outliers() -> None:
    low, high = limits(np.random.default_rng(0).uniform(-1.0, 1.0, (1, 2000)), clipping="least_error")
    assert (low, high) == (pytest.approx(-1.0, abs=0.05), pytest.approx(1.0, abs=0.05))  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("clipping", ["min_max", "percentile", "least_error"])
@pytest.mark.parametrize("values", [np.linspace(3.0, 5.0, 100), np.linspace(-5.0, -3.0, 100), np.zeros(100)])
def test_a_range_holds_zero(clipping: str, values: np.ndarray[Any, Any]) -> None:
    low, high = limits(values[np.newaxis], clipping=clipping, percentile=99.0)
    assert low <= 0.0 <= high


def test_a_margin_widens_a_range_on_both_sides() -> None:
    found = ActivationRange(find_recipe("int8_min_max"))
    found.observe(np.array([[-2.0, 4.0]], np.float32))
    assert found.limits(1.25) == (-2.5, 5.0)
