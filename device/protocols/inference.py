"""Inference: a runtime opens networks, a session runs one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from device.contract import TensorSpec
from device.protocols.base import Array, Closeable, Image


class Session(Closeable, Protocol):
    """A loaded network.

    `run` is called any number of times, from one thread at a time, though not always the same one. `close` may come from
    another thread during a `run`: it must wait until that `run` returns. After `close`, `run` must raise ``closed``; `input`,
    `output` and `threads` must still answer.

    The input is always raw pixels, ``(1, H, W, 3)`` uint8, RGB. Normalisation is inside the artefact; whatever else a library
    demands at its boundary (another type, channels first) is the session's own business.
    """

    @property
    def input(self) -> TensorSpec:
        """What `run` takes; constant."""

    @property
    def output(self) -> TensorSpec:
        """What `run` returns; constant: ``(1, C)``; the real score is ``(value - zero_point) * scale``."""

    @property
    def threads(self) -> int:
        """Threads that the library really uses, including the caller's own; constant."""

    def run(self, pixels: Image) -> Array:
        """Runs the network once. The same pixels must give the same scores, whatever the number of threads.

        Args:
            pixels: of `input`'s shape and dtype, C-contiguous. Must not be written to, nor kept after the call.

        Returns:
            An array of `output`'s shape and dtype, valid until the next `run` or `close`. It may be the same array each time.

        Raises:
            InferenceError: ``type``, ``shape`` or ``layout`` of the pixels is wrong; the library ``failed``; or the session
                is ``closed``.
        """


class Runtime(Protocol):
    """Opens networks.

    Created without arguments, which must be cheap: libraries are imported by `version` and `open`. Both may be called in any
    order, any number of times, from any thread. Several sessions may be open at once. A runtime has nothing to close.

    The classes of a table derive from `device.runtimes.base.BaseRuntime`.
    """

    @property
    def name(self) -> str:
        """Name in the table."""

    @property
    def artefact(self) -> str:
        """Whose network of a bundle it runs: the ``runtime`` of an artefact in the manifest."""

    @property
    def version(self) -> str:
        """Version of the library that runs the network, after its name (``ai-edge-litert 2.3.0``).

        Raises:
            MissingDependencyError: the library isn't installed; says what to install.
        """

    def open(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> Session:
        """Loads a network. Must refuse one that isn't wholly delegated to XNNPACK, and one that isn't what was promised.

        Args:
            model: the artefact's file.
            input: what the manifest promises of the session's input; must be compared with the file.
            output: what the manifest promises of the session's output; must be compared with the file.
            threads: for inference; of the delegate's own pool, not Python's.

        Raises:
            MissingDependencyError: the library isn't installed; says what to install.
            ModelLoadError: ``missing``, ``unreadable`` or ``malformed`` file; its ``version`` is unknown to the library; its
                ``signature`` isn't what was promised; ``undelegated``: the delegate didn't take the whole graph; ``threads``
                that can't be had; ``memory`` is short.
        """
