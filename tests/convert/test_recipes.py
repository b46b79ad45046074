"""What each choice of a recipe does to a network's layers, and what the simulation makes of them."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from converter.evaluate.sensitivity import LayerNoise, Simulation, measure_sensitivity
from converter.evaluate.sensitivity import main as sensitivity_command
from converter.evaluate.verify import Verification, require_floor
from converter.exporters import load_exporter
from converter.models.layers import HardSwish, SqueezeExcite
from converter.quantise.correction import correct_layers
from converter.quantise.equalisation import artefact_input
from converter.quantise.folding import fold
from converter.quantise.recipes import Recipe, find_recipe, recipe_names
from converter.quantise.simulation import (
    find_layers,
    find_sites,
    measure_limits,
    round_activations,
    round_weights,
    weight_scales,
)
from device.contract import Preprocessing
from device.core.errors import ConversionError, UsageError
from tests.convert.test_exporters import photographs, run_artefact, sqnr_db, tiny_network

pytestmark = pytest.mark.host

PIXELS = photographs()


def recipe(**changes: object) -> Recipe:
    """Plain rounding, but for what is asked for."""
    return msgspec.structs.replace(find_recipe("int8_min_max"), concat="shared", **changes)


class Pointwise(nn.Module):
    """A layer whose inputs have a mean and go together, as those behind a ReLU do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=2)
        self.second = nn.Conv2d(32, 8, 1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x) + 0.5)))
        return self.classifier(torch.flatten(torch.mean(x, dim=(2, 3), keepdim=True), 1))  # type: ignore[no-any-return]


def pointwise() -> fx.GraphModule:
    torch.manual_seed(0)
    return fold(Pointwise().eval(), Preprocessing())


@torch.no_grad()
def errors_of_second(network: fx.GraphModule, corrected: fx.GraphModule) -> torch.Tensor:
    """What rounding the second layer's weights adds to its outputs: ``(channels, values)``."""
    inputs = torch.relu(network.get_submodule("first")(artefact_input(PIXELS)))
    before, after = network.get_submodule("second"), corrected.get_submodule("second")
    assert isinstance(before, nn.Conv2d)
    assert isinstance(after, nn.Conv2d)
    rounded = functional.conv2d(inputs, round_weights(after), after.bias)
    error: torch.Tensor = rounded - before(inputs)
    return error.transpose(0, 1).flatten(1)


def test_bias_correction_removes_the_mean_error_of_a_layer() -> None:
    network = pointwise()
    plain = errors_of_second(network, network)
    corrected = errors_of_second(network, correct_layers(network, PIXELS, recipe(bias_correction=True)))
    assert corrected.mean(dim=1).abs().max() < 0.1 * plain.mean(dim=1).abs().max()
    torch.testing.assert_close(corrected.std(dim=1), plain.std(dim=1), rtol=1e-3, atol=0.0)


def test_compensated_weights_leave_less_error_than_the_nearest_ones() -> None:
    network = pointwise()
    plain = errors_of_second(network, network)
    compensated = errors_of_second(network, correct_layers(network, PIXELS, recipe(weight_rounding="compensated")))
    assert compensated.square().mean() < 0.5 * plain.square().mean()


