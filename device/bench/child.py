"""A process of its own for each round: a crash costs one row, and memory is that of one network alone.

``python -m device.bench.child`` reads a `Job` from stdin, and writes an `Outcome` to stdout, both JSON.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import msgspec

from device.bench.plan import LEAST_INFERENCES
from device.bench.result import Failure
from device.bench.rounds import Job, Outcome, run_job, system_surroundings
from device.core.errors import GhostwattError

GRACE_S = 120.0
"""For loading, and for `LEAST_INFERENCES` of a slow network, before a process counts as hung."""

HUNG_FACTOR = 5.0
"""Likewise, as a multiple of the time that it was told to measure."""

SLOWEST_INFERENCE_S = 20.0
"""A network that takes longer counts as hung."""

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def run_in_child(job: Job) -> Outcome:
    """Runs a job in a process of its own, and waits for it.

    What goes wrong there is the outcome's `Failure`. Whatever ends the wait ends the process too.
    """
    # An interruption between the birth of the process and the `try` would leave it behind: it is noted, and raised within.
    # Blocking the signals would not do: a thread of some library may take them.
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: noted.append(number)) for number in _INTERRUPTIONS}
    process = subprocess.Popen(
        [sys.executable, "-m", "device.bench.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        for number, handler in before.items():
            signal.signal(number, handler)
        if noted:
            raise KeyboardInterrupt
        answer, said = process.communicate(msgspec.json.encode(job), timeout=_limit_s(job))
    except subprocess.TimeoutExpired:
        return Outcome(failure=Failure("hung", f"gave no answer within {_limit_s(job):.0f} s"))
    finally:
        process.kill()
        process.wait()
    try:
        return msgspec.json.decode(answer, type=Outcome)
    except msgspec.DecodeError:
        return Outcome(failure=_describe_crash(process.returncode, said))


def _limit_s(job: Job) -> float:
    told_s = 2 * job.warm_up_s + (job.latency_s or 0.0) + (job.energy_s or 0.0)
    slow_s = LEAST_INFERENCES * max(SLOWEST_INFERENCE_S, 1 / (job.rate_fps or 1.0))
    return GRACE_S + HUNG_FACTOR * told_s + slow_s


def _describe_crash(code: int, said: bytes) -> Failure:
    how = f"exit code {code}" if code >= 0 else f"signal {_name_signal(-code)}"
    lines = said.decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Failure("crashed", f"its process ended by {how}" + (f": {last}" if last else ""))


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def main() -> int:
    """Reads a job, does it, answers."""
    # Ctrl-C reaches every process of the terminal; the parent decides what becomes of this one, and takes it along if it dies.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries print to stdout: only the answer may.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    with answer:
        answer.write(msgspec.json.encode(_run(job)))
    return 0


def _run(job: Job) -> Outcome:
    try:
        return run_job(job, system_surroundings())
    except GhostwattError as error:
        return Outcome(failure=Failure(error.reason, str(error)))


if __name__ == "__main__":
    sys.exit(main())
