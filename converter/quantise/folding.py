"""Folds a network into the graph that is exported: the same function with fewer operators.

The graph takes the artefact's input, ``(pixel - 128) / 127.5`` as ``(N, 3, S, S)``. Batch norms are folded into the
convolutions before them, and dropout is removed.
"""

from __future__ import annotations

import copy
import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from device.contract import Preprocessing
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT

# Within these tolerances, mean and deviation are taken for those of the artefact's input, and no layer is added for them. The
# camera's rounding moves a pixel by as much as half a pixel value, and a mean of 0.5 (EfficientNet-Lite) is as far off.
_SCALE_TOLERANCE = 1e-6
_OFFSET_TOLERANCE = 0.5 * PIXEL_SCALE + 1e-6


class Normalisation(nn.Module):
    """Brings the artefact's input to the mean and deviation that the weights were trained with.

    This is a layer of its own. Folded into the first convolution, which pads with zeros *after* normalisation, it would change
    the edges of the image.

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
        """Maps ``(N, 3, S, S)`` float32 to the same shape."""
        return self.affine(x)  # type: ignore[no-any-return]


def _affine(spec: Preprocessing) -> tuple[Tensor, Tensor]:
    """Computes scale and offset for each channel, from the artefact's input to ``(pixel / 255 - mean) / std``."""
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
        A graph that takes ``(pixel - 128) / 127.5`` and computes what ``model`` computes, up to float32 rounding. A mean within
        half a pixel value of 128/255 is taken for 128/255.
    """
    model = copy.deepcopy(model).eval()
    scale, offset = _affine(spec)
    is_identity = bool(((scale - 1.0).abs() <= _SCALE_TOLERANCE).all() and (offset.abs() <= _OFFSET_TOLERANCE).all())
    graph_module = fx.symbolic_trace(model)
    if not is_identity:
        _prepend_normalisation(graph_module, spec)
    _fold_batch_norms(graph_module)
    _drop_dropout(graph_module)
    _fold_padding(graph_module)
    _fold_offsets(graph_module)
    _fold_factors(graph_module)
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


def _fold_padding(graph_module: fx.GraphModule) -> None:
    """Folds a layer that pads unevenly (TensorFlow's SAME, at stride 2) into the convolution after it.

    ExecuTorch's quantiser gives input and output of a padding layer different scales, and fails on a graph that starts with
    one. A convolution only pads evenly, so the kernel gets zeros at its front, as many as the front is padded too much.
    """
    for node in list(graph_module.graph.nodes):
        layer = _layer(graph_module, node)
        padding = node.args[0] if isinstance(layer, nn.Conv2d) else None
        if not isinstance(padding, fx.Node) or padding.op != "call_module" or len(padding.users) != 1:
            continue
        (source,) = padding.all_input_nodes
        pad = graph_module.get_submodule(str(padding.target))
        if not isinstance(pad, nn.ZeroPad2d) or not isinstance(layer, nn.Conv2d) or layer.padding != (0, 0):
            continue
        left, right, top, bottom = pad.padding
        if right < left or bottom < top:
            continue
        layer.weight = nn.Parameter(functional.pad(layer.weight.data, (right - left, 0, bottom - top, 0)))
        layer.kernel_size = (int(layer.weight.shape[2]), int(layer.weight.shape[3]))
        layer.padding = (bottom, right)
        padding.replace_all_uses_with(source)
        graph_module.graph.erase_node(padding)


def _prepend_normalisation(graph_module: fx.GraphModule, spec: Preprocessing) -> None:
    """Adds the normalisation inside the graph, not around the model, so that its layers keep their names."""
    graph_module.add_submodule("normalisation", Normalisation(spec).affine)
    entry = next(node for node in graph_module.graph.nodes if node.op == "placeholder")
    with graph_module.graph.inserting_after(entry):
        affine = graph_module.graph.call_module("normalisation", (entry,))
    entry.replace_all_uses_with(affine, delete_user_cb=lambda user: user is not affine)


def _fold_offsets(graph_module: fx.GraphModule) -> None:
    """Folds a constant that is added to a layer's output into the layer's bias, such as a gate's ``x + 3``."""
    for node in list(graph_module.graph.nodes):
        if node.target not in (operator.add, torch.add) or len(node.args) != 2 or not isinstance(node.args[1], int | float):
            continue
        layer = _layer(graph_module, node.args[0])
        if layer is None or layer.bias is None or len(node.args[0].users) != 1:
            continue
        layer.bias.data = layer.bias.data + node.args[1]
        node.replace_all_uses_with(node.args[0])
        graph_module.graph.erase_node(node)


def _fold_factors(graph_module: fx.GraphModule) -> None:
    """Folds a constant factor of a product into the layers that take the product, such as a gate's ``/ 6``."""
    for node in list(graph_module.graph.nodes):
        if node.target not in (operator.mul, torch.mul) or not isinstance(node.args[1], int | float):
            continue
        products = list(node.users)
        if len(products) != 1 or products[0].target not in (operator.mul, torch.mul):
            continue
        takers = _takers(graph_module, products[0])
        layers = [_layer(graph_module, taker) for taker in takers]
        if not layers or any(layer is None for layer in layers):
            continue
        for layer in layers:
            assert layer is not None
            layer.weight.data = layer.weight.data * node.args[1]
        node.replace_all_uses_with(node.args[0])
        graph_module.graph.erase_node(node)


def _takers(graph_module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Finds the nodes that take a node's value, directly or through identities."""
    found: list[fx.Node] = []
    for user in node.users:
        is_identity = user.op == "call_module" and isinstance(graph_module.get_submodule(str(user.target)), nn.Identity)
        found += _takers(graph_module, user) if is_identity else [user]
    return found


def _layer(graph_module: fx.GraphModule, node: object) -> nn.Conv2d | nn.Linear | None:
    """Gives the layer that a node calls, if no other node calls it; otherwise None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = graph_module.get_submodule(str(node.target))
    calls = sum(other.op == "call_module" and other.target == node.target for other in graph_module.graph.nodes)
    return module if isinstance(module, nn.Conv2d | nn.Linear) and calls == 1 else None


def _drop_dropout(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is functional.dropout:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
