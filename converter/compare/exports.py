"""Every network of the comparison in every format: made where the cache has none, each export in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.compare.networks import ComparedNetwork
from converter.exporters import default_recipe
from converter.exporters.job import (
    EXPORT_TARGET,
    EXPORTED_NAME,
    ExportRequest,
    FreshNetwork,
    Lowered,
    read_artefact,
    toolchain_key,
)
from converter.quantise.recipes import Recipe
from converter.work.cache import Cache, make_key
from converter.work.jobs import CachedJob, run_jobs
from converter.work.progress import ProgressCallback

NUM_CLASSES = 1000
SEED = 0
USUAL_DURATION_S = 45.0
"""Of an export on two cores, until this machine has shown what it takes here."""


class Task(NamedTuple):
    """A network in one format."""

    network: ComparedNetwork
    runtime: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.network.name} {self.runtime}"


Outcomes = dict[tuple[str, str], Lowered | str]
"""ComparedNetwork's name and runtime -> the artefact, or why there is none."""


class ExportStore:
    """Makes and finds the artefacts of a comparison.

    Args:
        cache: results of earlier runs.
        pixels: ``(N, S, S, 3)`` uint8: photographs to settle and to calibrate with.
    """

    def __init__(self, cache: Cache, pixels: NDArray[np.uint8]) -> None:
        self._cache = cache
        self._pixels = pixels
        self._pixels_key = make_key(shape=pixels.shape, data=pixels.tobytes())

    def find(self, task: Task) -> Lowered | None:
        """An artefact that was made before."""
        folder = self._cache.find(self.key(task))
        return None if folder is None else read_artefact(folder)

    def key(self, task: Task) -> str:
        """The cache's key: everything that shapes the artefact."""
        request = msgspec.to_builtins(self._request(task, Path()))
        return make_key(**toolchain_key(task.runtime), request=request, photographs=self._pixels_key)

    def make(self, tasks: Sequence[Task], at_a_time: int, report: ProgressCallback) -> Outcomes:
        """Gives every artefact, making those that the cache doesn't hold.

        Args:
            tasks: what is wanted.
            at_a_time: how many exports run at once.
            report: called as an export starts and ends.
        """
        outcomes: Outcomes = {}
        with tempfile.TemporaryDirectory(prefix="ghostwatt-") as scratch:
            pixels = Path(scratch) / "pixels.npy"
            np.save(pixels, self._pixels)
            jobs = [CachedJob(task.title, self.key(task), EXPORT_TARGET, self._request(task, pixels)) for task in tasks]
            titles = {task.title: task for task in tasks}
            # Closed at once if the run is stopped, so that no export outlives it.
            with contextlib.closing(run_jobs(jobs, self._cache, at_a_time, report)) as ended:
                for job, result in ended:
                    task = titles[job.title]
                    outcome = read_artefact(result) if isinstance(result, Path) else str(result)
                    outcomes[task.network.name, task.runtime] = outcome
        return outcomes

    def _request(self, task: Task, pixels: Path) -> ExportRequest:
        network = FreshNetwork(task.network.model, task.network.options, NUM_CLASSES, SEED)
        return ExportRequest(task.runtime, network, speed_recipe(task.runtime), str(pixels))


def speed_recipe(runtime: str) -> Recipe:
    """The default int8 recipe of a format, less what takes minutes and changes values alone, not the work of an inference."""
    return msgspec.structs.replace(default_recipe("int8", runtime), weight_rounding="nearest", bias_correction=False)


def find_by_sha256(cache: Cache) -> dict[str, Lowered]:
    """Every artefact in the cache, by the hash of its file."""
    artefacts: Iterator[Lowered] = (read_artefact(record.parent) for record in sorted(cache.root.glob(f"*/{EXPORTED_NAME}")))
    return {hashlib.sha256(artefact.path.read_bytes()).hexdigest(): artefact for artefact in artefacts}
