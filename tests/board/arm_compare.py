"""Counts the ARM instructions of the networks that ``make compare`` compared, and adds them to its outputs.

    python -m tests.board.arm_compare [--compare DIR] [--cache DIR]

A count belongs to the very artefact, by its hash: what was counted once is not counted again, and a comparison that measures
the same artefacts anew shows the counts without being asked. Each is kept as soon as it is there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from converter.compare.comparison import add_arm_counts
from converter.compare.exports import find_by_sha256
from converter.compare.page import write_comparison
from converter.compare.records import ArmCounts, Comparison, read_arm_counts, read_comparison, write_arm_counts
from converter.compare.table import print_comparison
from converter.exporters.job import Lowered
from converter.work.cache import Cache as Artefacts
from device.core.errors import ConversionError, exit_with_one_line

from .arm_cost import CPUS, install, measure
from .harness import cost, tree, user
from .harness.cache import Cache
from .harness.tree import REPOSITORY
from .harness.user import Cpu


class Count(NamedTuple):
    """One count that is wanted.

    Attributes:
        title: for people.
        sha256: of the artefact.
        runtime: that runs it.
        cpu: that is emulated.
    """

    title: str
    sha256: str
    runtime: str
    cpu: Cpu


def missing_counts(comparison: Comparison, counts: ArmCounts, cpus: Sequence[Cpu] = CPUS) -> list[Count]:
    """What is still to be counted; an artefact that wasn't exported is not among it."""
    wanted = [
        Count(f"{row.network} {one.runtime} {cpu}", one.sha256, one.runtime, cpu)
        for row in comparison.rows
        for one in row.artefacts
        if one.sha256
        for cpu in cpus
    ]
    return [one for one in wanted if one.cpu not in counts.get(one.sha256, {})]


def count_all(
    wanted: Sequence[Count], artefacts: dict[str, Lowered], count: Callable[[Path, str, Cpu], int]
) -> Iterator[tuple[Count, int]]:
    """Counts one after the other.

    Args:
        wanted: from `missing_counts`.
        artefacts: by hash; see `converter.compare.exports.find_by_sha256`.
        count: takes the artefact's folder, its runtime and the processor.

    Raises:
        ConversionError: an artefact is no longer in the cache.
    """
    for one in wanted:
        if one.sha256 not in artefacts:
            raise ConversionError(one.title, "its artefact is not in the cache", remedy="make compare", reason="missing")
        yield one, count(artefacts[one.sha256].path.parent, one.runtime, one.cpu)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.board.arm_compare", description=(__doc__ or "").partition("\n")[0])
    build = REPOSITORY / "build"
    parser.add_argument("--compare", type=Path, default=build / "compare", metavar="DIR", help="default: build/compare")
    parser.add_argument("--cache", type=Path, default=build / "cache" / "compare", metavar="DIR", help="its exports")
    flags = parser.parse_args()
    comparison = read_comparison(flags.compare)
    counts = read_arm_counts(flags.compare)
    wanted = missing_counts(comparison, counts)
    try:
        if wanted:
            for number, (one, instructions) in enumerate(_count(wanted, find_by_sha256(Artefacts(flags.cache))), start=1):
                counts.setdefault(one.sha256, {})[one.cpu] = instructions
                write_arm_counts(flags.compare, counts)
                print(
                    f"{number:>3} of {len(wanted)}  {one.title:<48} {instructions / 1e6:>7.1f} M", file=sys.stderr, flush=True
                )
    finally:
        comparison = add_arm_counts(comparison, counts)
        write_comparison(flags.compare, comparison)
    print_comparison(Console(), comparison)
    return 0


def _count(wanted: Sequence[Count], artefacts: dict[str, Lowered]) -> Iterator[tuple[Count, int]]:
    cache = Cache()
    with tempfile.TemporaryDirectory() as root:
        installation = Path(root)
        install(installation)
        board = user.ArmUser(tree.board_tree(cache, tree.TRIXIE), user.emulator(cache))
        counter = cost.ArmCounter(board, cost.counter(cache))

        def count(folder: Path, runtime: str, cpu: Cpu) -> int:
            return measure(counter, installation, folder.absolute(), runtime, cpu)["total"]

        yield from count_all(wanted, artefacts, count)


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
