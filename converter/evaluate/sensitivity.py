"""``python -m converter.evaluate.sensitivity``: what each rounded tensor of an int8 artefact costs at the logits, worst first.

It lowers nothing, but simulates the rounding on the graph that the exporters would lower (see `converter.quantise.simulation`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, fx

from converter.data.photographs import choose_photographs
from converter.evaluate.accuracy import Pixels
from converter.quantise.correction import correct_layers
from converter.quantise.equalisation import artefact_input, equalise
from converter.quantise.folding import fold
from converter.quantise.recipes import Recipe, find_recipe, recipe_names
from converter.quantise.simulation import RoundingInterpreter, Site, find_sites, measure_limits
from converter.weights.checkpoints import load_checkpoint
from device.contract import Preprocessing
from device.core.errors import UsageError, exit_with_one_line

IMAGES = 16
"""Number of verification images. The result ranks layers; it isn't the accuracy of the artefact."""

LAYERS_NAME = "layers.json"
SENSITIVITY_TARGET = "converter.evaluate.sensitivity:run_sensitivity"
"""See `converter.work.jobs.CachedJob`."""

_BATCH_IMAGES = 4  # at once: every value of the graph is kept, 22 MB for each image of `ghostnet_100` at 224 px
_SHOWN_LAYERS = 20


class LayerNoise(msgspec.Struct, frozen=True):
    """What rounding one tensor costs.

    Attributes:
        name: where to find it in the model: a module (``blocks.3.0.ghost1.primary_conv.0``), or the module whose ``forward``
            computes it.
        operator: ``conv2d``, ``cat``, ``add``, ``mul``, ``mean``, ``linear`` and so on.
        sqnr_db: of the logits if only this tensor (its activations, and the weights of its layer) is rounded.
    """

    name: str
    operator: str
    sqnr_db: float


class NetworkNoise(msgspec.Struct, frozen=True):
    """What rounding the whole network costs, simulated.

    Attributes:
        sqnr_db: of the logits if everything is rounded.
        weights_sqnr_db: of the logits if only weights are rounded.
        activations_sqnr_db: of the logits if only activations are rounded.
    """

    sqnr_db: float
    weights_sqnr_db: float
    activations_sqnr_db: float


Advance = Callable[[int, int], None]
"""Called with the number of steps that are done, and the number of all steps."""


def measure_sensitivity(
    network: fx.GraphModule, calibration: Pixels, verification: Pixels, recipe: Recipe, advance: Advance | None = None
) -> tuple[LayerNoise, ...]:
    """Rounds one tensor at a time, and measures the noise at the logits.

    Args:
        network: from `converter.quantise.folding.fold`.
        calibration: ``(N, S, S, 3)`` uint8: images to measure the ranges on.
        verification: ``(N, S, S, 3)`` uint8: images to measure the noise on; the first `IMAGES` are used.
        recipe: an int8 recipe.
        advance: called after each step.

    Returns:
        One entry for each rounded tensor, worst first.
    """
    return Simulation(network, calibration, recipe).measure_layers(verification[:IMAGES], advance)


class SensitivityRequest(msgspec.Struct, frozen=True):
    """All that `run_sensitivity` needs.

    Attributes:
        model: variant.
        weights: as the user named them.
        preprocessing: that the weights demand, at the wanted input size.
        recipe: an int8 one.
        calibration: path of a ``.npy`` file, ``(N, S, S, 3)`` uint8.
        verification: path of another.
    """

    model: str
    weights: str
    preprocessing: Preprocessing
    recipe: Recipe
    calibration: str
    verification: str


def run_sensitivity(request: SensitivityRequest, out: Path) -> None:
    """Writes `LAYERS_NAME` into a folder; a job, see `converter.work.jobs`."""
    torch.set_num_threads(1)  # beside another job, see `converter.exporters.job.run_export`
    network = fold(load_checkpoint(request.model, request.weights).model, request.preprocessing)
    layers = measure_sensitivity(network, np.load(request.calibration), np.load(request.verification), request.recipe)
    (out / LAYERS_NAME).write_bytes(msgspec.json.encode(layers))


def read_layers(folder: Path) -> tuple[LayerNoise, ...]:
    """Reads what `run_sensitivity` wrote."""
    return msgspec.json.decode((folder / LAYERS_NAME).read_bytes(), type=tuple[LayerNoise, ...])


