"""What will run: which bundle, on which runtime, with how many threads."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from device import __version__
from device.bundle import Bundle, find_bundle, open_bundle
from device.bundle.selftest import SelfTestResult, run_self_test
from device.bundle.store import BundleStore
from device.contract import Profile
from device.core.errors import BundleError, UsageError
from device.core.flags import positive_int, share
from device.daemon.pipeline import Pipeline
from device.machine.board import BoardFacts, detect_board
from device.protocols import Clock, FrameSource, RunRecord, Runtime, Session, SourceSpec
from device.runtimes.registry import RUNTIMES

BUILD = Path("build")


def add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what runs: bundle, runtime, threads and threshold."""
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="the bundle (default: this board's, under build/)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="run the current bundle of python -m device.bundle's store")
    parser.add_argument("--profile", metavar="NAME", help="which of the store's profiles; needed where there are several")
    parser.add_argument("--runtime", metavar="NAME", help=f"instead of the profile's ({', '.join(RUNTIMES.own_names())})")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="instead of the profile's")
    parser.add_argument(
        "--unknown-below",
        type=share,
        metavar="X",
        help='call a frame "unknown" whose best score is under X, from 0 (never) to 1, instead of the profile\'s threshold',
    )


class BundleChoice(NamedTuple):
    """Which bundle to run: ``store``'s current one of ``profile``, ``folder``, or this board's own under `BUILD`."""

    folder: Path | None = None
    store: Path | None = None
    profile: str | None = None


class Overrides(NamedTuple):
    """What the flags say instead of the profile; None leaves it to the profile."""

    runtime: str | None = None
    threads: int | None = None
    unknown_below: float | None = None


class Chosen(NamedTuple):
    """What will run.

    Attributes:
        bundle: the bundle.
        runtime: that runs its network.
        threads: for inference.
        unknown_below: the least score that names a class; None names one always.
        facts: of this machine.
        trial: the store of a bundle that has yet to prove itself; None for any other.
    """

    bundle: Bundle
    runtime: Runtime
    threads: int
    unknown_below: float | None
    facts: BoardFacts
    trial: BundleStore | None = None

    @property
    def profile(self) -> Profile:
        """The bundle's profile."""
        return self.bundle.manifest.profile

    def open_session(self) -> Session:
        """Loads the bundle's artefact for the runtime."""
        artefact = self.bundle.artefact(self.runtime.artefact)
        model = self.bundle.path(artefact.file)
        return self.runtime.open(model, input=artefact.input, output=artefact.output, threads=self.threads)

    def run_self_test(self, session: Session) -> SelfTestResult:
        """Compares the bundle's golden images with the host's scores.

        Raises:
            SelfTestError: they differ.
        """
        return run_self_test(session, self.bundle, self.runtime.artefact)

    def make_pipeline(self, session: Session, sources: Sequence[FrameSource], clock: Clock) -> Pipeline:
        """Makes the loop."""
        model, camera = self.bundle.manifest.model, self.profile.camera
        return Pipeline(
            sources,
            session,
            preprocessing=model.preprocessing,
            labels=self.bundle.labels,
            limits=self.profile.limits,
            clock=clock,
            stall_timeout_s=camera.stall_timeout_s,
            temperature=model.temperature,
            unknown_below=self.unknown_below,
            rotate_deg=camera.rotate_deg,
        )

    def describe_run(self, sources: Sequence[SourceSpec], threads: int) -> RunRecord:
        """Makes the record of what runs where.

        Args:
            sources: that frames come from.
            threads: that the session really uses.
        """
        model, facts = self.bundle.manifest.model, self.facts
        return RunRecord(
            run_id=os.urandom(16).hex(),
            started_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            profile=self.profile.name,
            model=model.name,
            weights=model.weights,
            manifest_sha256=self.bundle.manifest_sha256,
            runtime=self.runtime.name,
            runtime_version=self.runtime.version,
            threads=threads,
            source=", ".join(spec.uri for spec in sources),
            board=facts.board or facts.machine,
            machine=facts.machine,
            kernel=facts.kernel,
            python=platform.python_version(),
            governor=facts.governor,
            version=__version__,
            unknown_below=self.unknown_below,
        )


def choose(choice: BundleChoice, overrides: Overrides) -> Chosen:
    """Opens the bundle and settles on runtime, threads and threshold.

    Raises:
        BundleError: no bundle, or one that can't be trusted.
        UsageError: an unknown runtime, several profiles in the store and none named, or more threads than cores.
        MissingDependencyError: the runtime isn't installed.
    """
    facts = detect_board()
    bundle, trial = _find_bundle(choice, facts)
    profile = bundle.manifest.profile
    name = overrides.runtime or profile.runtime.name
    runtime: Runtime = RUNTIMES.load(name)()
    bundle.artefact(runtime.artefact)
    threads = overrides.threads or profile.runtime.threads
    if threads > facts.cores:
        raise UsageError(
            "--threads" if overrides.threads else f"profile {profile.name} runtime.threads",
            str(threads),
            expected=f"at most {facts.cores}, the cores of this machine",
            remedy="pass --threads",
            reason="threads",
        )
    unknown_below = profile.model.unknown_below if overrides.unknown_below is None else overrides.unknown_below
    return Chosen(bundle, runtime, threads, unknown_below, facts, trial)


def _find_bundle(choice: BundleChoice, facts: BoardFacts) -> tuple[Bundle, BundleStore | None]:
    """Opens the bundle; returns its store too, where it has yet to prove itself."""
    if choice.store is None:
        return open_bundle(choice.folder or find_bundle(BUILD, facts.compatible, facts.machine)), None
    store = BundleStore(choice.store)
    profile = choice.profile or store.only_profile()
    start = store.start(profile)
    for line in filter(None, (start.rolled_back, start.trouble)):
        print(f"warning: {line}", file=sys.stderr)
    try:
        return open_bundle(start.root), store if start.on_trial else None
    except BundleError as error:
        # A card that rots must not leave the board without a network.
        print(f"warning: {error}", file=sys.stderr)
        bundle = store.fall_back(profile)
        print(f"warning: back to {bundle.manifest_sha256[:12]}", file=sys.stderr)
        return bundle, None
