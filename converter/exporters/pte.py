"""Wraps ExecuTorch: the only file that imports it. Quantises with PT2E and lowers to one XNNPACK delegate."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.devtools.backend_debug import get_delegation_info
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir.delegate import executorch_call_delegate
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.traceback import NodeSource
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from converter.exporters import INPUT_LIMITS, Lowering, Pixels
from converter.quantise.calibration import BATCH_IMAGES, ActivationRange
from converter.quantise.correction import prepare_layers
from converter.quantise.equalisation import artefact_input
from converter.quantise.recipes import Recipe
from device.contract import TensorSpec

_OVERLOAD = re.compile("_(default|tensor|scalar|dim)$")
_SMALLEST_STEP = 2.0**-20


def lower(network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> Lowering:
    """See `converter.exporters.Exporter.lower`."""
    with _shared_provenance():
        manager = _lower(_export(network, pixels, recipe))
        graph_module = manager.exported_program().graph_module
        delegates, outside = _inspect(graph_module)

    def serialise() -> bytes:
        with _shared_provenance():
            return bytes(manager.to_executorch().buffer)

    classes = network(artefact_input(pixels[:1])).shape[1]
    return Lowering(
        serialise, TensorSpec("logits", (1, classes), "float32", "NC"), delegates, outside, _count_operators(graph_module)
    )


@contextlib.contextmanager
def _shared_provenance() -> Iterator[None]:
    """Lets the nodes of a graph share their provenance records instead of copying them.

    Every pass copies the whole ancestry of every node, which takes a fifth of the time of lowering. The records never change.
    """
    with mock.patch.object(NodeSource, "__deepcopy__", lambda self, _memo: self, create=True):
        yield


def _export(network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> ExportedProgram:
    """Captures the graph, quantised by the recipe. Its input is channels-last in memory, as pixels are."""
    example = (_boundary(pixels[:1]),)
    if recipe.precision == "fp32":
        return torch.export.export(network, example)
    network = prepare_layers(network, pixels, recipe)
    captured = torch.export.export(network, example).module(check_guards=False)
    prepared = prepare_pt2e(captured, _OwnRangesQuantizer(recipe))
    _calibrate(prepared, pixels, recipe)
    converted = convert_pt2e(prepared)
    _take_integers(converted)
    return torch.export.export(converted, (_integers(pixels[:1]),))


def _boundary(pixels: Pixels) -> Tensor:
    """Converts pixels to the input of an fp32 program: ``(N, 3, S, S)`` float32, channels-last in memory."""
    return artefact_input(pixels).to(memory_format=torch.channels_last)


def _integers(pixels: Pixels) -> Tensor:
    """Converts pixels to the input of an int8 program: ``(N, 3, S, S)`` int8, ``pixel ^ 0x80``, channels-last in memory."""
    signed = np.ascontiguousarray(pixels ^ np.uint8(0x80)).view(np.int8)
    return torch.from_numpy(signed).permute(0, 3, 1, 2)


def _take_integers(converted: fx.GraphModule) -> None:
    """Removes the quantisation of the input, so that the program takes the caller's integers as they are."""
    placeholder = next(node for node in converted.graph.nodes if node.op == "placeholder")
    (quantise,) = placeholder.users
    quantise.replace_all_uses_with(placeholder)
    converted.graph.erase_node(quantise)
    converted.recompile()


class _OwnRangesQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
    """XNNPACK's quantiser, but a mean and a ReLU6 have ranges of their own instead of the range of their input.

    A mean is several times smaller than the largest value that goes into it, and ReLU6 cuts a layer's result to 0..6 before it
    is rounded. With the range of their input, both would use few of their 256 steps.

    Args:
        recipe: whether the classifier is rounded.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.set_global(_quantisation())
        self._recipe = recipe

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Marks what is rounded, and which tensors share a range."""
        if self._recipe.has_fp32_classifier:
            classifier = _last_linear(model)
            self.set_filter_function(lambda node: node is not classifier)
        super().annotate(model)
        for node in model.graph.nodes:
            if node.target is torch.ops.aten.mean.dim:
                node.meta[Q_ANNOTATION_KEY] = self._annotation({node.args[0]: self._activation})
            elif node.target in _RELU6 and _ends_a_layer(node):
                node.args[0].meta[Q_ANNOTATION_KEY].output_qspec = None
                node.meta[Q_ANNOTATION_KEY] = self._annotation({})
        return model

    @property
    def _activation(self) -> Any:
        return self.global_config.output_activation

    def _annotation(self, inputs: dict[fx.Node, Any]) -> QuantizationAnnotation:
        return QuantizationAnnotation(input_qspec_map=inputs, output_qspec=self._activation, _annotated=True)


