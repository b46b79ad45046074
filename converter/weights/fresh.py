"""Fresh weights that behave like trained ones in speed and quantisation.

The latency of an int8 network doesn't depend on its weights, so no training is needed to compare speed. But in a fresh network,
the batch norms don't match their inputs: they assume mean 0 and variance 1, so activations shrink from layer to layer, until
the scales between int8 tensors leave the range that XNNPACK supports. As a substitute for training, each batch norm gets the
statistics of a few photographs.

References:
    Ioffe & Szegedy, "Batch Normalization", ICML 2015 (arXiv 1502.03167).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converter.models import create_model


def fresh_network(model: str, images: Tensor, *, num_classes: int, seed: int, options: dict[str, int]) -> nn.Module:
    """Builds a network with fresh weights and batch norms that match them. Equal arguments give equal weights.

    Args:
        model: as `converter.models` knows it.
        images: ``(N, 3, S, S)`` float32, normalised.
        num_classes: number of classes.
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
    """Sets every batch norm to the statistics of its input for these images, in place, and switches to evaluation mode."""
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the statistics of the batch, not a moving average
        norm.train()
    network(images)
    return network.eval()
