"""``python -m device.bench``: measures speed and energy of every choice in a bundle, in the style of MLPerf Tiny."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from device import __version__
from device.bench.child import run_in_child
from device.bench.choices import add_choice_flags, check_meters, describe_wait, find_candidates, open_bundles, show_progress
from device.bench.conditions import observe_before
from device.bench.plan import CONFORMING, QUICK, expected_s
from device.bench.result import BenchResult, encode_result
from device.bench.rounds import system_context
from device.bench.runner import Benchmark, interrupt_on_termination
from device.bench.table import format_result
from device.core.durable import write_durably
from device.core.errors import BenchError, UsageError, exit_with_one_line
from device.machine.board import detect_board

RESULT_NAME = "bench.json"


def build_parser() -> argparse.ArgumentParser:
    """Builds the command's argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m device.bench",
        description="Measures how fast the bundle's networks run on this machine, and how much energy an inference takes.",
    )
    add_choice_flags(parser)
    parser.add_argument("--quick", action="store_true", help="a first look: short windows, marked as too short everywhere")
    parser.add_argument("--no-energy", action="store_true", help="measure speed only")
    parser.add_argument("--strict", action="store_true", help="end with an error if a figure can't be trusted")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {RESULT_NAME} there (default: the bundle's folder)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


def write_result(result: BenchResult, folder: Path) -> Path:
    """Writes ``bench.json`` atomically.

    Raises:
        BenchError: ``permission`` if it can't be written.
    """
    path = folder / RESULT_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, encode_result(result))
    except OSError as error:
        raise BenchError(
            str(path), f"can't be written ({error.strerror})", remedy="choose another folder with --out", reason="permission"
        ) from error
    return path


def run(flags: argparse.Namespace) -> int:
    """Measures, then prints and writes the result."""
    facts = detect_board()
    if flags.strict and flags.quick:
        raise UsageError(
            "--strict", "given with --quick", expected="one of the two: a quick run is too short", reason="too_short"
        )
    bundles = open_bundles(flags.bundle, facts)
    candidates = find_candidates(bundles, flags, facts)
    power = check_meters(bundles[0])
    no_energy_reason = "--no-energy was given" if flags.no_energy else power.no_power_reason
    settings = QUICK if flags.quick else CONFORMING
    folder = flags.out or bundles[0].root
    _check_folder(folder)
    context = system_context()
    bench = Benchmark(
        candidates,
        settings,
        no_energy_reason=no_energy_reason,
        meters_missing=power.missing,
        before=observe_before(context.monitor, context.clock),
        is_strict=flags.strict,
        execute=run_in_child,
        on_progress=show_progress,
    )
    least_s = expected_s(settings, len(candidates), has_energy=no_energy_reason is None)
    show_progress(f"{len(candidates)} choices, {settings.rounds} rounds each: this takes {describe_wait(least_s)} or more")
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
        raise BenchError("benchmark", "every choice failed; see above", reason="failed")
    return 0


def _check_folder(folder: Path) -> None:
    """Checks before the measurement that its result can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise BenchError(str(folder), "can't be written to", remedy="choose another folder with --out", reason="permission")


def _publish(result: BenchResult, folder: Path, flags: argparse.Namespace) -> None:
    path = write_result(result, folder)
    print(encode_result(result).decode() if flags.json else format_result(result), flush=True)
    show_progress(f"written: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    return run(build_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
