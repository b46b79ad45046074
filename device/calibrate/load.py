"""Keeps the processor busy on purpose, so that a meter can show what that draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from device.bundle import open_bundle
from device.core.resources import Resource
from device.protocols import Runtime
from device.runtimes.registry import RUNTIMES

_SIDE = 192
"""Of the matrices: small enough for the cache of every board, large enough that Python is a small part of the work."""


class Load(Resource):
    """Work that goes on in threads until `close`.

    Args:
        kind: what works, for the record.
        steps: one piece of work each; every one is called again and again in a thread of its own.
        release: called once, when the threads have ended.
    """

    def __init__(self, kind: str, steps: list[Callable[[], object]], release: Callable[[], None] = lambda: None) -> None:
        self.kind = kind
        self._release = release
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._repeat, args=(step,), name="load", daemon=True) for step in steps]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raises what ended a thread before its time."""
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Ends the work, after the pieces in hand."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._threads:
            self._threads = []
            self._release()

    def _repeat(self, step: Callable[[], object]) -> None:
        try:
            while not self._stopping.is_set():
                step()
        except BaseException as error:  # handed to whoever asks with `check`
            self._failure = error


def multiply_matrices(cores: int) -> Load:
    """Keeps every core busy with products of float32 matrices: what a network's time goes into."""

    def make_step() -> Callable[[], object]:
        left, right = np.random.default_rng(0).standard_normal((2, _SIDE, _SIDE), dtype=np.float32)
        result = np.empty_like(left)
        return lambda: np.matmul(left, right, out=result)

    return Load("matrix products", [make_step() for _ in range(cores)])


def run_network(bundle_folder: Path, cores: int) -> Load:
    """Keeps every core busy with a bundle's network, by the profile's runtime, on noise.

    Raises:
        BundleError: no bundle, or one that can't be trusted.
        MissingDependencyError: the runtime isn't installed.
        ModelLoadError: it doesn't take the network.
    """
    bundle = open_bundle(bundle_folder)
    name = bundle.manifest.profile.runtime.name
    runtime: Runtime = RUNTIMES.load(name)()
    artefact = bundle.artefact(runtime.artefact)
    path = bundle.path(artefact.file)
    session = runtime.open(path, input=artefact.input, output=artefact.output, threads=cores)
    pixels = np.random.default_rng(0).integers(0, 256, session.input.shape, dtype=np.uint8)
    return Load(f"{bundle.manifest.model.name} ({name})", [lambda: session.run(pixels)], session.close)
