"""``python -m device.doctor.attempt RUNTIME [BUNDLE]``: loads a runtime, and has it compute what the host computed.

A program of its own, since a native library that doesn't fit the processor brings its process down with a signal. Prints JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from device.bundle import open_bundle
from device.bundle.selftest import SelfTestResult, run_self_test
from device.core.errors import exit_with_one_line
from device.runtimes.registry import RUNTIMES


class Attempt(msgspec.Struct, frozen=True):
    """What came out: the library's name and version, and the self-test; None without a bundle."""

    version: str
    self_test: SelfTestResult | None


def attempt(name: str, root: Path | None) -> Attempt:
    """Loads a runtime, and runs a bundle's self-test on one thread.

    Raises:
        GhostwattError: it isn't installed, doesn't take the network, or computes something else.
    """
    runtime = RUNTIMES.load(name)()
    if root is None:
        return Attempt(runtime.version, None)
    bundle = open_bundle(root)
    artefact = bundle.artefact(name)
    with runtime.open(bundle.path(artefact.file), input=artefact.input, output=artefact.output, threads=1) as session:
        return Attempt(runtime.version, run_self_test(session, bundle, name))


def main(arguments: list[str] | None = None) -> int:
    """Prints what came out."""
    name, *roots = sys.argv[1:] if arguments is None else arguments
    print(msgspec.json.encode(attempt(name, Path(roots[0]) if roots else None)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
