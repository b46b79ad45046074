"""Cross-layer equalisation: scales channels against one another without changing what the network computes.

An int8 tensor has one scale for all its channels, so channels with small values keep few of the 255 steps. ReLU, sums,
averages and concatenations commute with a positive factor: if a layer's output channel is divided by one, the layers after it
can be multiplied by it.

References:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019 (arXiv 1906.04721), for
    pairs of layers. Here a channel may pass through any number of layers, as residual streams do.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from converter.quantise.calibration import BATCH_IMAGES
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT

# Keeps the weights of a channel that is almost always 0 from growing without bound.
_LARGEST_FACTOR = 64.0

_PASS_THROUGH_MODULES = (nn.ReLU, nn.Identity)
_PASS_THROUGH_FUNCTIONS = (torch.flatten, torch.relu, functional.relu)


def artefact_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Converts pixels to the input of a folded network.

    Args:
        pixels: ``(N, S, S, 3)`` uint8.

    Returns:
        ``(N, 3, S, S)`` float32, ``(pixel - 128) / 127.5``, contiguous.
    """
    real = (torch.from_numpy(pixels).float() - PIXEL_ZERO_POINT) * PIXEL_SCALE
    return real.permute(0, 3, 1, 2).contiguous()


def equalise(network: fx.GraphModule, pixels: NDArray[np.uint8], exponent: float) -> fx.GraphModule:
    """Brings the ranges of a network's channels closer together.

    Args:
        network: from `converter.quantise.folding.fold`.
        pixels: ``(N, S, S, 3)`` uint8: the calibration images.
        exponent: 0 changes nothing; 1 gives every channel of a tensor the same range. Values in between trade the rounding of
            the activations against that of the weights, which the factors make more uneven.

    Returns:
        A copy that computes the same, up to float32 rounding.
    """
    network = copy.deepcopy(network)
    if exponent == 0.0:
        return network
    ranges = _measure_channels(network, pixels)
    channels = _trace_channels(network, {name: len(values) for name, values in ranges.items()})
    factors = channels.factors(ranges, exponent)
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d | nn.Linear):
            before = factors[channels.of[node.args[0].name]]
            _rescale(modules[node.target], before, factors[channels.of[node.name]])
    return network


class _Recorder(fx.Interpreter):
    """Runs a graph and records the largest magnitude of each channel of each node."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.ranges: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op != "output" and isinstance(result, Tensor):
            peak = result.abs().amax(dim=[axis for axis in range(result.dim()) if axis != 1])
            self.ranges[n.name] = torch.maximum(self.ranges[n.name], peak) if n.name in self.ranges else peak
        return result


@torch.no_grad()
def _measure_channels(network: fx.GraphModule, pixels: NDArray[np.uint8]) -> dict[str, Tensor]:
    recorder = _Recorder(network)
    for start in range(0, len(pixels), BATCH_IMAGES):
        recorder.run(artefact_input(pixels[start : start + BATCH_IMAGES]))
    return recorder.ranges


class _Channels:
    """Records which channels of which nodes share one factor, and which must keep the factor 1.

    Attributes:
        of: node -> for each of its channels, the index of a factor.
    """

    def __init__(self) -> None:
        self.of: dict[str, list[int]] = {}
        self._parents: list[int] = []
        self._fixed: set[int] = set()

    def add(self, count: int) -> list[int]:
        """Adds new factors."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return list(range(start, start + count))

    def root(self, index: int) -> int:
        """Finds the factor that represents all those joined with this one."""
        while self._parents[index] != index:
            index = self._parents[index]
        return index

    def fix(self, indices: list[int]) -> None:
        """Fixes factors at 1."""
        self._fixed |= {self.root(index) for index in indices}

    def is_fixed(self, indices: list[int]) -> bool:
        """True if all of these factors are fixed at 1."""
        return all(self.root(index) in self._fixed for index in indices)

    def join(self, first: list[int], second: list[int]) -> None:
        """Joins factors, pair by pair, so that they stay equal."""
        for one, other in zip(first, second, strict=True):
            kept, gone = self.root(one), self.root(other)
            if kept == gone:
                continue
            self._parents[gone] = kept
            if gone in self._fixed:
                self._fixed.add(kept)

    def factors(self, ranges: dict[str, Tensor], exponent: float) -> Tensor:
        """Computes the divisor of each channel from the largest magnitude among all nodes that share its factor."""
        peaks = [0.0] * len(self._parents)
        for name, indices in self.of.items():
            for index, peak in zip(indices, ranges[name].tolist(), strict=True):
                root = self.root(index)
                peaks[root] = max(peaks[root], peak)
        values = []
        for index in range(len(self._parents)):
            root = self.root(index)
            is_free = root not in self._fixed and peaks[root] > 0.0
            factor = peaks[root] ** exponent if is_free else 1.0
            values.append(min(max(factor, 1.0 / _LARGEST_FACTOR), _LARGEST_FACTOR))
        return torch.tensor(values)


