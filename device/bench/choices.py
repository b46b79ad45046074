"""What `device.bench` and `device.tune` share: the flags that select what is measured, and the check for a power meter."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from device.bench.plan import find_choices
from device.bench.rounds import opened_meters, system_context
from device.bench.runner import Candidate
from device.bundle import Bundle, find_bundle, open_bundle
from device.core.errors import UsageError
from device.core.flags import positive_int
from device.machine.board import BoardFacts
from device.runtimes.registry import RUNTIMES

BUILD = Path("build")


def add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that select what is measured."""
    parser.add_argument(
        "--bundle",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="the bundle (default: this board's, under build/); may be repeated, for networks of other sizes and precisions",
    )
    parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME", help=f"only this runtime ({', '.join(RUNTIMES.own_names())})"
    )
    parser.add_argument(
        "--threads",
        action="append",
        type=positive_int,
        default=[],
        metavar="N",
        help="only this number of threads (default: 1 to all cores)",
    )


def open_bundles(paths: Sequence[Path], facts: BoardFacts) -> list[Bundle]:
    """Opens the given bundles, or else this board's own.

    Raises:
        BundleError: a bundle is missing, or can't be trusted.
        UsageError: the bundles are of different boards.
    """
    bundles = [open_bundle(path) for path in paths or [find_bundle(BUILD, facts.compatible, facts.machine)]]
    boards = sorted({bundle.manifest.profile.board.name for bundle in bundles})
    if len(boards) > 1:
        raise UsageError("--bundle", f"bundles of {', '.join(boards)}", expected="bundles of a single board", reason="boards")
    return bundles


def find_candidates(bundles: Sequence[Bundle], flags: argparse.Namespace, facts: BoardFacts) -> list[Candidate]:
    """Lists the candidates that the flags select."""
    return [
        Candidate(bundle.root, choice)
        for bundle in bundles
        for choice in find_choices(bundle, facts.cores, flags.runtime, flags.threads)
    ]


class PowerAvailability(NamedTuple):
    """Whether power can be measured.

    Attributes:
        missing: why meters of the profile are unavailable; one line each.
        no_power_reason: why power can't be measured; None if it can.
        is_estimate: whether the figures come from a model instead of a sensor.
    """

    missing: tuple[str, ...]
    no_power_reason: str | None
    is_estimate: bool


def check_meters(bundle: Bundle) -> PowerAvailability:
    """Opens the profile's meters once, to report before the measurement whether there will be power figures."""
    with opened_meters(bundle.manifest.profile, system_context()) as meters:
        if meters.open:
            return PowerAvailability(meters.missing, None, meters.open[0].origin.is_estimate)
        reason = "; ".join(meters.missing) or f"profile {bundle.manifest.profile.name} names no meter"
        return PowerAvailability(meters.missing, reason, False)


def describe_wait(duration_s: float) -> str:
    """Formats a duration as ``40 s`` or ``12 minutes``, rounded up."""
    return f"{math.ceil(duration_s)} s" if duration_s < 120 else f"{math.ceil(duration_s / 60)} minutes"


def show_progress(line: str) -> None:
    """Prints a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)
