"""Counts parameters and multiply-accumulates as the papers do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Counts learnable parameters, without the running statistics of batch norms."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.inference_mode()
def count_macs(model: nn.Module, *, input_px: int) -> int:
    """Counts the multiply-accumulates of convolutions and linear layers for one image.

    Args:
        model: takes ``(1, 3, input_px, input_px)``.
        input_px: side of the image.
    """
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel_height, kernel_width = module.kernel_size
            total += output.numel() * module.in_channels // module.groups * kernel_height * kernel_width
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, 3, input_px, input_px))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return total
