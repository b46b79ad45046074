"""Quantisation recipes as data: each has a name, a reason to use it, and floors that its artefacts must reach.

To add a recipe is one entry in `_RECIPES`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from device.core.errors import UsageError, nearest

Precision = Literal["int8", "fp32"]
Clipping = Literal["min_max", "percentile", "least_error"]
WeightRounding = Literal["nearest", "compensated"]
Concat = Literal["shared", "own"]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network becomes an artefact.

    Two things are part of every recipe, since they cost nothing. The ``+ 3`` and ``/ 6`` of a gate are folded into the layers
    beside it, so the gate is rounded once, over exactly its range of 0 to 6 (see `converter.quantise.folding`). And a mean
    has a range of its own.

    Attributes:
        name: what the manifest and ``--recipe`` call it.
        reason: when to use it.
        precision: of weights and activations.
        clipping: ``min_max`` keeps the extremes of all calibration images; ``percentile`` and ``least_error`` give up rare
            extremes for finer steps (see `converter.quantise.calibration.ActivationRange`).
        equalisation: exponent of the cross-layer equalisation: 0 leaves the channels as they are, 1 gives every channel of
            a tensor the same range (see `converter.quantise.equalisation.equalise`).
        min_sqnr_db: of the logits against eager fp32; a conversion that is below fails.
        min_top1_agreement: share of images on which the artefact must name the class that eager fp32 names.
        percentile: with ``percentile`` clipping, the percentile of the largest value kept; the same share is cut off below.
        weight_rounding: ``nearest``, or ``compensated``: the weights of a layer compensate for one another's rounding (see
            `converter.quantise.correction`).
        bias_correction: whether biases compensate for the mean error of the rounded weights.
        concat: ``shared`` gives the branches of a concatenation the range of its result, so that none is rounded twice; ``own``
            lets each keep its own where the format allows it. TFLite then rounds them again; XNNPACK's operator requires equal
            ranges.
        output_margin: factor on the range of the logits, for images with larger logits than those of the calibration images.
        has_fp32_classifier: whether the last layer, and with it the logits, stays in fp32, inside the same delegate.
    """

    name: str
    reason: str
    precision: Precision
    clipping: Clipping
    equalisation: Annotated[float, Meta(ge=0.0, le=1.0)]
    min_sqnr_db: float
    min_top1_agreement: Annotated[float, Meta(ge=0.0, le=1.0)]
    percentile: Annotated[float, Meta(gt=50.0, le=100.0)] = 100.0
    weight_rounding: WeightRounding = "nearest"
    bias_correction: bool = False
    concat: Concat = "shared"
    output_margin: Annotated[float, Meta(ge=1.0, le=4.0)] = 1.0
    has_fp32_classifier: bool = False


# A sound int8 conversion reaches this; the shipped weights are about 2 dB and 1 % above it.
_INT8_MIN_SQNR_DB = 33.0
_INT8_MIN_TOP1_AGREEMENT = 0.98

# EfficientNet-Lite0 as published for ImageNet reaches 25.5 dB and 98.4 %, on photographs of clothes.
_PUBLISHED_MIN_SQNR_DB = 20.0
_PUBLISHED_MIN_TOP1_AGREEMENT = 0.95

_INT8 = Recipe(
    name="int8",
    reason="the default: channels equalised, rare extremes clipped, weights that compensate for one another's rounding",
    precision="int8",
    clipping="least_error",
    equalisation=0.5,
    weight_rounding="compensated",
    bias_correction=True,
    # One of 128 photographs had logits a quarter beyond those of the 64 calibration photographs; clipped, it alone cost 3.2 dB.
    output_margin=1.25,
    min_sqnr_db=_INT8_MIN_SQNR_DB,
    min_top1_agreement=_INT8_MIN_TOP1_AGREEMENT,
)


def _int8(name: str, reason: str, **changes: object) -> Recipe:
    return msgspec.structs.replace(_INT8, name=name, reason=reason, **changes)


_RECIPES = (
    _INT8,
    _int8(
        "int8_fp32_classifier",
        "for logits with fine steps: the last layer stays in fp32, which takes 4 times its bytes",
        has_fp32_classifier=True,
    ),
    _int8(
        "int8_nearest",
        "the default without the correction of weights and biases: shows what that is worth, and converts quicker",
        weight_rounding="nearest",
        bias_correction=False,
    ),
    _int8(
        "int8_percentile",
        "for calibration photographs with outliers: cuts off 0.01 % of the values on either side",
        clipping="percentile",
        percentile=99.99,
    ),
    _int8(
        "int8_min_max",
        "the baseline: plain min/max ranges on the network as it is, as the toolchains do it by default",
        clipping="min_max",
        equalisation=0.0,
        weight_rounding="nearest",
        bias_correction=False,
        concat="own",
    ),
    _int8(
        "int8_published",
        "the default with a lower floor, for published weights that weren't trained for int8; judged by the top class",
        min_sqnr_db=_PUBLISHED_MIN_SQNR_DB,
        min_top1_agreement=_PUBLISHED_MIN_TOP1_AGREEMENT,
    ),
    Recipe(
        name="fp32",
        reason="nothing is rounded: the reference for int8's speed and accuracy",
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


def recipe_names(precision: Precision) -> tuple[str, ...]:
    """Names of the recipes of a precision, in the order in which to try them."""
    return tuple(name for name, recipe in RECIPES.items() if recipe.precision == precision)
