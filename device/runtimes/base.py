"""What all runtimes share: what their classes declare, and the frame of a session."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from device.contract import TensorSpec
from device.core.plugin import Plugin
from device.core.resources import Resource
from device.protocols import Array, Image, Session
from device.runtimes import checks


class BaseRuntime(Plugin, ABC):
    """Base class of the runtimes. A table creates them without arguments; see `device.protocols.Runtime`.

    Attributes:
        name: in the table, in profiles and after ``--runtime``.
        artefact: whose network of a bundle it runs: the ``runtime`` of an artefact in the manifest. ``litert`` is the
            ``.tflite`` file, ``executorch`` the ``.pte`` file. Several runtimes may run the same one.
    """

    name: ClassVar[str]
    artefact: ClassVar[str]

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the library that runs the network, after its name."""

    @abstractmethod
    def open(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> Session:
        """Loads a network; see `device.protocols.Runtime.open`."""


class BaseSession(Resource, ABC):
    """Base class of the sessions; see `device.protocols.Session`.

    Subclasses run the network in `_run` and free it in `_release`. Both are called under one lock, `_release` once, and `_run`
    never after it: `close` may come from another thread while the library computes.

    Args:
        model: the artefact, for messages.
        input: what `run` takes.
        output: what `run` returns.
        threads: how many the library uses.
    """

    def __init__(self, model: Path, *, input: TensorSpec, output: TensorSpec, threads: int) -> None:
        self._model = model
        self._input = input
        self._output = output
        self._threads = threads
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def input(self) -> TensorSpec:
        """What `run` takes."""
        return self._input

    @property
    def output(self) -> TensorSpec:
        """What `run` returns."""
        return self._output

    @property
    def threads(self) -> int:
        """Threads of the library's pool that run this network, including the caller's own."""
        return self._threads

    def run(self, pixels: Image) -> Array:
        """Runs the network once; see `device.protocols.Session.run`."""
        checks.check_pixels(pixels, self._input)
        with self._lock:
            if self._is_closed:
                checks.refuse_closed(self._model)
            return self._run(pixels)

    def close(self) -> None:
        """Frees the network once a `run` in another thread has returned. May be called twice."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._release()

    @abstractmethod
    def _run(self, pixels: Image) -> Array:
        """Runs the network on an array that was checked.

        Raises:
            InferenceError: ``failed``.
        """

    @abstractmethod
    def _release(self) -> None:
        """Frees what the library holds."""
