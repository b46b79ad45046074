"""Runs a program that may hang: it always ends, and only what was started here is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .packages import require

# `timeout` ends the program; this is for the case that `timeout` itself is stuck.
_GRACE_S = 20.0
_POLL_S = 0.02


class Result(NamedTuple):
    """How a program ended.

    Attributes:
        exit_code: negative where a signal ended it.
        stdout: what it printed.
        stderr: what it printed there.
        duration_s: from start to end.
        peak_rss_bytes: of the largest process that it was made of.
        timed_out: True where the limit ended it.
    """

    exit_code: int
    stdout: str
    stderr: str
    duration_s: float
    peak_rss_bytes: int
    timed_out: bool


def run_limited(
    argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Result:
    """Runs a program, at most for ``timeout_s``.

    It runs under ``timeout``, which ends it even if this process is killed meanwhile.
    """
    guarded = [require("timeout"), "--signal=KILL", f"{timeout_s:.1f}", *argv]
    started_s = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # A session of its own: one signal to its group reaches all that it started, and nothing else.
        child = subprocess.Popen(
            guarded, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd, start_new_session=True
        )
        try:
            status, peak_rss_kib = _wait(child.pid, started_s + timeout_s + _GRACE_S)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            raise
        finally:
            # The pid is reaped above, by wait4, which Popen can't know.
            child.returncode = 0
        duration_s = time.monotonic() - started_s
        exit_code = os.waitstatus_to_exitcode(status)
        return Result(
            exit_code=exit_code,
            stdout=_text(out.fileno()),
            stderr=_text(err.fileno()),
            duration_s=duration_s,
            peak_rss_bytes=peak_rss_kib * 1024,
            timed_out=duration_s >= timeout_s,
        )


def _wait(pid: int, deadline_s: float) -> tuple[int, int]:
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage.ru_maxrss
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"process {pid} outlived its limit and timeout(1)")
        time.sleep(_POLL_S)


def _text(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read().decode(errors="replace")
