"""The networks that can be converted, by name.

A family is a module that declares its networks in ``VARIANTS``. To add one: its module, its name in `_FAMILIES`, a test.
"""

from __future__ import annotations

from torch import nn

from converter.models import efficientnet_lite, ghostnet, mobilenetv3
from converter.models.variant import Variant
from device.core.errors import UsageError, nearest

_FAMILIES = (efficientnet_lite, ghostnet, mobilenetv3)

_VARIANTS: dict[str, Variant] = {name: variant for family in _FAMILIES for name, variant in family.VARIANTS.items()}


def model_names() -> tuple[str, ...]:
    """Names that `create_model` takes."""
    return tuple(sorted(_VARIANTS))


def create_model(name: str, *, num_classes: int, **options: int) -> nn.Module:
    """Builds a network with fresh weights.

    Args:
        name: one of `model_names`.
        num_classes: number of classes.
        **options: of the variant, such as a GhostNet's ``ratio`` and ``dw_size``.

    Raises:
        UsageError: an unknown name, or an option that the variant doesn't have.
    """
    if name not in _VARIANTS:
        raise UsageError("model", f"{name!r} is not a model", expected=nearest(name, _VARIANTS), reason="unknown_model")
    variant = _VARIANTS[name]
    for option in options:
        if option not in variant.options:
            known = nearest(option, variant.options)
            raise UsageError(f"model {name}", f"has no option {option!r}", expected=known, reason="unknown_option")
    return variant.build(num_classes=num_classes, **options)


def classifier_name(network: nn.Module) -> str:
    """Name of the layer that gives the scores: in every family, the last linear one."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1]
