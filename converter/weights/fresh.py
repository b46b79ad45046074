"""Fresh weights that behave like trained ones where speed and quantisation are concerned.

How long an int8 network takes doesn't depend on its weights, so none need be trained to compare speed. What a fresh network
lacks are batch norms that know their inputs: with mean 0 and variance 1 assumed, activations shrink from layer to layer, until
the scales between int8 tensors leave the range that XNNPACK can multiply by. The statistics of a few photographs, layer by
layer, are what training would have put there.

References:
    Ioffe & Szegedy, "Batch Normalization", ICML 2015 (arXiv 1502.03167).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converter.models import create_model


def fresh_network(model: str, images: Tensor, *, num_classes: int, seed: int, options: dict[str, int]) -> nn.Module:
    """Builds a network with fresh weights and settled batch norms; equal arguments give equal weights.

    Args:
        model: as `converter.models` knows it.
        images: ``(N, 3, S, S)`` float32, normalised.
        num_classes: classes out.
        seed: of the weights.
        options: of the model.

    Returns:
        The network in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_model(model, num_classes=num_classes, **options)
    return settle(network, images)


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> nn.Module:
    """Gives every batch norm the statistics of what these images bring it; in place, and in evaluation mode after."""
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the statistics are the batch's own, no moving average
        norm.train()
    network(images)
    return network.eval()