class Simulation:
    """A network with all the rounding that an int8 artefact of it would do.

    Args:
        network: from `converter.quantise.folding.fold`.
        calibration: ``(N, S, S, 3)`` uint8: images for the ranges and the corrections.
        recipe: an int8 recipe.
    """

    def __init__(self, network: fx.GraphModule, calibration: Pixels, recipe: Recipe) -> None:
        self._network = equalise(network, calibration, recipe.equalisation)
        self._sites = find_sites(self._network, recipe)
        limits = measure_limits(self._network, calibration, recipe)
        self._runner = RoundingInterpreter(self._network, limits, correct_layers(self._network, calibration, recipe))

    @torch.no_grad()
    def measure_layers(self, pixels: Pixels, advance: Advance | None = None) -> tuple[LayerNoise, ...]:
        """Rounds one tensor at a time, and recomputes only what depends on it.

        Args:
            pixels: ``(N, S, S, 3)`` uint8.
            advance: called after each step.
        """
        behind = {site.node: _nodes_behind(self._network, site) for site in self._sites}
        noise = dict.fromkeys(behind, 0.0)
        signal, done = 0.0, 0
        steps = len(self._sites) * -(-len(pixels) // _BATCH_IMAGES)
        for batch in _batches(pixels):
            reference = self._run(batch)
            values = dict(self._runner.env)
            signal += _power(reference)
            for site in self._sites:
                kept = {node: value for node, value in values.items() if node not in behind[site.node]}
                self._choose((site,), weights=True, activations=True)
                noise[site.node] += _power(self._runner.run(initial_env=kept) - reference)
                done += 1
                if advance:
                    advance(done, steps)
        found = [LayerNoise(site.name, site.operator, _decibels(signal, noise[site.node])) for site in self._sites]
        return tuple(sorted(found, key=lambda layer: layer.sqnr_db))

    @torch.no_grad()
    def measure_network(self, pixels: Pixels) -> NetworkNoise:
        """Rounds the whole network, then only its weights, then only its activations.

        Args:
            pixels: ``(N, S, S, 3)`` uint8.
        """
        ways = ((True, True), (True, False), (False, True))
        noise = dict.fromkeys(ways, 0.0)
        signal = 0.0
        for batch in _batches(pixels):
            reference = self._run(batch)
            signal += _power(reference)
            for weights, activations in ways:
                self._choose(self._sites, weights=weights, activations=activations)
                noise[weights, activations] += _power(self._runner.run(batch) - reference)
        return NetworkNoise(*(_decibels(signal, noise[way]) for way in ways))

    def _run(self, batch: Tensor) -> Tensor:
        """Computes the logits with nothing rounded."""
        self._choose((), weights=False, activations=False)
        logits: Tensor = self._runner.run(batch)
        return logits

    def _choose(self, sites: tuple[Site, ...], *, weights: bool, activations: bool) -> None:
        self._runner.activations = {site.node for site in sites if activations}
        self._runner.weights = {site.layer for site in sites if weights and site.layer is not None}


def _batches(pixels: Pixels) -> Iterator[Tensor]:
    for start in range(0, len(pixels), _BATCH_IMAGES):
        yield artefact_input(pixels[start : start + _BATCH_IMAGES])


def _nodes_behind(network: fx.GraphModule, site: Site) -> set[fx.Node]:
    """Finds the nodes whose values a rounding changes: those of the site, and all that depend on them."""
    changed: set[fx.Node] = set()
    for node in network.graph.nodes:
        if node.name in (site.node, site.layer) or changed.intersection(node.all_input_nodes):
            changed.add(node)
    return changed


def _power(values: Tensor) -> float:
    return float(values.double().square().sum())


def _decibels(signal: float, noise: float) -> float:
    return 10.0 * float(np.log10(signal / noise)) if signal and noise else float("inf")


class SensitivityReport(msgspec.Struct, frozen=True):
    """The command's output.

    Attributes:
        model: variant.
        weights: checkpoint.
        recipe: that was simulated.
        images: number of images.
        network: the noise of the whole network.
        layers: the noise of each tensor alone, worst first.
    """

    model: str
    weights: str
    recipe: str
    images: int
    network: NetworkNoise
    layers: tuple[LayerNoise, ...]


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="python -m converter.evaluate.sensitivity", description=str(__doc__).splitlines()[0])
    names = ", ".join(recipe_names("int8"))
    parser.add_argument("--model", default="ghostnet_100", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--weights", default="clothing", metavar="NAME|PATH", help="(default: %(default)s)")
    parser.add_argument("--recipe", default="int8", metavar="NAME", help=f"of {names} (default: %(default)s)")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="photographs (default: the weights' own)")
    parser.add_argument("--verification", type=Path, metavar="DIR", help="labelled photographs (default: the weights' own)")
    parser.add_argument(
        "--images", type=int, default=IMAGES, metavar="N", help="number of images to measure on (default: %(default)s)"
    )
    parser.add_argument(
        "--worst", type=int, default=_SHOWN_LAYERS, metavar="N", help="rows of the table (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print every layer as JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and measures."""
    flags = build_parser().parse_args(arguments)
    recipe = find_recipe(flags.recipe)
    if recipe.precision != "int8":
        raise UsageError(
            "--recipe", f"{recipe.name} rounds nothing", expected=f"one of {', '.join(recipe_names('int8'))}", reason="recipe"
        )
    if flags.images < 1:
        raise UsageError("--images", f"{flags.images} images", expected="1 or more", reason="images")
    checkpoint = load_checkpoint(flags.model, flags.weights)
    spec = checkpoint.card.preprocessing
    photographs = choose_photographs(checkpoint, spec, calibration=flags.calibration, verification=flags.verification)
    pixels = photographs.verification.pixels[: flags.images]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("calibrate", total=None)
        simulation = Simulation(fold(checkpoint.model, spec), photographs.calibration.pixels, recipe)
        network = simulation.measure_network(pixels)
        progress.update(task, description="round")
        layers = simulation.measure_layers(pixels, lambda done, of: progress.update(task, completed=done, total=of))
    found = SensitivityReport(flags.model, checkpoint.name, recipe.name, len(pixels), network, layers)
    if flags.json:
        print(msgspec.json.encode(found).decode())
    else:
        print_table(Console(), found, flags.worst)
    return 0


def print_table(console: Console, found: SensitivityReport, worst: int) -> None:
    """Prints the figures of the network, and the layers that cost most."""
    network = found.network
    console.print(
        f"{found.model}, {found.weights}, recipe {found.recipe}, {found.images} images, simulated\n"
        f"SQNR {network.sqnr_db:.1f} dB; weights alone {network.weights_sqnr_db:.1f} dB, "
        f"activations alone {network.activations_sqnr_db:.1f} dB\n",
        highlight=False,
    )
    table = Table("rounded alone", "operator", "SQNR", box=None, header_style="bold")
    for layer in found.layers[:worst]:
        table.add_row(layer.name, layer.operator, f"{layer.sqnr_db:.1f} dB")
    console.print(table)
    left = len(found.layers) - worst
    if left > 0:
        console.print(f"and {left} that cost less", highlight=False)


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
