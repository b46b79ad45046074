"""Quantisation recipes, as data: each has a name, the reason it exists, and the floors that its artefacts must reach."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from device.errors import UsageError, nearest

Precision = Literal["int8", "fp32"]
Clipping = Literal["min_max", "least_error"]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network becomes an artefact.

    Attributes:
        name: what the manifest and ``--recipe`` call it.
        reason: why one would take it.
        precision: of weights and activations.
        clipping: ``min_max`` keeps the extremes that any calibration image showed; ``least_error`` gives up rare extremes
            for finer steps (see `converter.calibration.ActivationRange`).
        equalisation: exponent of the cross-layer equalisation: 0 leaves the channels as they are, 1 gives every channel of
            a tensor the same range (see `converter.folding.equalise`).
        min_sqnr_db: of the logits against eager fp32; a conversion below fails.
        min_top1_agreement: share of images on which the artefact must name the class that eager fp32 names.
    """

    name: str
    reason: str
    precision: Precision
    clipping: Clipping
    equalisation: Annotated[float, Meta(ge=0.0, le=1.0)]
    min_sqnr_db: float
    min_top1_agreement: Annotated[float, Meta(ge=0.0, le=1.0)]


# What the shipped weights reach with the int8 recipes, less a little: SQNR 26.6 dB (.pte) and an agreement of 97.7 %. Their
# activations have long tails; the aim is 33 dB and 98 %, with weights that were trained for it (see `converter.ranges`).
_INT8_MIN_SQNR_DB = 26.0
_INT8_MIN_TOP1_AGREEMENT = 0.97

_RECIPES = (
    Recipe(
        name="int8",
        reason="the fastest; per-channel weights, per-tensor activations, channels equalised before",
        precision="int8",
        clipping="least_error",
        equalisation=0.5,
        min_sqnr_db=_INT8_MIN_SQNR_DB,
        min_top1_agreement=_INT8_MIN_TOP1_AGREEMENT,
    ),
    Recipe(
        name="int8_min_max",
        reason="plain min/max ranges on the network as it is: the yardstick for the others",
        precision="int8",
        clipping="min_max",
        equalisation=0.0,
        min_sqnr_db=_INT8_MIN_SQNR_DB,
        min_top1_agreement=_INT8_MIN_TOP1_AGREEMENT,
    ),
    Recipe(
        name="fp32",
        reason="nothing is rounded: what int8 is compared with, in speed and in accuracy",
        precision="fp32",
        clipping="min_max",
        equalisation=0.0,
        min_sqnr_db=80.0,
        min_top1_agreement=1.0,
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}


def find_recipe(name: str) -> Recipe:
    """Looks a recipe up by its name.

    Raises:
        UsageError: there is no such recipe; says which there are.
    """
    if name not in RECIPES:
        raise UsageError("recipe", f"{name!r} is not a recipe", expected=nearest(name, RECIPES), reason="unknown_recipe")
    return RECIPES[name]
