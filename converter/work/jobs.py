"""Long work in processes of its own, a few at once, its results cached: lowering takes a gigabyte and can't be interrupted.

A job is a function of one of the project's modules, the request that it takes, and the key of its result. The process that runs
it is ``python -m converter.work.jobs ORDER.json``.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints

import msgspec

from converter.work.cache import Cache
from converter.work.progress import ProgressCallback
from device.core.errors import ConversionError, ErrorFacts, GhostwattError, read_facts

_POLL_S = 0.1
_WORDS = 200  # characters of a foreign error's message


class CachedJob(NamedTuple):
    """A piece of long work.

    Attributes:
        title: for people; no two jobs that run together share one.
        key: of the result in the cache.
        target: ``module:function``. The function takes the ``request`` and the path of an empty folder to fill; the annotation
            of its first parameter is the type of the request.
        request: all that the function needs.
    """

    title: str
    key: str
    target: str
    request: msgspec.Struct


class _Order(msgspec.Struct, frozen=True):
    target: str
    request: msgspec.Raw
    out: str


class _Running(NamedTuple):
    job: CachedJob
    order: Path
    process: subprocess.Popen[bytes]


def run_jobs(
    jobs: Sequence[CachedJob], cache: Cache, at_a_time: int, report: ProgressCallback
) -> Generator[tuple[CachedJob, Path | GhostwattError]]:
    """Gives the result of every job, and runs those that the cache doesn't hold, a few at once.

    Each result is stored at once, so an interrupted run can continue. If the caller stops, the running processes are ended.

    Args:
        jobs: started in this order.
        cache: of the results.
        at_a_time: how many run at once.
        report: called as a job starts and ends.

    Yields:
        Each job as it ends, with the folder of its result in the cache, or the error that ended it.
    """
    missing: deque[CachedJob] = deque()
    for job in jobs:
        found = cache.find(job.key)
        if found is None:
            missing.append(job)
        else:
            report(job.title, "cached")
            yield job, found
    running: list[_Running] = []
    with tempfile.TemporaryDirectory(prefix="ghostwatt-") as scratch:
        try:
            while missing or running:
                while missing and len(running) < at_a_time:
                    job = missing.popleft()
                    running.append(_start(job, Path(scratch) / job.key))
                    report(job.title, "start")
                time.sleep(_POLL_S)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    error = _find_error(one)
                    result = _keep(one, cache) if error is None else error
                    report(one.job.title, "done" if error is None else "failed")
                    yield one.job, result
        finally:
            for one in running:
                one.process.terminate()
                one.process.wait()


def _start(job: CachedJob, out: Path) -> _Running:
    """Starts a process that a Ctrl-C on the terminal doesn't reach: this process ends it.

    Its output is dropped, also that of helpers that outlive it, unless the user asked for tracebacks.
    """
    order = out.with_suffix(".json")
    order.write_bytes(msgspec.json.encode(_Order(job.target, msgspec.Raw(msgspec.json.encode(job.request)), str(out))))
    command = [sys.executable, "-m", "converter.work.jobs", str(order)]
    stderr = None if _wants_traceback() else subprocess.DEVNULL
    process = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
    return _Running(job, order, process)


def _keep(one: _Running, cache: Cache) -> Path:
    with cache.store(one.job.key) as folder:
        shutil.copytree(one.order.with_suffix(""), folder, dirs_exist_ok=True)
    return cache.root / one.job.key


def _find_error(one: _Running) -> GhostwattError | None:
    failure = _failure_path(one.order)
    if failure.is_file():
        return read_facts(msgspec.json.decode(failure.read_bytes(), type=ErrorFacts))
    code = one.process.returncode
    if code == 0:
        return None
    return ConversionError(
        one.job.title,
        f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}",
        expected="about 1.2 GB of free memory for each export",
        remedy="pass --jobs 1, or free some memory",
        reason="export",
    )


def _failure_path(order: Path) -> Path:
    return order.with_suffix(".failure")


def _wants_traceback() -> bool:
    return os.environ.get("GHOSTWATT_TRACEBACK") == "1"


def run_order(path: Path) -> None:
    """Runs one job in this process. An error is written beside the order, for `run_jobs` to read."""
    order = msgspec.json.decode(path.read_bytes(), type=_Order)
    module, _, name = order.target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        request = msgspec.json.decode(order.request, type=next(iter(get_type_hints(function).values())))
        out = Path(order.out)
        out.mkdir()
        function(request, out)
    except Exception as error:  # any error ends only this job
        if _wants_traceback():
            traceback.print_exc()
        _failure_path(path).write_bytes(msgspec.json.encode(_find_family(error, order.target).facts()))


def _find_family(error: Exception, target: str) -> GhostwattError:
    if isinstance(error, GhostwattError):
        return error
    words = " ".join(str(error).split())[:_WORDS]
    return ConversionError(target, f"failed with {type(error).__name__}: {words}", reason="export")


if __name__ == "__main__":
    run_order(Path(sys.argv[1]))
