"""``python -m tests.benchmarks.bench_twice``: the same benchmark twice: do the two agree within their own intervals?"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from device.bench.figures import overlap
from device.bench.machine import format_machine
from device.bench.result import BenchResult, MedianRange, read_result
from device.bench.runner import describe_choice
from device.bench.table import format_columns, format_interval
from device.core.errors import exit_with_one_line


def run_bench(folder: Path, arguments: list[str]) -> BenchResult:
    """One benchmark, as a person would run it."""
    command = [sys.executable, "-m", "device.bench", "--out", str(folder), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_result(folder / "bench.json")


def compare(one: BenchResult, other: BenchResult) -> Iterator[tuple[str, str, MedianRange, MedianRange]]:
    """Pairs of figures: which choice, which figure, and both intervals."""
    for first, second in zip(one.choices, other.choices, strict=True):
        name = describe_choice(first.choice)
        if first.latency and second.latency:
            yield name, "p50 ms", first.latency.p50_s, second.latency.p50_s
            yield name, "p90 ms", first.latency.p90_s, second.latency.p90_s
        if first.energy and second.energy:
            yield name, "mJ gross", first.energy.gross_j, second.energy.gross_j


def verdict(one: MedianRange, other: MedianRange) -> str:
    """Whether the second median lies in the first interval, or at least the intervals overlap."""
    if one.low <= other.median <= one.high or other.low <= one.median <= other.high:
        return "agree"
    return "overlap" if overlap(one, other) else "DIFFER"


def main() -> int:
    """Measures twice, prints the pairs; 1 where one pair differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", nargs="*", metavar="FLAG", help="for device.bench, behind --")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [run_bench(Path(folder) / str(number), flags.arguments) for number in (1, 2)]
    print(format_machine(results[0].machine))
    rows = [("choice", "figure", "first", "second", "")]
    for name, figure, one, other in compare(*results):
        rows.append((name, figure, format_interval(one, 2, 1e3), format_interval(other, 2, 1e3), verdict(one, other)))
    print("\n".join(format_columns(rows)))
    return int(any(row[-1] == "DIFFER" for row in rows))


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