@pytest.mark.parametrize("ratio", [2, 3])
def test_corrected_weights_lie_on_the_levels_that_an_exporter_finds(ratio: int) -> None:
    network = fold(tiny_network(ratio=ratio), Preprocessing())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    corrected = correct_layers(network, PIXELS, recipe(weight_rounding="compensated", bias_correction=True))
    originals = find_layers(network)
    for name, layer in find_layers(corrected).items():
        torch.testing.assert_close(weight_scales(layer), weight_scales(originals[name]), rtol=1e-5, atol=0.0)
        torch.testing.assert_close(round_weights(layer), layer.weight, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_channel_that_no_image_lights_up_is_corrected_as_well() -> None:
    network = pointwise()
    first = network.get_submodule("first")
    assert isinstance(first, nn.Conv2d)
    first.weight.data[:] = 0.0
    first.bias = nn.Parameter(torch.full((32,), -1.0), requires_grad=False)
    corrected = correct_layers(network, PIXELS, recipe(weight_rounding="compensated", bias_correction=True))
    assert all(torch.isfinite(tensor).all() for tensor in corrected.state_dict().values())


class Gated(nn.Module):
    """Squeeze-excite behind a convolution, a hard swish, and what takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.se = SqueezeExcite(16, 8)
        self.project = nn.Conv2d(16, 16, 1)
        self.act = HardSwish()
        self.expand = nn.Conv2d(16, 8, 1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.expand(self.act(self.project(self.se(self.conv(x)))))
        return self.classifier(torch.flatten(torch.mean(x, dim=(2, 3), keepdim=True), 1))  # type: ignore[no-any-return]


def test_a_gate_is_rounded_once_and_over_its_own_range() -> None:
    torch.manual_seed(0)
    model = Gated().eval()
    network = fold(model, Preprocessing())
    with torch.no_grad():
        torch.testing.assert_close(network(artefact_input(PIXELS)), model(artefact_input(PIXELS)), rtol=1e-4, atol=1e-5)
    constants = [node for node in network.graph.nodes if any(isinstance(value, int | float) for value in node.args)]
    # Left are the hard swish's `+ 3`, whose input something else needs too, and `flatten`'s axis.
    assert [node.target for node in constants] == [operator.add, torch.flatten]
    gates = [site for site in find_sites(network, recipe()) if site.name.startswith("se.")]
    assert [(site.name, site.operator) for site in gates] == [("se.conv_reduce", "conv2d"), ("se.conv_expand", "conv2d")]
    low, high = measure_limits(network, PIXELS, recipe())[gates[-1].node]
    assert low == 0.0
    assert high <= 6.0


def test_sites_are_named_as_the_model_names_them() -> None:
    model = tiny_network()
    sites = find_sites(fold(model, Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))), recipe())
    modules = dict(model.named_modules())
    at_the_top = {"mean_2"}  # called by the network itself, which has no name
    assert {site.name for site in sites} - {"normalisation"} - at_the_top <= set(modules)
    assert {"conv2d", "add", "mul", "mean", "linear"} == {site.operator for site in sites}


def test_branches_with_a_shared_range_are_rounded_once() -> None:
    network = fold(tiny_network(), Preprocessing())
    own = find_sites(network, msgspec.structs.replace(recipe(), concat="own"))
    shared = find_sites(network, recipe())
    assert {site.operator for site in own} - {site.operator for site in shared} == {"cat"}
    limits = measure_limits(network, PIXELS, recipe())
    join = next(node for node in network.graph.nodes if node.target is torch.cat)
    assert {limits[branch.name] for branch in join.all_input_nodes} == {limits[join.name]}


def test_activations_are_rounded_to_the_levels_of_their_range() -> None:
    values = torch.tensor([-3.0, 0.0, 0.1, 5.0])
    rounded = round_activations(values, (-1.0, 1.55))
    torch.testing.assert_close(rounded, torch.tensor([-1.0, 0.0, 0.1, 1.55]), rtol=1e-5, atol=1e-6)


def spoil(network: fx.GraphModule, name: str) -> None:
    """Makes a layer's weights coarse without changing what it computes: a huge weight on an input that is always 0."""
    layer, before = network.get_submodule(name), network.get_submodule("first")
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(before, nn.Conv2d)
    before.weight.data[0] = 0.0
    before.bias = nn.Parameter(torch.zeros(32) if before.bias is None else before.bias.detach(), requires_grad=False)
    before.bias.data[0] = 0.0
    layer.weight.data[:, 0] = 50.0


def test_sensitivity_puts_a_layer_that_was_made_bad_on_top() -> None:
    network = pointwise()
    good = measure_sensitivity(network, PIXELS, PIXELS, recipe())
    spoil(network, "second")
    told: list[tuple[int, int]] = []
    bad = measure_sensitivity(network, PIXELS, PIXELS, recipe(), lambda done, of: told.append((done, of)))
    assert (bad[0].name, bad[0].operator) == ("second", "conv2d")
    before = next(layer for layer in good if layer.name == "second")
    assert bad[0].sqnr_db < before.sqnr_db - 20.0
    assert [layer.sqnr_db for layer in bad] == sorted(layer.sqnr_db for layer in bad)
    assert told[-1][0] == told[-1][1]


def test_a_layer_rounded_alone_costs_less_than_the_network() -> None:
    simulation = Simulation(fold(tiny_network(), Preprocessing()), PIXELS, recipe())
    network = simulation.measure_network(PIXELS)
    layers = simulation.measure_layers(PIXELS)
    assert network.sqnr_db < min(network.weights_sqnr_db, network.activations_sqnr_db)
    assert network.sqnr_db < layers[0].sqnr_db < layers[-1].sqnr_db


def test_better_weights_and_an_fp32_classifier_show_in_the_simulation() -> None:
    network = fold(tiny_network(), Preprocessing())

    def weights_db(**changes: object) -> float:
        return Simulation(network, PIXELS, recipe(**changes)).measure_network(PIXELS).weights_sqnr_db

    assert weights_db(weight_rounding="compensated", bias_correction=True) > weights_db() + 3.0
    sites = find_sites(network, recipe(has_fp32_classifier=True))
    assert "classifier" not in {site.name for site in sites}
    assert len(sites) == len(find_sites(network, recipe())) - 1


def test_the_sensitivity_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert sensitivity_command(["--images", "1", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["recipe"] == "int8"
    assert found["images"] == 1
    assert len(found["layers"]) > 100
    assert found["network"]["sqnr_db"] < found["layers"][0]["sqnr_db"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--recipe", "int9"), "did you mean 'int8'"), (("--recipe", "fp32"), "rounds nothing"), (("--images", "0"), "1 or more")],
)
def test_the_sensitivity_command_refuses_nonsense(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        sensitivity_command(list(flags))


def test_a_failing_artefact_names_the_worst_layers_and_what_to_try() -> None:
    layers = (LayerNoise("blocks.3.0.conv_dw", "conv2d", 21.0), LayerNoise("classifier", "linear", 30.0))
    bad = Verification(images=128, sqnr_db=20.0, cosine=0.99, top1_agreement=0.9)
    with pytest.raises(ConversionError) as caught:
        require_floor("litert", bad, find_recipe("int8"), layers)
    line = str(caught.value)
    for words in (
        "SQNR 20.0 dB", "agreement 90.0%", "blocks.3.0.conv_dw (conv2d) 21.0 dB", "--recipe int8_", "--calibration DIR",
        "--noise-weight", "--recipe fp32",
    ):  # fmt: skip
        assert words in line
    assert "\n" not in line


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names("int8"))
@pytest.mark.parametrize("runtime", ["executorch", "litert"])
def test_every_int8_recipe_is_one_delegate_and_near_its_simulation(runtime: str, name: str, tmp_path: Path) -> None:
    network = fold(tiny_network(), Preprocessing())
    chosen = find_recipe(name)
    out = tmp_path / f"model.{load_exporter(runtime).suffix}"
    exported = load_exporter(runtime).export(network, PIXELS, recipe=chosen, out=out)
    assert (exported.delegates, exported.undelegated_ops) == (1, ())
    with torch.no_grad():
        wanted = network(artefact_input(PIXELS)).numpy()
    promised = Simulation(network, PIXELS, chosen).measure_network(PIXELS).sqnr_db
    assert sqnr_db(wanted, run_artefact(out, exported, PIXELS)) == pytest.approx(promised, abs=2.5)
    if runtime == "litert":
        assert exported.output.dtype == ("float32" if chosen.has_fp32_classifier else "int8")
        # A concatenation whose branches have ranges of their own rounds them once more.
        assert ("QUANTIZE" in exported.operators) == (chosen.concat == "own")
