"""Keeps the processor busy, to measure the power under load."""

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
"""Side of the matrices: small enough for the cache of every board, large enough to make Python's overhead negligible."""


class Load(Resource):
    """Work that runs in threads until `close`.

    Args:
        kind: description of the work, for the record.
        steps: one function per thread, which is called repeatedly.
        release: called once, after the threads have ended.
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
        """Raises the error that ended a thread early, if any."""
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Stops the threads after their current steps."""
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
        except BaseException as error:  # raised by `check`
            self._failure = error


def multiply_matrices(cores: int) -> Load:
    """Keeps every core busy with float32 matrix products, which is what most of a network's time is spent on."""

    def make_step() -> Callable[[], object]:
        left, right = np.random.default_rng(0).standard_normal((2, _SIDE, _SIDE), dtype=np.float32)
        result = np.empty_like(left)
        return lambda: np.matmul(left, right, out=result)

    return Load("matrix products", [make_step() for _ in range(cores)])


def run_network(bundle_folder: Path, cores: int) -> Load:
    """Keeps every core busy with a bundle's network, fed with noise, on the profile's runtime.

    Raises:
        BundleError: the bundle is missing, or can't be trusted.
        MissingDependencyError: the runtime isn't installed.
        ModelLoadError: the runtime can't load the network.
    """
    bundle = open_bundle(bundle_folder)
    name = bundle.manifest.profile.runtime.name
    runtime: Runtime = RUNTIMES.load(name)()
    artefact = bundle.artefact(runtime.artefact)
    path = bundle.path(artefact.file)
    session = runtime.open(path, input=artefact.input, output=artefact.output, threads=cores)
    pixels = np.random.default_rng(0).integers(0, 256, session.input.shape, dtype=np.uint8)
    return Load(f"{bundle.manifest.model.name} ({name})", [lambda: session.run(pixels)], session.close)
