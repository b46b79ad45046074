"""Runs a bundle's network a few times, each time between two marks for the instruction counter.

inferences.py BUNDLE RUNTIME REPEATS
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from device.bundle import open_bundle
from device.registry import RUNTIMES

MARK = 0x41524D43
WARM_UP = 3


def main(bundle_path: str, runtime_name: str, repeats: str) -> None:
    bundle = open_bundle(Path(bundle_path))
    artefact = bundle.artefact(runtime_name)
    pixels = bundle.golden().pixels[:1]
    prctl = ctypes.CDLL(None).prctl
    runtime = RUNTIMES.load(runtime_name)()
    model = bundle.path(artefact.file)
    with runtime.open(model, input=artefact.input, output=artefact.output, threads=1) as session:
        for _ in range(WARM_UP):
            session.run(pixels)
        for number in range(1, int(repeats) + 1):
            prctl(MARK, 0, 0, 0, 0)
            session.run(pixels)
            prctl(MARK, number, 0, 0, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
