"""What is measured, as flags say it, and whether a meter is there: of `device.bench` and `device.tune` alike."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from device.bench.plan import find_choices
from device.bench.rounds import opened_meters, system_surroundings
from device.bench.runner import Candidate
from device.bundle import Bundle, find_bundle, open_bundle
from device.core.errors import UsageError
from device.core.flags import positive_int
from device.machine.board import BoardFacts
from device.runtimes.registry import RUNTIMES

BUILD = Path("build")


def add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is measured."""
    parser.add_argument(
        "--bundle",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="the bundle (default: this board's, under build/); given again, networks of other sizes and precisions too",
    )
    parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME", help=f"only this one ({', '.join(RUNTIMES.own_names())})"
    )
    parser.add_argument(
        "--threads",
        action="append",
        type=positive_int,
        default=[],
        metavar="N",
        help="only this many (default: 1 to all cores)",
    )


def open_bundles(paths: Sequence[Path], facts: BoardFacts) -> list[Bundle]:
    """Opens the bundles that are named, or this board's own.

    Raises:
        BundleError: one is missing, or can't be trusted.
        UsageError: they are not of one board.
    """
    bundles = [open_bundle(path) for path in paths or [find_bundle(BUILD, facts.compatible, facts.machine)]]
    boards = sorted({bundle.manifest.profile.board.name for bundle in bundles})
    if len(boards) > 1:
        raise UsageError("--bundle", f"bundles of {', '.join(boards)}", expected="bundles of one board", reason="boards")
    return bundles


def find_candidates(bundles: Sequence[Bundle], flags: argparse.Namespace, facts: BoardFacts) -> list[Candidate]:
    """Lists what is measured."""
    return [
        Candidate(bundle.root, choice)
        for bundle in bundles
        for choice in find_choices(bundle, facts.cores, flags.runtime, flags.threads)
    ]


class PowerOutlook(NamedTuple):
    """Whether there will be figures of power.

    Attributes:
        missing: of the profile's meters that are not there, why.
        no_power_reason: None where there is a meter.
        is_estimate: what gives the figure is a model.
    """

    missing: tuple[str, ...]
    no_power_reason: str | None
    is_estimate: bool


def look_for_meters(bundle: Bundle) -> PowerOutlook:
    """Opens the profile's meters once, to say before the wait what there will be."""
    with opened_meters(bundle.manifest.profile, system_surroundings()) as meters:
        if meters.open:
            return PowerOutlook(meters.missing, None, meters.open[0].origin.is_estimate)
        reason = "; ".join(meters.missing) or f"profile {bundle.manifest.profile.name} names no meter"
        return PowerOutlook(meters.missing, reason, False)


def describe_wait(duration_s: float) -> str:
    """``40 s`` or ``12 minutes``, rounded up."""
    return f"{math.ceil(duration_s)} s" if duration_s < 120 else f"{math.ceil(duration_s / 60)} minutes"


def tell(line: str) -> None:
    """Shows a line to the person."""
    print(line, file=sys.stderr, flush=True)
