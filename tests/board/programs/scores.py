"""Runs a bundle's golden images through its runtimes and keeps what they give, to the bit. Runs on host and board alike.

scores.py BUNDLE OUT.npz RUNTIME...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from device.bundle import open_bundle
from device.runtimes.registry import RUNTIMES


def main(bundle_path: str, out_path: str, *runtimes: str) -> None:
    bundle = open_bundle(Path(bundle_path))
    scores = {}
    for name in runtimes:
        artefact = bundle.artefact(name)
        runtime = RUNTIMES.load(name)()
        model = bundle.path(artefact.file)
        with runtime.open(model, input=artefact.input, output=artefact.output, threads=1) as session:
            scores[name] = np.concatenate([session.run(pixels[None]).copy() for pixels in bundle.golden().pixels])
    np.savez(out_path, allow_pickle=False, **scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