_RELU6 = (torch.ops.aten.hardtanh.default, torch.ops.aten.relu6.default)
_LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default, torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)


def _ends_a_layer(node: fx.Node) -> bool:
    """True if XNNPACK computes a ReLU6 as part of the operator before it."""
    producer = node.args[0]
    return isinstance(producer, fx.Node) and producer.target in _LAYERS and len(producer.users) == 1


def _last_linear(model: fx.GraphModule) -> fx.Node:
    found = (node for node in reversed(model.graph.nodes) if node.target is torch.ops.aten.linear.default)
    return cast("fx.Node", next(found))


def _quantisation() -> Any:
    """Makes the configuration: weights per channel, activations per tensor, observers that only hold what `_calibrate` finds.

    The library's smallest step, 2^-12, is too large for layers with many inputs.
    """
    config = get_symmetric_quantization_config(is_per_channel=True)
    observer = MinMaxObserver.with_args(eps=_SMALLEST_STEP)
    activation = dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=observer)
    observer = PerChannelMinMaxObserver.with_args(eps=_SMALLEST_STEP)
    weight = dataclasses.replace(config.weight, observer_or_fake_quant_ctr=observer)
    return dataclasses.replace(config, input_activation=activation, output_activation=activation, weight=weight)


@torch.no_grad()
def _calibrate(prepared: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> None:
    ranges: dict[MinMaxObserver, ActivationRange] = {}

    def observe(observer: MinMaxObserver, inputs: tuple[Tensor], _: Tensor) -> None:
        ranges[observer].observe(_batch_first(inputs[0]))

    handles = []
    for module in prepared.modules():
        if isinstance(module, MinMaxObserver):
            ranges[module] = ActivationRange(recipe)
            handles.append(module.register_forward_hook(observe))
    for start in range(0, len(pixels), BATCH_IMAGES):
        prepared(_boundary(pixels[start : start + BATCH_IMAGES]))
    for handle in handles:
        handle.remove()
    logits = _logits_observer(prepared)
    for observer, found in ranges.items():
        _set_limits(observer, *found.limits(recipe.output_margin if observer is logits else 1.0))
    _set_limits(_input_observer(prepared), *INPUT_LIMITS)


def _batch_first(values: Tensor) -> NDArray[np.float32]:
    """Makes the first axis the batch: constants get a batch axis, feature maps become channels-last."""
    if values.dim() == 4:
        values = values.permute(0, 2, 3, 1)
    return cast("NDArray[np.float32]", np.atleast_1d(values.detach().numpy()))


def _set_limits(observer: MinMaxObserver, low: float, high: float) -> None:
    observer.min_val.fill_(low)
    observer.max_val.fill_(high)


def _input_observer(prepared: fx.GraphModule) -> MinMaxObserver:
    """Finds the observer of the graph's only input."""
    placeholder = next(node for node in prepared.graph.nodes if node.op == "placeholder")
    (user,) = placeholder.users
    return cast("MinMaxObserver", prepared.get_submodule(str(user.target)))


def _logits_observer(prepared: fx.GraphModule) -> nn.Module | None:
    """Finds the observer of the logits, the graph's only output; None if the recipe doesn't round them."""
    output = next(node for node in prepared.graph.nodes if node.op == "output")
    (source,) = output.all_input_nodes
    module = prepared.get_submodule(str(source.target)) if source.op == "call_module" else None
    return module if isinstance(module, MinMaxObserver) else None


def _lower(program: ExportedProgram) -> EdgeProgramManager:
    return to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        # Skips the verifier that runs after each pass; `_inspect` checks the result.
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )


def _inspect(graph_module: fx.GraphModule) -> tuple[int, tuple[str, ...]]:
    """Counts the delegates of a lowered graph, and names the operators outside of them."""
    calls = [node for node in graph_module.graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    outside = [node for node in calls if node.target is not executorch_call_delegate]
    return len(calls) - len(outside), tuple(sorted({_operator_name(node) for node in outside}))


def _count_operators(graph_module: fx.GraphModule) -> dict[str, int]:
    """Counts the operators inside the delegates. Quantise and dequantise marks are none of them."""
    counts: Counter[str] = Counter()
    for name, found in get_delegation_info(graph_module).delegation_by_operator.items():
        if found.delegated and not name.startswith("quantized_decomposed_"):
            counts[_OVERLOAD.sub("", name.removeprefix("aten_"))] += found.delegated
    return dict(counts)


def _operator_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
