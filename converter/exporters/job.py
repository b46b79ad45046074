"""The export of one network to one format as a job, see `converter.work.jobs`; and the artefact that it leaves in the cache.

All that this module and the exporter's own import shapes the artefact, and is part of the cache's key.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import fx

from converter.exporters import Exported, Pixels, load_exporter, toolchain_versions
from converter.quantise.equalisation import artefact_input
from converter.quantise.folding import fold
from converter.quantise.recipes import Recipe
from converter.weights.checkpoints import load_checkpoint
from converter.weights.fresh import fresh_network
from converter.work.cache import hash_imported
from device.contract import Preprocessing

EXPORTED_NAME = "exported.json"
EXPORT_TARGET = "converter.exporters.job:run_export"
"""See `converter.work.jobs.CachedJob`."""


class TrainedNetwork(msgspec.Struct, frozen=True, tag="trained"):
    """A network with the weights of a checkpoint.

    Attributes:
        model: as `converter.models` knows it.
        weights: as the user named them.
        preprocessing: that the weights demand, at the wanted input size.
    """

    model: str
    weights: str
    preprocessing: Preprocessing


class FreshNetwork(msgspec.Struct, frozen=True, tag="fresh"):
    """A network with fresh weights, see `converter.weights.fresh`. Its preprocessing is the artefact's own.

    Attributes:
        model: as `converter.models` knows it.
        options: of the model.
        num_classes: of its classifier.
        seed: of its weights.
    """

    model: str
    options: dict[str, int]
    num_classes: int
    seed: int


class ExportRequest(msgspec.Struct, frozen=True):
    """All that an export needs.

    Attributes:
        runtime: whose format to export to.
        network: what to export.
        recipe: how to quantise.
        pixels: path of a ``.npy`` file, ``(N, S, S, 3)`` uint8: the calibration photographs.
    """

    runtime: str
    network: TrainedNetwork | FreshNetwork
    recipe: Recipe
    pixels: str


class Lowered(NamedTuple):
    """An artefact in the cache."""

    path: Path
    exported: Exported


def run_export(request: ExportRequest, out: Path) -> None:
    """Writes the artefact and `EXPORTED_NAME` into a folder."""
    # Jobs run side by side: threads of each would wait for one another's, which took three times as long.
    torch.set_num_threads(1)
    pixels = np.load(request.pixels)
    exporter = load_exporter(request.runtime)
    network = _load_network(request.network, pixels)
    exported = exporter.export(network, pixels, recipe=request.recipe, out=out / f"model.{exporter.suffix}")
    (out / EXPORTED_NAME).write_bytes(msgspec.json.encode(exported))


def _load_network(network: TrainedNetwork | FreshNetwork, pixels: Pixels) -> fx.GraphModule:
    if isinstance(network, TrainedNetwork):
        return fold(load_checkpoint(network.model, network.weights).model, network.preprocessing)
    images = artefact_input(pixels)
    model = fresh_network(network.model, images, num_classes=network.num_classes, seed=network.seed, options=network.options)
    return fold(model, Preprocessing(input_px=pixels.shape[1]))


def read_artefact(folder: Path) -> Lowered:
    """Reads what `run_export` wrote."""
    exported = msgspec.json.decode((folder / EXPORTED_NAME).read_bytes(), type=Exported)
    return Lowered(folder / exported.file, exported)


@functools.cache
def toolchain_key(runtime: str) -> dict[str, object]:
    """What shapes an artefact beside the network, the recipe and the photographs: our sources, and the toolchains' versions."""
    sources = hash_imported(__name__, type(load_exporter(runtime)).__module__)
    return {"runtime": runtime, "sources": sources, "versions": toolchain_versions()}
