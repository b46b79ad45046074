"""Proves that a bundle runs on this board, in a process of its own: what crashes there harms nobody here."""

from __future__ import annotations

import subprocess
import sys

from device.bundle.reader import Bundle
from device.errors import SelfTestError

TIMEOUT_S = 300.0
"""For the golden images of one runtime; a Pi Zero 2 W takes seconds, an emulated board minutes."""


def prove_by_self_test(bundle: Bundle) -> None:
    """Runs the golden self-test with the profile's runtime.

    Raises:
        SelfTestError: the runtime refuses the artefact, its scores differ from the host's, or it crashed; says what it said.
    """
    runtime = bundle.manifest.profile.runtime.name
    command = [sys.executable, "-m", "device.run", "--bundle", str(bundle.root), "--runtime", runtime, "--self-test"]
    where = f"{bundle.manifest.profile.name} ({bundle.manifest_sha256[:12]}) on {runtime}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise _refusal(where, f"gave no verdict within {TIMEOUT_S:g} s") from error
    if done.returncode < 0:
        raise _refusal(where, f"crashed the runtime (signal {-done.returncode})")
    if done.returncode > 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise _refusal(where, lines[-1].removeprefix("error: ") if lines else f"failed with exit code {done.returncode}")


def _refusal(where: str, found: str) -> SelfTestError:
    return SelfTestError(where, found, remedy="it was not taken; the bundle that runs goes on", reason="refused")
