"""Wraps LiteRT's toolchain: the only file that imports it. Lowers with litert-torch, quantises with ai-edge-quantizer.

The ``.tflite`` takes int8 pixels (``pixel ^ 0x80``), channels-last, with scale 1/127.5 and zero point 0. Channels-first input
would leave a transpose in the graph.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import litert_torch
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe import static_wi8_ai8
from litert_torch.progress import config as progress_config
from numpy.typing import NDArray
from torch import fx

from converter.exporters import INPUT_LIMITS, Lowering, Pixels
from converter.quantise.calibration import ActivationRange
from converter.quantise.correction import prepare_layers
from converter.quantise.equalisation import artefact_input
from converter.quantise.recipes import Recipe
from device.contract import TensorSpec

Ranges = dict[str, dict[str, NDArray[np.float32]]]
"""Ranges as ai-edge-quantizer takes them: tensor name -> ``min`` and ``max``, each with the tensor's rank."""


def lower(network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> Lowering:
    """See `converter.exporters.Exporter.lower`."""
    data = _make(network, pixels, recipe)
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    delegates, outside = _inspect(interpreter)
    (logits,) = interpreter.get_output_details()
    scale, zero_point = logits["quantization"]
    is_integer = logits["dtype"] is np.int8
    output = TensorSpec(
        "logits",
        tuple(int(axis) for axis in logits["shape"]),
        "int8" if is_integer else "float32",
        "NC",
        float(scale) if is_integer else 1.0,
        int(zero_point) if is_integer else 0,
    )
    return Lowering(lambda: data, output, delegates, outside, _count_operators(interpreter))


def _make(network: fx.GraphModule, pixels: Pixels, recipe: Recipe) -> bytes:
    is_int8 = recipe.precision == "int8"
    if is_int8:
        network = prepare_layers(network, pixels, recipe)
    data = _lower(network, pixels)
    if not is_int8:
        return data
    quantizer = Quantizer(bytearray(data), _quantisation(recipe))
    ranges = _calibrate(quantizer, data, pixels, recipe)
    result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _quantisation(recipe: Recipe) -> list[dict[str, Any]]:
    """Makes the quantizer's configuration: it rounds everything, or everything but the classifier and the logits."""
    unrounded = ("FULLY_CONNECTED", "OUTPUT") if recipe.has_fp32_classifier else ()
    exceptions = [{"regex": ".*", "operation": name, "algorithm_key": "no_quantize", "op_config": {}} for name in unrounded]
    return [*static_wi8_ai8(), *exceptions]


def _lower(network: fx.GraphModule, pixels: Pixels) -> bytes:
    progress_config.show_progress = False
    channel_last = litert_torch.to_channel_last_io(network, args=[0]).eval()
    example = artefact_input(pixels[:1]).permute(0, 2, 3, 1).contiguous()
    return bytes(litert_torch.convert(channel_last, (example,)).model_content())


def _calibrate(quantizer: Quantizer, data: bytes, pixels: Pixels, recipe: Recipe) -> Ranges:
    """Measures the range of each activation over all images."""
    interpreter = Interpreter(
        model_content=data,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN,
    )
    interpreter.allocate_tensors()
    ((signature, names),) = interpreter.get_signature_list().items()
    (entry,) = interpreter.get_input_details()
    images = artefact_input(pixels).permute(0, 2, 3, 1).numpy()
    # The quantizer's own pass over one image gives the ranges of the weights, and the layout of the result.
    ranges = cast("Ranges", quantizer.calibrate({signature: [{names["inputs"][0]: images[:1]}]}, num_threads=1))
    activations = _activations(interpreter)
    found = {name: ActivationRange(recipe) for name in activations}
    for image in images:
        interpreter.set_tensor(entry["index"], image[np.newaxis])
        interpreter.invoke()
        for name, index in activations.items():
            found[name].observe(interpreter.get_tensor(index))
    (logits,) = interpreter.get_output_details()
    limits = {name: tensor.limits(recipe.output_margin if name == logits["name"] else 1.0) for name, tensor in found.items()}
    if recipe.concat == "shared":
        _share_ranges(interpreter, limits)
    limits[entry["name"]] = INPUT_LIMITS
    for name, (low, high) in limits.items():
        if name in ranges:
            ranges[name] = {"min": np.full_like(ranges[name]["min"], low), "max": np.full_like(ranges[name]["max"], high)}
    return ranges


def _share_ranges(interpreter: Interpreter, limits: dict[str, tuple[float, float]]) -> None:
    """Gives the branches of a concatenation the range of its result, so that none has to be rounded again."""
    names = {entry["index"]: entry["name"] for entry in interpreter.get_tensor_details()}
    for node in reversed(interpreter._get_ops_details()):  # of nested concatenations, the last one decides
        if node["op_name"] == "CONCATENATION":
            for branch in node["inputs"]:
                limits[names[branch]] = limits[names[node["outputs"][0]]]


def _activations(interpreter: Interpreter) -> dict[str, int]:
    """Finds the tensors that depend on the input: name -> index."""
    indices = {int(entry["index"]) for entry in interpreter.get_input_details()}
    for node in interpreter._get_ops_details():
        indices |= {int(index) for index in node["outputs"]}
    return {entry["name"]: entry["index"] for entry in interpreter.get_tensor_details() if entry["index"] in indices}


def _inspect(interpreter: Interpreter) -> tuple[int, tuple[str, ...]]:
    """Counts the delegates that the runtime made of a graph, and names the operators that stayed outside.

    The runtime lists every operator of the file, delegated or not, and then its delegates. An operator is outside if the
    inputs of a delegate, or the outputs of the graph, depend on it and no delegate computes it.
    """
    nodes: list[dict[str, Any]] = interpreter._get_ops_details()
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    producers = {int(index): node for node in nodes if node["op_name"] != "DELEGATE" for index in node["outputs"]}
    given = {int(entry["index"]) for entry in interpreter.get_input_details()}
    given |= {int(index) for node in delegates for index in node["outputs"]}
    wanted = [int(entry["index"]) for entry in interpreter.get_output_details()]
    wanted += [int(index) for node in delegates for index in node["inputs"]]
    outside: dict[int, str] = {}
    while wanted:
        index = wanted.pop()
        producer = producers.get(index)
        if index in given or producer is None or producer["index"] in outside:
            continue
        outside[producer["index"]] = producer["op_name"]
        wanted += [int(source) for source in producer["inputs"]]
    return len(delegates), tuple(sorted(set(outside.values())))


def _count_operators(interpreter: Interpreter) -> dict[str, int]:
    """Counts the operators of the file. The delegate has taken all of them."""
    return dict(Counter(node["op_name"] for node in interpreter._get_ops_details() if node["op_name"] != "DELEGATE"))
