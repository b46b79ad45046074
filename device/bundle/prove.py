"""Proves that a bundle runs on this board, in a process of its own, since a runtime may crash it."""

from __future__ import annotations

import sys

from device.bundle.reader import Bundle
from device.core.errors import SelfTestError
from device.core.programs import HUNG, last_error, run_program

TIMEOUT_S = 300.0
"""For the golden images of one runtime; a Pi Zero 2 W takes seconds, an emulated board minutes."""


def prove_by_self_test(bundle: Bundle) -> None:
    """Runs the golden self-test with the profile's runtime.

    Raises:
        SelfTestError: the runtime refuses the artefact, its scores differ from the host's, or the process crashed.
    """
    runtime = bundle.manifest.profile.runtime.name
    # If this process ignores the working directory (python -I), so must its child: root may run it anywhere.
    shield = ["-I"] if sys.flags.isolated else []
    command = [sys.executable, *shield, "-m", "device.run", "--bundle", str(bundle.root), "--runtime", runtime, "--self-test"]
    where = f"{bundle.manifest.profile.name} ({bundle.manifest_sha256[:12]}) on {runtime}"
    done = run_program(command, TIMEOUT_S)
    if done.code == HUNG:
        raise _refusal(where, f"gave no result within {TIMEOUT_S:g} s")
    if done.code < 0:
        raise _refusal(where, f"crashed the runtime (signal {-done.code})")
    if done.code > 0:
        raise _refusal(where, last_error(done.err) or f"failed with exit code {done.code}")


def _refusal(where: str, found: str) -> SelfTestError:
    return SelfTestError(where, found, remedy="it was not installed; the current bundle keeps running", reason="refused")
