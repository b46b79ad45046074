"""Prepares layers for rounding, before an exporter rounds them: compensates weights for one another, and corrects biases.

A rounded weight leaves an error at the layer's output. The first and second moments of the layer's inputs, measured on
calibration images, tell how much of it the other weights can compensate, and how much is the same for all inputs.

References:
    * Weights: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023
      (arXiv 2210.17323), 3. Here the inputs are those of the network before it is rounded.
    * Biases: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019
      (arXiv 1906.04721), 4.2, with the means measured on images instead of those in the batch norms.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from converter.quantise.calibration import BATCH_IMAGES
from converter.quantise.equalisation import artefact_input, equalise
from converter.quantise.recipes import Recipe
from converter.quantise.simulation import WEIGHT_STEPS, Layer, find_layers, round_weights, weight_scales

# Share of the mean second moment that is added to each one, as in GPTQ's experiments; keeps the inverse finite.
_DAMPING = 0.01
_NEVER_SEEN = 1e-12  # second moment of inputs that are 0 on every image
_PATCHES_PER_IMAGE = 256  # positions of a feature map that the moments are taken from


def prepare_layers(network: fx.GraphModule, pixels: NDArray[np.uint8], recipe: Recipe) -> fx.GraphModule:
    """Equalises and corrects a network as an int8 recipe asks for, before its tensors are rounded.

    Args:
        network: from `converter.quantise.folding.fold`; left as it is.
        pixels: ``(N, S, S, 3)`` uint8: the calibration images.
        recipe: says how to equalise, how to round weights, and whether to correct biases.

    Returns:
        A network with the same graph, to be rounded to nearest.
    """
    return correct_layers(equalise(network, pixels, recipe.equalisation), pixels, recipe)


@torch.no_grad()
def correct_layers(network: fx.GraphModule, pixels: NDArray[np.uint8], recipe: Recipe) -> fx.GraphModule:
    """Rounds weights so that they compensate for one another, and shifts biases by the mean error that is left.

    Args:
        network: equalised; left as it is.
        pixels: ``(N, S, S, 3)`` uint8.
        recipe: says which of the two.

    Returns:
        A copy whose weights lie on the levels that an exporter will find for them; the network itself if the recipe asks for
        neither.
    """
    if recipe.weight_rounding == "nearest" and not recipe.bias_correction:
        return network
    network = copy.deepcopy(network)
    recorder = _MomentRecorder(network)
    for start in range(0, len(pixels), BATCH_IMAGES):
        recorder.run(artefact_input(pixels[start : start + BATCH_IMAGES]))
    for name, layer in find_layers(network).items():
        moments = recorder.moments[name]
        rounded = round_weights(layer) if recipe.weight_rounding == "nearest" else _compensate(layer, moments)
        if recipe.bias_correction:
            shift = moments.mean_output(layer, layer.weight - rounded)
            layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias + shift, requires_grad=False)
        layer.weight.data = rounded
    return network


class _Moments:
    """First and second moments of a layer's input patches, for each group."""

    def __init__(self) -> None:
        self._count = 0
        self._first = torch.zeros(0)
        self._second = torch.zeros(0)

    def add(self, patches: Tensor) -> None:
        """Adds patches, ``(groups, width, positions)``."""
        first, second = patches.sum(dim=2), patches @ patches.transpose(1, 2)
        self._first = first if self._count == 0 else self._first + first
        self._second = second if self._count == 0 else self._second + second
        self._count += patches.shape[2]

    @property
    def second(self) -> Tensor:
        """``(groups, width, width)`` float64."""
        return self._second.double() / self._count

    def mean_output(self, layer: Layer, weight: Tensor) -> Tensor:
        """Computes the mean output of a layer with other weights and no bias, ``(channels,)``."""
        first = self._first / self._count
        return (_rows(layer, weight) @ first[:, :, None]).reshape(-1)


class _MomentRecorder(fx.Interpreter):
    """Runs a graph and keeps the moments of each layer's inputs."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self._layers = find_layers(network)
        self.moments = {name: _Moments() for name in self._layers}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._layers:
            (x,), _ = self.fetch_args_kwargs_from_env(n)
            for image in x.split(1):
                self.moments[n.name].add(_patches(self._layers[n.name], image))
        return super().run_node(n)


def _patches(layer: Layer, image: Tensor) -> Tensor:
    """Extracts input patches of a layer: ``(groups, width, positions)``, with positions spread over the image."""
    if isinstance(layer, nn.Linear):
        return image.T[None]
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0):
        columns = image.flatten(2)
    else:
        columns = functional.unfold(image, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    positions = columns.shape[2]
    # An odd step reaches every column of a feature map, whose side is even or 7.
    step = max(1, positions // _PATCHES_PER_IMAGE) | 1
    return columns[0, :, ::step].reshape(layer.groups, -1, columns[:, :, ::step].shape[2])


def _rows(layer: Layer, weight: Tensor) -> Tensor:
    """Reshapes weights to ``(groups, channels of a group, width)``."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _compensate(layer: Layer, moments: _Moments) -> Tensor:
    """Rounds a layer's weights input by input; the weights that aren't rounded yet compensate for the error of each input.

    The largest weight of a channel stays as it is: exporters derive the channel's step from it.
    """
    weight = _rows(layer, layer.weight).double()
    scale = _rows(layer, weight_scales(layer)).double()
    second = moments.second
    width = weight.shape[2]
    diagonal = torch.diagonal(second, dim1=1, dim2=2)
    diagonal += _DAMPING * diagonal.mean(dim=1, keepdim=True) + _NEVER_SEEN
    # The inputs that matter most come first, while many are left to compensate for them.
    order = torch.argsort(diagonal, dim=1, descending=True)
    across = order[:, None, :]
    levels = (weight / scale).gather(2, across.expand_as(weight))
    second = second.gather(1, order[:, :, None].expand_as(second)).gather(2, across.expand_as(second))
    inverse = torch.linalg.cholesky(torch.linalg.inv(second), upper=True)
    largest = levels.abs().argmax(dim=2)
    rounded = torch.empty_like(levels)
    for index in range(width):
        wanted = levels[:, :, index]
        nearest = torch.clamp(torch.round(wanted), -WEIGHT_STEPS, WEIGHT_STEPS)
        found = torch.where(largest == index, torch.copysign(torch.full_like(wanted, WEIGHT_STEPS), wanted), nearest)
        rounded[:, :, index] = found
        error = (wanted - found) / inverse[:, index, index, None]
        levels[:, :, index:] -= error[:, :, None] * inverse[:, None, index, index:]
    back = torch.argsort(order, dim=1)[:, None, :].expand_as(rounded)
    return (rounded.gather(2, back) * scale).reshape(layer.weight.shape).float()
