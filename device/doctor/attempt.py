"""``python -m device.doctor.attempt RUNTIME [BUNDLE]``: loads a runtime, and runs a bundle's self-test with it.

A program of its own, since a native library that doesn't fit the processor kills its process with a signal. Prints one line of
JSON, whether it succeeds or fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from device.bundle import open_bundle
from device.bundle.selftest import SelfTestResult, run_self_test
from device.core.errors import ErrorFacts, GhostwattError
from device.protocols import Runtime
from device.runtimes.registry import RUNTIMES


class Attempt(msgspec.Struct, frozen=True):
    """The result of an attempt.

    Attributes:
        version: the library's name and version; empty where it failed.
        self_test: None without a bundle, and where it failed.
        failure: None where it succeeded.
    """

    version: str = ""
    self_test: SelfTestResult | None = None
    failure: ErrorFacts | None = None


def attempt(name: str, root: Path | None) -> Attempt:
    """Loads a runtime, and runs a bundle's self-test on one thread.

    Raises:
        GhostwattError: it isn't installed, doesn't take the network, or computes something else.
    """
    runtime: Runtime = RUNTIMES.load(name)()
    if root is None:
        return Attempt(runtime.version)
    bundle = open_bundle(root)
    artefact = bundle.artefact(runtime.artefact)
    with runtime.open(bundle.path(artefact.file), input=artefact.input, output=artefact.output, threads=1) as session:
        return Attempt(runtime.version, run_self_test(session, bundle, runtime.artefact))


def main(arguments: list[str] | None = None) -> int:
    """Prints the result; returns the exit code of the error, or 0."""
    name, *roots = sys.argv[1:] if arguments is None else arguments
    try:
        found = attempt(name, Path(roots[0]) if roots else None)
    except GhostwattError as error:
        found = Attempt(failure=error.facts())
    print(msgspec.json.encode(found).decode())
    return found.failure["exit_code"] if found.failure else 0


if __name__ == "__main__":
    sys.exit(main())
