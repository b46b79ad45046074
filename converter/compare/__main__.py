"""``python -m converter.compare``: exports, measures and compares GhostNet and MobileNetV3, and checks the article's claims."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from converter.compare.comparison import LEAST_ROUNDS, Measurement, build, measure, read_photographs, this_machine
from converter.compare.exports import USUAL_DURATION_S, ExportStore, Outcomes, Task
from converter.compare.networks import NETWORKS, QUICK, find_networks
from converter.compare.page import HTML_NAME, PNG_NAME, write_comparison
from converter.compare.records import JSON_NAME, encode, read_arm_counts
from converter.compare.table import print_comparison
from converter.exporters import Pixels, exporter_names
from converter.profiles import load_profile
from converter.work.cache import Cache
from converter.work.machine import MeasuredMachine
from converter.work.progress import TaskProgress
from device.core.errors import UsageError, exit_with_one_line

BUILD = Path("build")
ROUNDS = 60
QUICK_ROUNDS = 10
RUNS = 10
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m converter.compare",
        description="Compares GhostNet and MobileNetV3: parameters, MACs, size, int8 latency on this machine, published "
        "accuracy. Checks the article's claims. Finished exports are kept, so Ctrl-C loses nothing.",
    )
    names = ", ".join(network.name for network in NETWORKS)
    parser.add_argument("--models", nargs="+", metavar="NAME", help=f"compare only these (there are: {names})")
    parser.add_argument(
        "--runtime", action="append", choices=compared_runtimes(), help="this alone; may be repeated (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="only the networks that the claims need, and few rounds")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"of the measurement (default: {ROUNDS}; --quick: {QUICK_ROUNDS})"
    )
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="photographs (default: those that ship)")
    parser.add_argument("--out", type=Path, default=BUILD / "compare", metavar="DIR", help="(default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=BUILD / "cache" / "compare", metavar="DIR", help="earlier exports (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="exports at a time (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and compares."""
    flags = build_parser().parse_args(arguments)
    rounds = flags.rounds if flags.rounds is not None else QUICK_ROUNDS if flags.quick else ROUNDS
    if rounds < LEAST_ROUNDS:
        raise UsageError("--rounds", str(rounds), expected=f"{LEAST_ROUNDS} or more", reason="rounds")
    if flags.jobs < 1:
        raise UsageError("--jobs", str(flags.jobs), expected="1 or more", reason="jobs")
    default = QUICK if flags.quick else tuple(network.name for network in NETWORKS)
    networks = find_networks(tuple(flags.models or default))
    runtimes = tuple(name for name in compared_runtimes() if name in (flags.runtime or compared_runtimes()))
    arm_counts = read_arm_counts(flags.out)
    errors = Console(file=sys.stderr)

    machine = this_machine(runtimes)
    pixels = read_photographs(flags.calibration)
    exports = ExportStore(Cache(flags.cache), pixels)
    tasks = [Task(network, runtime) for network in networks for runtime in runtimes]
    try:
        outcomes = _export(exports, tasks, flags.jobs, flags.cache, errors)
        measurement = _measure(outcomes, pixels[:1], rounds, machine, errors)
    except KeyboardInterrupt:
        kept = sum(exports.find(task) is not None for task in tasks)
        line = f"stopped: {kept} of {len(tasks)} exports are kept in {flags.cache}; run it again to continue"
        errors.print(line, highlight=False, soft_wrap=True)
        return INTERRUPTED
    comparison = build(networks, runtimes, outcomes, measurement, runs=RUNS, arm_counts=arm_counts)
    write_comparison(flags.out, comparison)
    if flags.json:
        sys.stdout.write(encode(comparison).decode())
    else:
        print_comparison(Console(), comparison)
        print("\n" + "  ".join(str(flags.out / name) for name in (HTML_NAME, PNG_NAME, JSON_NAME)))
    return INTERRUPTED if measurement.rounds < rounds else 0


def compared_runtimes() -> tuple[str, ...]:
    """Every runtime that there is an exporter for, the host profile's first."""
    first = load_profile("host").profile.runtime.name
    return tuple(sorted(exporter_names(), key=lambda name: (name != first, name)))


def _export(exports: ExportStore, tasks: list[Task], jobs: int, cache: Path, console: Console) -> Outcomes:
    titles = [task.title for task in tasks]
    with TaskProgress(cache / "durations.json", titles, at_a_time=jobs, usual_s=USUAL_DURATION_S, console=console) as progress:
        return exports.make(tasks, jobs, progress.report)


def _measure(outcomes: Outcomes, pixels: Pixels, rounds: int, machine: MeasuredMachine, console: Console) -> Measurement:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(f"measure, {rounds} rounds", total=rounds)
        return measure(
            outcomes, pixels, rounds=rounds, runs=RUNS, machine=machine, report=lambda done: bars.update(bar, completed=done)
        )


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
