"""Every network in every format, cached by content, each export in a process of its own."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.compare.lowering import EXPORTED_NAME, FAILURE_NAME, LoweringJob
from converter.compare.networks import Network
from converter.compare.progress import Tell
from converter.exporters import Exported
from converter.quantise.recipes import Recipe, default_recipe
from converter.work.cache import Cache, hash_imported, installed_versions, make_key

NUM_CLASSES = 1000
SEED = 0

_POLL_S = 0.1


class Lowered(NamedTuple):
    """An artefact in the cache."""

    path: Path
    exported: Exported


class Task(NamedTuple):
    """A network in one format."""

    network: Network
    runtime: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.network.name} {self.runtime}"


Results = dict[tuple[str, str], Lowered | str]
"""Network's name and runtime -> the artefact, or why there is none."""


class Exports:
    """Makes and finds the artefacts of a comparison.

    Args:
        cache: results of earlier runs.
        pixels: ``(N, S, S, 3)`` uint8: photographs to settle and to calibrate with.
    """

    def __init__(self, cache: Cache, pixels: NDArray[np.uint8]) -> None:
        self._cache = cache
        self._pixels = pixels
        self._shared = {
            "num_classes": NUM_CLASSES,
            "seed": SEED,
            "pixels": make_key(shape=pixels.shape, data=pixels.tobytes()),
            "sources": hash_imported("converter.compare.lowering"),
            "versions": installed_versions(),
        }

    def key(self, task: Task) -> str:
        """The cache's key: everything that shapes the artefact."""
        recipe = speed_recipe(task.runtime)
        return make_key(
            runtime=task.runtime, model=task.network.model, options=task.network.options, recipe=recipe, **self._shared
        )

    def find(self, task: Task) -> Lowered | None:
        """An artefact that was made before."""
        folder = self._cache.find(self.key(task))
        return None if folder is None else _read(folder)

    def make(self, tasks: Sequence[Task], at_a_time: int, tell: Tell) -> Results:
        """Gives every artefact, making those that aren't there.

        What is made is kept at once: an interrupted run goes on where it was.

        Args:
            tasks: what is wanted.
            at_a_time: how many exports run at once.
            tell: of progress.
        """
        results: Results = {}
        missing = []
        for task in tasks:
            found = self.find(task)
            if found is None:
                missing.append(task)
            else:
                results[task.network.name, task.runtime] = found
                tell(task.title, "cached")
        with tempfile.TemporaryDirectory(prefix="ghostwatt-") as name:
            scratch = Path(name)
            np.save(scratch / "pixels.npy", self._pixels)
            jobs = [(task, self._job(task, scratch)) for task in missing]
            for task, job, exit_code in run_jobs(jobs, at_a_time, tell):
                result = self._keep(task, Path(job.out), exit_code)
                results[task.network.name, task.runtime] = result
                tell(task.title, "failed" if isinstance(result, str) else "done")
        return results

    def _job(self, task: Task, scratch: Path) -> LoweringJob:
        return LoweringJob(
            runtime=task.runtime,
            model=task.network.model,
            options=task.network.options,
            num_classes=NUM_CLASSES,
            seed=SEED,
            recipe=speed_recipe(task.runtime),
            pixels=str(scratch / "pixels.npy"),
            out=str(scratch / f"{task.network.name}-{task.runtime}"),
        )

    def _keep(self, task: Task, out: Path, exit_code: int) -> Lowered | str:
        """Moves a finished export into the cache, or says why there is none."""
        failure = out / FAILURE_NAME
        if failure.is_file():
            return failure.read_text(encoding="utf-8")
        if exit_code != 0:
            how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
            return f"its process ended with {how}; an export takes about 1.2 GB of memory: pass --jobs 1, or free some"
        key = self.key(task)
        with self._cache.store(key) as folder:
            for path in out.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
        kept = self._cache.find(key)
        assert kept is not None  # it was stored above
        return _read(kept)


def _read(folder: Path) -> Lowered:
    exported = msgspec.json.decode((folder / EXPORTED_NAME).read_bytes(), type=Exported)
    return Lowered(folder / exported.file, exported)


def speed_recipe(runtime: str) -> Recipe:
    """The default int8 recipe of a format, less what costs minutes and changes values alone, not the work of an inference."""
    return msgspec.structs.replace(default_recipe("int8", runtime), weight_rounding="nearest", bias_correction=False)


def find_by_sha256(cache: Cache) -> dict[str, Lowered]:
    """Every artefact in the cache, by the hash of its file."""
    found = {}
    for record in sorted(cache.root.glob(f"*/{EXPORTED_NAME}")):
        lowered = _read(record.parent)
        found[hashlib.sha256(lowered.path.read_bytes()).hexdigest()] = lowered
    return found


def lowering_command(job: LoweringJob) -> list[str]:
    """What runs a job: a program of its own; the job lies beside its folder."""
    record = Path(job.out).with_suffix(".json")
    record.write_bytes(msgspec.json.encode(job))
    return [sys.executable, "-m", "converter.compare.lowering", str(record)]


def run_jobs(
    jobs: Sequence[tuple[Task, LoweringJob]],
    at_a_time: int,
    tell: Tell,
    make_command: Callable[[LoweringJob], list[str]] = lowering_command,
) -> Generator[tuple[Task, LoweringJob, int]]:
    """Runs jobs, a few at once; ends those under way where the caller stops.

    Args:
        jobs: in this order.
        at_a_time: how many.
        tell: told of each start.
        make_command: gives what runs a job.

    Yields:
        Each job as it ends, with its exit code.
    """
    waiting = deque(jobs)
    running: list[tuple[Task, LoweringJob, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                task, job = waiting.popleft()
                running.append((task, job, _start(make_command(job))))
                tell(task.title, "start")
            time.sleep(_POLL_S)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                running.remove(entry)
                yield entry[0], entry[1], entry[2].returncode
    finally:
        for _, _, process in running:
            process.terminate()
            process.wait()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a program that a Ctrl-C on the terminal does not reach: it is this process that ends it.

    Its chatter is dropped, also that of the helpers that outlive it; a traceback that was asked for is let through.
    """
    errors = None if os.environ.get("GHOSTWATT_TRACEBACK") == "1" else subprocess.DEVNULL
    return subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
