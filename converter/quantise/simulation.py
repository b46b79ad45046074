"""Simulates int8 arithmetic in torch, on the graph that the exporters lower: measures what roundings cost without lowering.

Both formats round in the same places: the weights of a layer, with one step for each output channel, and the result of each
operator, with one step for the whole tensor. A layer's activation function is part of the layer, and operators that only move
values (flatten, a slice) round nothing. Sums inside an operator are exact here, and in the artefacts up to the last bit.

References:
    Simulated quantisation: Nagel et al., "A White Paper on Neural Network Quantization" (arXiv 2106.08295), 2.3.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Container
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from converter.quantise.calibration import BATCH_IMAGES, ActivationRange
from converter.quantise.equalisation import artefact_input
from converter.quantise.recipes import Recipe

NodeRanges = dict[str, tuple[float, float]]
"""Node of the graph -> the range that its 256 steps cover."""

Layer = nn.Conv2d | nn.Linear

WEIGHT_STEPS = 127
"""Steps of an int8 weight on either side of 0: both formats leave -128 out."""

_LOWEST, _HIGHEST = -128, 127
_SMALLEST_SCALE = 2.0**-40  # for a tensor of zeros
_CLAMPS: tuple[Any, ...] = (nn.ReLU, nn.ReLU6, nn.Hardtanh, torch.relu, functional.relu, functional.relu6, functional.hardtanh)
_MOVES: tuple[Any, ...] = (nn.Identity, nn.Dropout, nn.Flatten, torch.flatten, functional.dropout, operator.getitem)
_CLAMPED: tuple[Any, ...] = (nn.Conv2d, nn.Linear, operator.add, torch.add, operator.mul, torch.mul)
_OPERATOR_NAMES: dict[Any, str] = {nn.Conv2d: "conv2d", nn.Linear: "linear"}


class Site(msgspec.Struct, frozen=True):
    """A place where an int8 artefact rounds.

    Attributes:
        node: of the graph, whose result is rounded.
        name: where to find it in the model: the name of the module, or of the module whose ``forward`` calls the function. If
            that is the network itself, which has no name, the name of the node.
        operator: what computes it: ``conv2d``, ``cat``, ``add``, ``mul``, ``mean``, ``linear`` and so on.
        layer: node of the convolution or linear layer whose weights are rounded with it; None for other operators.
    """

    node: str
    name: str
    operator: str
    layer: str | None


def find_sites(network: fx.GraphModule, recipe: Recipe) -> tuple[Site, ...]:
    """Finds the places where an artefact of a folded network rounds, in the order of the graph."""
    modules = dict(network.named_modules())
    sites = []
    unrounded = _last_linear(network, modules) if recipe.has_fp32_classifier else None
    for node in network.graph.nodes:
        kind = _kind(node, modules)
        if kind is None or node is unrounded or kind in _MOVES or _has_own_clamp(node, modules):
            continue
        if kind is torch.cat and recipe.concat == "shared":
            continue
        producer = node
        if kind in _CLAMPS:
            producer = node.args[0]
            if not _has_own_clamp(producer, modules):
                continue  # clamps a tensor that other nodes use as well: the steps stay as they are
        sites.append(_describe(node, producer, modules))
    return tuple(sites)


def _last_linear(network: fx.GraphModule, modules: dict[str, nn.Module]) -> fx.Node | None:
    return next((node for node in reversed(network.graph.nodes) if _kind(node, modules) is nn.Linear), None)


def _describe(node: fx.Node, producer: fx.Node, modules: dict[str, nn.Module]) -> Site:
    kind = _kind(producer, modules)
    name = str(producer.target) if producer.op == "call_module" else _calling_module(producer)
    is_layer = kind in (nn.Conv2d, nn.Linear)
    called = _OPERATOR_NAMES.get(kind) or str(getattr(kind, "__name__", kind)).lower()
    return Site(node.name, name, called, producer.name if is_layer else None)


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """Gives the class of the module or the function that a node calls; None if it calls nothing."""
    if node.op == "call_module":
        return type(modules[str(node.target)])
    return node.target if node.op in ("call_function", "call_method") else None


def _has_own_clamp(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """True if a ReLU takes an operator's result before it is rounded, and no other node uses the result."""
    users = list(node.users)
    return _kind(node, modules) in _CLAMPED and len(users) == 1 and _kind(users[0], modules) in _CLAMPS


def _calling_module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return next(reversed(stack), None) or node.name


