"""Artefacts of both formats: one delegate, the promised boundary, the network's own function, equal bytes each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from converter.exporters import Exported, load_exporter
from converter.models import create_model
from converter.models.efficientnet_lite import same_padding
from converter.models.ghostnet import Bottleneck, GhostNet
from converter.models.layers import SqueezeExcite
from converter.quantise.equalisation import artefact_input, equalise
from converter.quantise.folding import fold
from converter.quantise.recipes import find_recipe
from device.contract import Preprocessing
from device.core.errors import ConversionError, UsageError

pytestmark = [pytest.mark.host, pytest.mark.slow]

SIDE_PX = 32
RUNTIMES = ("executorch", "litert")
TINY_TABLE = ((Bottleneck(3, 16, 16, False, 1),), (Bottleneck(5, 48, 24, True, 2), Bottleneck(3, 72, 24, True, 1)))


def photographs(count: int = 16, side_px: int = SIDE_PX) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth colour patches: unlike noise, they look like something to a network's first layers."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(side_px // 4, axis=1).repeat(side_px // 4, axis=2))


def settle(model: nn.Module) -> nn.Module:
    """Gives a fresh network the batch-norm statistics of some images, as training would."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None
    with torch.no_grad():
        model.train()(artefact_input(photographs()))
    return model.eval()


