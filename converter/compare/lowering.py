"""One export, in a process of its own: lowering takes a gigabyte, can't be interrupted, and may crash.

    python -m converter.compare.lowering JOB.json

What this module imports shapes the artefact, and so is part of the cache's key: it imports no more than it needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from converter.compare.weights import fresh_network
from converter.exporters import Exported, load_exporter
from converter.exporters.quiet import quiet
from converter.quantise.equalisation import artefact_input
from converter.quantise.folding import fold
from converter.quantise.recipes import Recipe
from device.contract import Preprocessing
from device.core.errors import GhostwattError

EXPORTED_NAME = "exported.json"
FAILURE_NAME = "failure.txt"


class LoweringJob(msgspec.Struct, frozen=True):
    """All that an export needs.

    Attributes:
        runtime: whose format.
        model: as `converter.models` knows it.
        options: of the model.
        num_classes: of its classifier.
        seed: of its weights.
        recipe: how to quantise.
        pixels: path of a ``.npy`` file, ``(N, S, S, 3)`` uint8: photographs to settle and to calibrate with.
        out: path of the new folder.
    """

    runtime: str
    model: str
    options: dict[str, int]
    num_classes: int
    seed: int
    recipe: Recipe
    pixels: str
    out: str


def lower(job: LoweringJob) -> None:
    """Writes the artefact and `EXPORTED_NAME` into the job's folder; or `FAILURE_NAME`, with the reason in one line."""
    out = Path(job.out)
    out.mkdir(parents=True)
    try:
        with quiet():  # the toolchains talk while they are imported, too
            exported = _lower(job)
    except GhostwattError as error:
        (out / FAILURE_NAME).write_text(str(error), encoding="utf-8")
    except Exception as error:  # whatever it is, it is this network's alone
        words = " ".join(str(error).split())[:200]
        (out / FAILURE_NAME).write_text(f"{type(error).__name__}: {words}", encoding="utf-8")
    else:
        (out / EXPORTED_NAME).write_bytes(msgspec.json.encode(exported))


def _lower(job: LoweringJob) -> Exported:
    pixels = np.load(job.pixels)
    network = fresh_network(job.model, artefact_input(pixels), num_classes=job.num_classes, seed=job.seed, options=job.options)
    # The default preprocessing is the artefact's own, so that nothing is added in front of the network.
    folded = fold(network, Preprocessing(input_px=pixels.shape[1]))
    exporter = load_exporter(job.runtime)
    return exporter.export(folded, pixels, recipe=job.recipe, out=Path(job.out) / f"model.{exporter.suffix}")


if __name__ == "__main__":
    lower(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=LoweringJob))