def _trace_channels(network: fx.GraphModule, counts: dict[str, int]) -> _Channels:
    channels = _Channels()
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        inputs: list[fx.Node] = []
        fx.map_arg(node.args, inputs.append)
        sources = [channels.of[source.name] for source in inputs]
        kind = modules[node.target] if node.op == "call_module" else node.target
        passed = _pass_through(channels, node, kind, sources)
        if isinstance(kind, nn.Conv2d | nn.Linear):
            channels.of[node.name] = channels.add(counts[node.name])
        elif passed is not None and len(passed) == counts[node.name]:
            channels.of[node.name] = passed
        else:
            # Unknown operators may be nonlinear.
            for source in sources:
                channels.fix(source)
            if node.op != "output":
                channels.of[node.name] = channels.add(counts[node.name])
                channels.fix(channels.of[node.name])
    return channels


def _pass_through(channels: _Channels, node: fx.Node, kind: Any, sources: list[list[int]]) -> list[int] | None:
    """Gives the factors of an operator's output if the operator commutes with those of its inputs; otherwise None."""
    if isinstance(kind, _PASS_THROUGH_MODULES) or kind in _PASS_THROUGH_FUNCTIONS:
        return sources[0]
    if kind is torch.mean and node.kwargs.get("dim") == (2, 3):
        return sources[0]
    if kind is torch.cat:
        return [index for source in sources for index in source]
    if kind is operator.getitem and isinstance(node.args[1], tuple) and len(node.args[1]) == 2:
        images, kept = node.args[1]
        return sources[0][kept] if images == slice(None) and isinstance(kept, slice) else None
    if kind is operator.add and len(sources) == 2:
        channels.join(*sources)
        return sources[0]
    if kind is operator.mul:
        return _multiply(channels, sources)
    return None


def _multiply(channels: _Channels, sources: list[list[int]]) -> list[int]:
    """Gives the factors of a product: those of one input, if the other is a constant, or a gate whose factor is fixed at 1."""
    if len(sources) == 1 or channels.is_fixed(sources[1]):
        return sources[0]
    if not channels.is_fixed(sources[0]):
        channels.fix(sources[0])
    return sources[1]


def _rescale(layer: nn.Conv2d | nn.Linear, before: Tensor, after: Tensor) -> None:
    """Rescales a layer's weights for inputs divided by ``before`` and outputs divided by ``after``."""
    weight = layer.weight.data
    spread = (-1,) + (1,) * (weight.dim() - 1)
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    # Row o of a grouped convolution has only the inputs of its group.
    per_row = before.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, dim=0)
    layer.weight.data = weight * per_row.reshape(*per_row.shape, *(1,) * (weight.dim() - 2)) / after.reshape(spread)
    if layer.bias is not None:
        layer.bias.data = layer.bias.data / after