def tiny_network(ratio: int = 2, dw_size: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return settle(GhostNet(TINY_TABLE, num_classes=10, ratio=ratio, dw_size=dw_size))


def run_artefact(path: Path, exported: Exported, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits by the toolchain's own runtime, ``(N, C)`` float32."""
    signed = (pixels ^ np.uint8(0x80)).view(np.int8)
    real = artefact_input(pixels)
    if path.suffix == ".pte":
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        is_integer = method.metadata.input_tensor_meta(0).dtype() == 1
        batch = torch.from_numpy(signed).permute(0, 3, 1, 2) if is_integer else real.to(memory_format=torch.channels_last)
        return np.concatenate([method.execute([image[None]])[0].numpy() for image in batch])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in signed if entry["dtype"] is np.int8 else real.permute(0, 2, 3, 1).numpy():
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(result["index"]))
    return (np.concatenate(rows).astype(np.float32) - exported.output.zero_point) * exported.output.scale


def sqnr_db(wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_artefact_is_one_delegate_and_computes_the_network(runtime: str, precision: str, tmp_path: Path) -> None:
    model = tiny_network()
    pixels = photographs()
    out = tmp_path / f"model.{load_exporter(runtime).suffix}"
    exported = load_exporter(runtime).export(fold(model, Preprocessing()), pixels, recipe=find_recipe(precision), out=out)
    assert (exported.file, exported.delegates, exported.undelegated_ops) == (out.name, 1, ())
    assert (exported.input.shape, exported.input.dtype, exported.input.layout) == ((1, 32, 32, 3), "uint8", "NHWC")
    assert (exported.input.scale, exported.input.zero_point) == (1 / 127.5, 128)
    assert exported.output.shape == (1, 10)
    with torch.no_grad():
        wanted = model(artefact_input(pixels)).numpy()
    assert sqnr_db(wanted, run_artefact(out, exported, pixels)) > (20 if precision == "int8" else 100)
    assert list(tmp_path.iterdir()) == [out]


def test_a_tflite_takes_the_pixels_as_they_are(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    out = tmp_path / "model.tflite"
    load_exporter("litert").export(fold(tiny_network(), Preprocessing()), photographs(), recipe=find_recipe("int8"), out=out)
    interpreter = Interpreter(str(out))
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    assert entry["dtype"] is np.int8
    assert entry["shape"].tolist() == [1, 32, 32, 3]
    assert entry["quantization"] == (pytest.approx(1 / 127.5, rel=1e-6), 0)
    operators = {node["op_name"] for node in interpreter._get_ops_details()}
    first = next(node for node in interpreter._get_ops_details() if entry["index"] in node["inputs"])
    assert "TRANSPOSE" not in operators
    assert first["op_name"] in {"CONV_2D", "PAD"}


@pytest.mark.parametrize("ratio", [2, 3, 4])
@pytest.mark.parametrize("dw_size", [1, 5])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_ghost_option_splits_the_delegate(runtime: str, ratio: int, dw_size: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = settle(GhostNet(TINY_TABLE[:1], num_classes=10, ratio=ratio, dw_size=dw_size))
    out = tmp_path / f"model.{load_exporter(runtime).suffix}"
    exported = load_exporter(runtime).export(fold(model, Preprocessing()), photographs(), recipe=find_recipe("int8"), out=out)
    with torch.no_grad():
        wanted = model(artefact_input(photographs())).numpy()
    assert exported.delegates == 1
    assert sqnr_db(wanted, run_artefact(out, exported, photographs())) > 20


class SlicedNetwork(nn.Module):
    """Ends its feature maps with the slice that keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.more = nn.Conv2d(16, 16, 3)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.more(torch.relu(self.conv(x))[:, :16])
        return self.classifier(torch.flatten(torch.mean(x, dim=(2, 3), keepdim=True), 1))  # type: ignore[no-any-return]


class GatedNetwork(nn.Module):
    """Gates by torch's own hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.se = SqueezeExcite(16, 8)
        self.se.gate = nn.Hardsigmoid()  # type: ignore[assignment]
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.se(torch.relu(self.conv(x)))
        return self.classifier(torch.flatten(torch.mean(x, dim=(2, 3), keepdim=True), 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("network", "operator"), [(SlicedNetwork, "alias"), (GatedNetwork, "_to_dim_order_copy")])
def test_what_the_delegate_leaves_outside_is_named(network: type[nn.Module], operator: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    out = tmp_path / "model.pte"
    with pytest.raises(ConversionError, match=operator) as caught:
        load_exporter("executorch").export(
            fold(network().eval(), Preprocessing()), photographs(), recipe=find_recipe("int8"), out=out
        )
    assert caught.value.reason == "undelegated"
    assert not list(tmp_path.iterdir())


class SummingNetwork(nn.Module):
    """Computes something that XNNPACK has no kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.mean(torch.cumsum(self.conv(x), dim=2), dim=(2, 3), keepdim=True)
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


def test_what_litert_leaves_outside_is_named(tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    with pytest.raises(ConversionError, match="CUMSUM") as caught:
        load_exporter("litert").export(
            fold(SummingNetwork().eval(), Preprocessing()), photographs(), recipe=find_recipe("fp32"), out=out
        )
    assert caught.value.reason == "undelegated"
    assert not list(tmp_path.iterdir())


def test_an_unknown_runtime_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="executorch, litert"):
        load_exporter("tflite")


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_folding_imagenet_statistics_changes_nothing() -> None:
    model = tiny_network()
    pixels = photographs()
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        wanted = model(normalised).numpy()
        found = fold(model, IMAGENET)(artefact_input(pixels)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("side_px", [32, 33])
def test_uneven_padding_becomes_the_convolutions_own(kernel_size: int, side_px: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(same_padding(kernel_size, 2), nn.Conv2d(3, 6, kernel_size, 2, groups=3), nn.ReLU6()).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2, side_px, side_px, 3)).astype(np.uint8)
    folded = fold(model, Preprocessing())
    assert not any(isinstance(module, nn.ZeroPad2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(artefact_input(pixels)), model(artefact_input(pixels)))


def test_folding_leaves_no_batch_norm_and_the_model_as_it_was() -> None:
    model = tiny_network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold(model, Preprocessing())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["ghostnet_050", "ghostnet_article", "mobilenetv3_small_100"])
def test_equalisation_changes_the_weights_but_not_the_function(name: str) -> None:
    torch.manual_seed(0)
    network = fold(settle(create_model(name, num_classes=10)), Preprocessing())
    pixels = photographs()
    equalised = equalise(network, pixels, 0.5)
    with torch.no_grad():
        wanted, found = network(artefact_input(pixels)).numpy(), equalised(artefact_input(pixels)).numpy()
    changed = [key for key, tensor in network.state_dict().items() if not torch.equal(tensor, equalised.state_dict()[key])]
    assert changed
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


EXPORT_AND_HASH = """
import hashlib, sys
from pathlib import Path
from converter.exporters import load_exporter
from converter.quantise.folding import fold
from converter.quantise.recipes import find_recipe
from device.contract import Preprocessing
from tests.convert.test_exporters import photographs, tiny_network
out = Path(sys.argv[2])
load_exporter(sys.argv[1]).export(fold(tiny_network(), Preprocessing()), photographs(), recipe=find_recipe("int8"), out=out)
print(hashlib.sha256(out.read_bytes()).hexdigest())
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_processes_write_the_same_bytes(runtime: str, tmp_path: Path) -> None:
    hashes = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", EXPORT_AND_HASH, runtime, str(tmp_path / f"{seed}.bin")],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout.split()[-1])
    assert len(hashes) == 1
