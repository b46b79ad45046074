"""Turns a network into the one that is exported: same function, less to do.

The exported network takes the artefact's input, ``(pixel - 128) / 127.5`` as ``(N, 3, S, S)``, and is a plain graph: batch
norms are folded into the convolutions before them, dropout is gone.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from device.contract import Preprocessing
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT

# Below this, the affine is rounding: mean and deviation are those of the artefact's input.
_IDENTITY_TOLERANCE = 1e-6


class Normalisation(nn.Module):
    """Brings the artefact's input to the mean and deviation that the weights were trained with.

    A layer of its own, not folded into the first convolution: that one pads with zeros *after* normalisation, so folding would
    change the picture's edges.

    Args:
        spec: as the weights demand.
    """

    def __init__(self, spec: Preprocessing) -> None:
        super().__init__()
        scale, offset = _affine(spec)
        self.affine = nn.Conv2d(3, 3, 1, groups=3)
        self.affine.weight.data = scale.reshape(3, 1, 1, 1)
        self.affine.bias = nn.Parameter(offset)

    def forward(self, x: Tensor) -> Tensor:
        """Takes and gives ``(N, 3, S, S)`` float32."""
        return self.affine(x)  # type: ignore[no-any-return]


def _affine(spec: Preprocessing) -> tuple[Tensor, Tensor]:
    """Scale and offset per channel from the artefact's input ``a`` to the network's: ``(pixel / 255 - mean) / std``."""
    mean = torch.tensor(spec.mean, dtype=torch.float64)
    std = torch.tensor(spec.std, dtype=torch.float64)
    scale = (1.0 / PIXEL_SCALE) / 255 / std
    offset = (PIXEL_ZERO_POINT / 255 - mean) / std
    return scale.float(), offset.float()


def fold(model: nn.Module, spec: Preprocessing) -> fx.GraphModule:
    """Folds batch norms and the normalisation of pixels into a copy of a network.

    Args:
        model: in evaluation mode; takes ``(N, 3, S, S)`` float32, normalised as ``spec`` says.
        spec: as the weights demand.

    Returns:
        A graph that takes ``(pixel - 128) / 127.5`` and gives what ``model`` gives, to float32 rounding.
    """
    model = copy.deepcopy(model).eval()
    scale, offset = _affine(spec)
    is_identity = torch.allclose(scale, torch.ones(3), atol=_IDENTITY_TOLERANCE) and torch.allclose(
        offset, torch.zeros(3), atol=_IDENTITY_TOLERANCE
    )
    graph_module = fx.symbolic_trace(model if is_identity else nn.Sequential(Normalisation(spec), model))
    _fold_batch_norms(graph_module)
    _drop_dropout(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()
    graph_module.delete_all_unused_submodules()
    return graph_module.eval().requires_grad_(False)


def _fold_batch_norms(graph_module: fx.GraphModule) -> None:
    modules = dict(graph_module.named_modules())
    for node in list(graph_module.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        producer = node.args[0]
        convolution = modules.get(producer.target) if producer.op == "call_module" else None
        if not isinstance(convolution, nn.Conv2d) or len(producer.users) != 1:
            continue
        graph_module.set_submodule(producer.target, fuse_conv_bn_eval(convolution, modules[node.target]))
        node.replace_all_uses_with(producer)
        graph_module.graph.erase_node(node)


def _drop_dropout(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is functional.dropout:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