def round_weights(layer: Layer) -> Tensor:
    """Rounds a layer's weights to the 255 levels of each output channel, as both formats do."""
    scale = weight_scales(layer)
    return torch.clamp(torch.round(layer.weight / scale), -WEIGHT_STEPS, WEIGHT_STEPS) * scale


def weight_scales(layer: Layer) -> Tensor:
    """Gives the step of each output channel, with the rank of the weight."""
    weight = layer.weight
    peak = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return torch.clamp(peak / WEIGHT_STEPS, min=_SMALLEST_SCALE)


def round_activations(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Rounds values to the 256 levels of a range that includes 0."""
    low, high = limits
    scale = max((high - low) / (_HIGHEST - _LOWEST), _SMALLEST_SCALE)
    zero_point = int(np.clip(round(_LOWEST - low / scale), _LOWEST, _HIGHEST))
    return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, _LOWEST, _HIGHEST)


def apply_layer(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    """Computes a layer with other weights."""
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight, layer.bias)
    return functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def find_layers(network: fx.GraphModule) -> dict[str, Layer]:
    """Finds the convolutions and linear layers of a graph: name of the node -> layer."""
    found: dict[str, Layer] = {}
    for node in network.graph.nodes:
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            found[node.name] = module
    return found


class RoundingInterpreter(fx.Interpreter):
    """Runs a folded graph with some of its tensors rounded.

    Args:
        network: from `converter.quantise.folding.fold`, equalised or not.
        limits: ranges of all nodes that may be rounded; see `measure_limits`.
        corrected: the same graph with the weights and biases to round; None takes those of ``network``.

    Attributes:
        activations: nodes whose results are rounded.
        weights: nodes of layers whose weights are rounded.
    """

    def __init__(self, network: fx.GraphModule, limits: NodeRanges, corrected: fx.GraphModule | None = None) -> None:
        super().__init__(network, garbage_collect_values=False)
        self.activations: Collection[str] = ()
        self.weights: Collection[str] = ()
        self._limits = limits
        self._layers = find_layers(corrected or network)
        self._rounded: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node, and rounds its weights and its result if they are to be rounded."""
        result = self._run_rounded_layer(n) if n.name in self.weights else super().run_node(n)
        return round_activations(result, self._limits[n.name]) if n.name in self.activations else result

    def _run_rounded_layer(self, n: fx.Node) -> Tensor:
        layer = self._layers[n.name]
        if n.name not in self._rounded:
            self._rounded[n.name] = round_weights(layer)
        (x,), _ = self.fetch_args_kwargs_from_env(n)
        return apply_layer(layer, self._rounded[n.name], x)


class _Observer(fx.Interpreter):
    """Runs a graph and adds each node's result to the range of that node."""

    def __init__(self, network: fx.GraphModule, ranges: dict[str, ActivationRange]) -> None:
        super().__init__(network)
        self._ranges = ranges

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._ranges:
            values = result.permute(0, 2, 3, 1) if result.dim() == 4 else result
            self._ranges[n.name].observe(values.contiguous().numpy())
        return result


@torch.no_grad()
def measure_limits(network: fx.GraphModule, pixels: NDArray[np.uint8], recipe: Recipe) -> NodeRanges:
    """Measures the range of each rounded tensor on calibration images.

    Args:
        network: from `converter.quantise.folding.fold`.
        pixels: ``(N, S, S, 3)`` uint8.
        recipe: how to clip, and whether the branches of a concatenation share a range.
    """
    sites = find_sites(network, recipe)
    joins = [node for node in network.graph.nodes if node.target is torch.cat]
    ranges = {name: ActivationRange(recipe) for name in [site.node for site in sites] + [node.name for node in joins]}
    observer = _Observer(network, ranges)
    for start in range(0, len(pixels), BATCH_IMAGES):
        observer.run(artefact_input(pixels[start : start + BATCH_IMAGES]))
    logits = None if recipe.has_fp32_classifier else _source(_output(network), ranges)
    limits = {name: found.limits(recipe.output_margin if name == logits else 1.0) for name, found in ranges.items()}
    if recipe.concat == "shared":
        for join in reversed(joins):  # of nested concatenations, the last one decides
            for branch in join.all_input_nodes:
                limits[_source(branch, limits)] = limits[join.name]
    return limits


def _output(network: fx.GraphModule) -> fx.Node:
    output: fx.Node = next(node for node in reversed(network.graph.nodes) if node.op == "output")
    return output


def _source(node: fx.Node, rounded: Container[str]) -> str:
    """Finds the node that rounded a value which other nodes have only moved since."""
    while node.name not in rounded and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.name
