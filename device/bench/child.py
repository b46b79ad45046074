"""Runs each round in a separate process: a crash costs only one choice, and memory is that of a single network.

``python -m device.bench.child`` reads a `RoundJob` from stdin, and writes an `Outcome` to stdout, both JSON.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import msgspec

from device.bench.plan import LEAST_INFERENCES
from device.bench.result import RoundFailure
from device.bench.rounds import Outcome, RoundJob, run_job, system_context
from device.core.errors import GhostwattError

GRACE_S = 120.0
"""Fixed part of the time limit after which a process counts as hung: the time for loading."""

HUNG_FACTOR = 5.0
"""Part of the time limit in proportion to the requested measuring time."""

SLOWEST_INFERENCE_S = 20.0
"""A network whose inferences take longer counts as hung."""

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def run_in_child(job: RoundJob) -> Outcome:
    """Runs a job in a separate process, and waits for it.

    Errors there become the outcome's `RoundFailure`. If the wait is interrupted, the process is killed.
    """
    # An interruption between the start of the process and the `try` would leave the process behind, so it is recorded here and
    # raised inside. Blocking the signals isn't enough: a library's thread may receive them.
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
        return Outcome(failure=RoundFailure("hung", f"no answer within {_limit_s(job):.0f} s"))
    finally:
        process.kill()
        process.wait()
    try:
        return msgspec.json.decode(answer, type=Outcome)
    except msgspec.DecodeError:
        return Outcome(failure=_describe_crash(process.returncode, said))


def _limit_s(job: RoundJob) -> float:
    told_s = 2 * job.warm_up_s + (job.latency_s or 0.0) + (job.energy_s or 0.0)
    slow_s = LEAST_INFERENCES * max(SLOWEST_INFERENCE_S, 1 / (job.rate_fps or 1.0))
    return GRACE_S + HUNG_FACTOR * told_s + slow_s


def _describe_crash(code: int, said: bytes) -> RoundFailure:
    how = f"exit code {code}" if code >= 0 else f"signal {_name_signal(-code)}"
    lines = said.decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return RoundFailure("crashed", f"its process ended with {how}" + (f": {last}" if last else ""))


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def main() -> int:
    """Reads a job from stdin, runs it, and writes the outcome to stdout."""
    # Ctrl-C reaches every process of the terminal, but only the parent ends this one. If the parent dies, so does this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries may print to stdout, which is reserved for the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=RoundJob)
    with answer:
        answer.write(msgspec.json.encode(_run(job)))
    return 0


def _run(job: RoundJob) -> Outcome:
    try:
        return run_job(job, system_context())
    except GhostwattError as error:
        return Outcome(failure=RoundFailure(error.reason, str(error)))


if __name__ == "__main__":
    sys.exit(main())
