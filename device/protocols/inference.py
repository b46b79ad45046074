"""Inference: a runtime opens models, a session runs one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from device.contract import TensorSpec
from device.protocols.base import Array, Closeable, Image


class Session(Closeable, Protocol):
    """A loaded network. Used from one thread at a time.

    The input is always raw pixels, ``(1, H, W, 3)`` uint8, RGB: normalisation is inside the artefact, and what a runtime's
    boundary needs beyond that is the session's own business.
    """

    @property
    def input(self) -> TensorSpec:
        """What `run` takes."""

    @property
    def output(self) -> TensorSpec:
        """What `run` gives: ``(1, C)``; real score = ``(value - zero_point) * scale``."""

    @property
    def threads(self) -> int:
        """Threads that the runtime really uses."""

    def run(self, pixels: Image) -> Array:
        """Runs the network once.

        Args:
            pixels: of `input`'s shape and dtype, C-contiguous.

        Returns:
            An array of `output`'s shape and dtype, valid until the next `run` or `close`.

        Raises:
            InferenceError: wrong shape, dtype or layout; the runtime failed; or the session is closed.
        """


class Runtime(Protocol):
    """Opens models. Constructing one is cheap; `open` imports and loads what is needed."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def version(self) -> str:
        """Of the library that runs the network, with its name (``ai-edge-litert 2.3.0``)."""

    def open(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> Session:
        """Loads a model wholly delegated to XNNPACK.

        Args:
            model: the artefact's file.
            input: what the manifest promises of the session's input; checked against the file.
            output: likewise.
            threads: for inference; the delegate's own pool, not Python's.

        Raises:
            MissingDependencyError: the runtime's library isn't installed; says what to install.
            ModelLoadError: ``malformed`` file, ``version`` too new, ``signature`` other than promised, or ``undelegated``:
                the delegate did not take the graph.
        """
