"""``python -m tests.benchmarks.tune_exhaustive``: does `device.tune` pick what measuring everything picks?"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from device.core.errors import exit_with_one_line
from device.tune.result import TuneResult
from device.tune.table import format_tuning


def run_tune(folder: Path, arguments: list[str]) -> TuneResult:
    """One search, as a person would run it."""
    command = [sys.executable, "-m", "device.tune", "--out", str(folder / "host-tuned.yaml"), "--json", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=TuneResult)


def main() -> int:
    """Searches twice; 1 where the picks differ by more than the rounds' ranges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", nargs="*", metavar="FLAG", help="for device.tune, behind --")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lazy = run_tune(Path(folder), flags.arguments)
        full = run_tune(Path(folder), [*flags.arguments, "--exhaustive"])
    rounds = [sum(len(point.rounds) for point in result.points) for result in (lazy, full)]
    print(f"--- early stops: {rounds[0]} rounds, {lazy.duration_s:.0f} s\n{format_tuning(lazy)}\n")
    print(f"--- everything: {rounds[1]} rounds, {full.duration_s:.0f} s\n{format_tuning(full)}\n")
    if lazy.pick == full.pick:
        print("both pick the same point")
        return 0
    if lazy.pick in full.rivals:
        print("the picks differ, but measuring everything doesn't tell the two points apart")
        return 0
    print("the picks DIFFER")
    return 1


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
