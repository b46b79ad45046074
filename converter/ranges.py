"""Trains a network to keep its activations in narrow ranges, so that eight bits hold them.

An int8 tensor has 255 steps for its whole range. Where a few values lie far out, the others share few steps, and the
rounding of all such tensors adds up at the logits. The penalty is the mean, over the tensors that int8 rounds, of
``log((max - min) / deviation)``: halving the ranges halves every step, and the rounding noise with it.

References:
    The rounding noise of a step s is s / sqrt(12): Widrow & Kollar, "Quantization Noise", 2008, chapter 4. Training for
    narrow distributions: Shkolnik et al., "Robust Quantization: One Model to Rule Them All", NeurIPS 2020
    (arXiv 2002.07686), who penalise the kurtosis of weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_SMALLEST = 1e-3  # keeps the logarithm of a tensor that is 0 throughout finite
_UNROUNDED_MODULES = (nn.Conv2d, nn.Identity, nn.Dropout)  # a convolution is rounded behind its batch norm
_UNROUNDED_FUNCTIONS = (torch.flatten, functional.dropout)


class RangePenalty(fx.Interpreter):
    """Runs a network and measures its activation ranges on the way.

    Args:
        model: traceable by `torch.fx`; its parameters are shared, not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        traced = fx.symbolic_trace(model)
        super().__init__(traced)
        self._modules = dict(traced.named_modules())
        self._rounded = {node.name for node in traced.graph.nodes if self._is_rounded(node)}
        self._terms: list[Tensor] = []

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Runs a batch in training mode.

        Args:
            images: ``(N, 3, H, W)`` float32, normalised.

        Returns:
            Logits ``(N, C)``, and the penalty, a scalar.
        """
        self.module.train()
        self._terms = []
        logits = self.run(images)
        return logits, torch.stack(self._terms).mean()

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node, and measures its result if int8 would round it."""
        result = super().run_node(n)
        if n.name in self._rounded:
            span = (result.amax() - result.amin()).clamp_min(_SMALLEST)
            # Detached: the deviation is what the range is measured by, not something to inflate.
            self._terms.append(torch.log(span / result.detach().std().clamp_min(_SMALLEST)))
        return result

    def _is_rounded(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            if isinstance(self._modules[str(node.target)], _UNROUNDED_MODULES):
                return False
        elif node.op not in ("call_function", "call_method") or node.target in _UNROUNDED_FUNCTIONS:
            return False
        users = list(node.users)
        # What a ReLU alone takes is rounded behind it.
        return not (len(users) == 1 and isinstance(self._modules.get(str(users[0].target)), nn.ReLU))
