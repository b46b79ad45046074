"""The networks that can be converted, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from converter.models.efficientnet_lite import EfficientNetLite
from converter.models.ghostnet import ARTICLE_TABLE, PAPER_TABLE, GhostNet
from converter.models.mobilenetv3 import LARGE_TABLE, SMALL_TABLE, MobileNetV3
from device.core.errors import UsageError, nearest

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "efficientnet_lite0": EfficientNetLite,
    "ghostnet_050": partial(GhostNet, PAPER_TABLE, width=0.5),
    "ghostnet_100": partial(GhostNet, PAPER_TABLE, width=1.0),
    "ghostnet_130": partial(GhostNet, PAPER_TABLE, width=1.3),
    "ghostnet_article": partial(GhostNet, ARTICLE_TABLE, width=1.0),
    "mobilenetv3_large_100": partial(MobileNetV3, LARGE_TABLE),
    "mobilenetv3_small_100": partial(MobileNetV3, SMALL_TABLE),
}

GHOST_OPTIONS = ("ratio", "dw_size")


def model_names() -> tuple[str, ...]:
    """Names that `create_model` takes."""
    return tuple(sorted(_FACTORIES))


def create_model(name: str, *, num_classes: int, **options: int) -> nn.Module:
    """Builds a network with fresh weights.

    Args:
        name: one of `model_names`.
        num_classes: classes out.
        **options: ``ratio`` and ``dw_size``, for the GhostNets.

    Raises:
        UsageError: an unknown name, or an option that the family doesn't have.
    """
    if name not in _FACTORIES:
        raise UsageError("model", f"{name!r} is not a model", expected=nearest(name, _FACTORIES), reason="unknown_model")
    allowed = GHOST_OPTIONS if name.startswith("ghostnet") else ()
    for option in options:
        if option not in allowed:
            raise UsageError(
                f"model {name}", f"has no option {option!r}", expected=nearest(option, allowed), reason="unknown_option"
            )
    return _FACTORIES[name](num_classes=num_classes, **options)


def classifier_name(network: nn.Module) -> str:
    """Name of the layer that gives the scores: in every family, the last linear one."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1]
