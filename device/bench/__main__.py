"""``python -m device.bench``: speed and energy of every choice that a bundle holds, in the manner of MLPerf Tiny."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from device import __version__
from device.bench.child import run_in_child
from device.bench.conditions import look_before
from device.bench.plan import CONFORMING, QUICK, expected_s, find_choices
from device.bench.result import BenchResult, encode_result
from device.bench.rounds import opened_meters, system_surroundings
from device.bench.runner import Bench, Candidate, interrupt_on_termination
from device.bench.table import format_result
from device.board import BoardFacts, detect_board
from device.bundle import Bundle, find_bundle, open_bundle
from device.durable import write_durably
from device.errors import BenchError, UsageError, exit_with_one_line
from device.registry import RUNTIMES

BUILD = Path("build")
RESULT_NAME = "bench.json"


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.bench",
        description="Measures how fast the bundle's networks run on this machine, and what an inference costs.",
    )
    add_choice_flags(parser)
    parser.add_argument("--quick", action="store_true", help="a first look: short windows, marked as too short everywhere")
    parser.add_argument("--no-energy", action="store_true", help="speed alone")
    parser.add_argument("--strict", action="store_true", help="end with an error where a figure can't be trusted")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {RESULT_NAME} there (default: the bundle's folder)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


def add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is measured; `device.tune` has them too."""
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


def positive_int(text: str) -> int:
    """A flag's whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


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


class Power(NamedTuple):
    """Whether there is a meter.

    Attributes:
        missing: of the profile's meters that are not there, why.
        no_power_reason: None where one is there.
        is_estimate: what gives the figure is a model.
    """

    missing: tuple[str, ...]
    no_power_reason: str | None
    is_estimate: bool


def look_for_meters(bundle: Bundle) -> Power:
    """Opens the profile's meters once, to say before the wait what there will be."""
    with opened_meters(bundle.manifest.profile, system_surroundings()) as meters:
        if meters.open:
            return Power(meters.missing, None, meters.open[0].is_estimate)
        reason = "; ".join(meters.missing) or f"profile {bundle.manifest.profile.name} names no meter"
        return Power(meters.missing, reason, False)


def tell(line: str) -> None:
    """Shows a line to the person."""
    print(line, file=sys.stderr, flush=True)


def write_result(result: BenchResult, folder: Path) -> Path:
    """Writes ``bench.json``: whole, or not at all.

    Raises:
        BenchError: ``permission``, or whatever the system says.
    """
    path = folder / RESULT_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, encode_result(result))
    except OSError as error:
        raise BenchError(
            str(path), f"can't be written ({error.strerror})", remedy="name another folder with --out", reason="permission"
        ) from error
    return path


def run(flags: argparse.Namespace) -> int:
    """Measures, prints, and writes."""
    facts = detect_board()
    if flags.strict and flags.quick:
        raise UsageError("--strict", "with --quick", expected="one of the two: a quick look is too short", reason="too_short")
    bundles = open_bundles(flags.bundle, facts)
    candidates = find_candidates(bundles, flags, facts)
    power = look_for_meters(bundles[0])
    no_energy_reason = "--no-energy was given" if flags.no_energy else power.no_power_reason
    settings = QUICK if flags.quick else CONFORMING
    folder = flags.out or bundles[0].root
    _check_folder(folder)
    around = system_surroundings()
    bench = Bench(
        candidates,
        settings,
        no_energy_reason=no_energy_reason,
        meters_missing=power.missing,
        before=look_before(around.watch, around.clock),
        is_strict=flags.strict,
        execute=run_in_child,
        tell=tell,
    )
    least_s = expected_s(settings, len(candidates), has_energy=no_energy_reason is None)
    tell(f"{len(candidates)} choices, {settings.rounds} rounds each: {least_s / 60:.0f} minutes or more")
    try:
        with interrupt_on_termination():
            bench.run()
    except KeyboardInterrupt:
        if bench.has_rounds:
            _publish(bench.summarise(is_complete=False), folder, flags)
        raise
    result = bench.summarise(is_complete=True)
    _publish(result, folder, flags)
    if all(one.failure for one in result.choices):
        raise BenchError("benchmark", "every choice failed, as said above", reason="failed")
    return 0


def _check_folder(folder: Path) -> None:
    """Says before the wait that nothing could be written after it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise BenchError(str(folder), "can't be written to", remedy="name another folder with --out", reason="permission")


def _publish(result: BenchResult, folder: Path, flags: argparse.Namespace) -> None:
    path = write_result(result, folder)
    print(encode_result(result).decode() if flags.json else format_result(result), flush=True)
    tell(f"written: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and runs."""
    return run(build_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
