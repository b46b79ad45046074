"""Runs a network a few times, each time between two marks for the instruction counter.

inferences.py FOLDER RUNTIME REPEATS

FOLDER is a bundle, or holds one artefact and the exporter's ``exported.json``.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from device.bundle import open_bundle
from device.contract import TensorSpec
from device.protocols import Image
from device.runtimes.registry import RUNTIMES

MARK = 0x41524D43
WARM_UP = 3


class Exported(msgspec.Struct):
    """Of ``exported.json``, what a session needs."""

    file: str
    input: TensorSpec
    output: TensorSpec


class Network(NamedTuple):
    """What to run, and on what."""

    model: Path
    input: TensorSpec
    output: TensorSpec
    pixels: Image


def find_network(folder: Path, runtime: str) -> Network:
    record = folder / "exported.json"
    if record.is_file():
        exported = msgspec.json.decode(record.read_bytes(), type=Exported)
        # XNNPACK's kernels don't branch on values: any pixels do.
        pixels = np.random.default_rng(0).integers(0, 256, exported.input.shape, np.uint8)
        return Network(folder / exported.file, exported.input, exported.output, pixels)
    bundle = open_bundle(folder)
    artefact = bundle.artefact(runtime)
    return Network(bundle.path(artefact.file), artefact.input, artefact.output, bundle.golden().pixels[:1])


def main(folder: str, runtime_name: str, repeats: str) -> None:
    network = find_network(Path(folder), runtime_name)
    prctl = ctypes.CDLL(None).prctl
    runtime = RUNTIMES.load(runtime_name)()
    with runtime.open(network.model, input=network.input, output=network.output, threads=1) as session:
        for _ in range(WARM_UP):
            session.run(network.pixels)
        for number in range(1, int(repeats) + 1):
            prctl(MARK, 0, 0, 0, 0)
            session.run(network.pixels)
            prctl(MARK, number, 0, 0, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
