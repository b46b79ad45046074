"""``python -m converter.compare.recipes``: what each recipe gives in each format, with one network's weights.

Every artefact is lowered, run by the board's own runtime and timed on this machine. What was lowered once is kept in the
cache of the conversions.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from converter import stages
from converter.compare.latency import Runnable, measure_rounds, ratio_spread, spread
from converter.data.photographs import ImageSet, Photographs
from converter.evaluate.accuracy import score
from converter.evaluate.verify import artefact_logits, compare, eager_logits
from converter.exporters import Exported
from converter.profiles import load_profile
from converter.quantise.recipes import RECIPES, default_recipe, find_recipe
from converter.work.progress import StageProgress
from device.core.errors import UsageError, exit_with_one_line
from device.runtimes.registry import RUNTIMES

PROFILE = "host"
ROUNDS = 30
RUNS = 10
"""Inferences of a turn; in every round each artefact has one."""


class Row(msgspec.Struct, frozen=True):
    """One recipe in one format.

    Attributes:
        recipe: name.
        runtime: that runs the format.
        is_default: whether a conversion takes it unasked.
        sqnr_db: of the logits against eager fp32.
        top1_agreement: share of images on which it names the class that eager fp32 names.
        top1: share of images on which it names the right class; None without labels.
        size_bytes: of the file.
        latency_s: median over the rounds.
        latency_ratio: to the default int8 recipe of the same format, median over the rounds.
    """

    recipe: str
    runtime: str
    is_default: bool
    sqnr_db: float
    top1_agreement: float
    top1: float | None
    size_bytes: int
    latency_s: float
    latency_ratio: float


class RecipeComparison(msgspec.Struct, frozen=True):
    """All that was measured.

    Attributes:
        model: variant.
        weights: checkpoint.
        images: how many the artefacts were run on.
        top1: of eager fp32; None without labels.
        rows: recipe by recipe.
    """

    model: str
    weights: str
    images: int
    top1: float | None
    rows: tuple[Row, ...]


class Artefact(msgspec.Struct, frozen=True):
    """One that was lowered."""

    recipe: str
    runtime: str
    file: Path
    exported: Exported


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="python -m converter.compare.recipes", description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="ghostnet_100", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--weights", default="clothing", metavar="NAME|PATH", help="(default: %(default)s)")
    parser.add_argument(
        "--recipe", action="append", metavar="NAME", help=f"this alone; may be repeated (default: all: {', '.join(RECIPES)})"
    )
    parser.add_argument("--runtime", action="append", choices=stages.RUNTIMES, help="likewise (default: both)")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="photographs (default: the weights' own)")
    parser.add_argument("--verification", type=Path, metavar="DIR", help="labelled photographs (likewise)")
    parser.add_argument("--images", type=int, metavar="N", help="of the verification photographs, at most (default: all)")
    parser.add_argument("--cache", type=Path, default=Path("build/cache"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="exports at a time (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, lowers, runs and prints."""
    flags = build_parser().parse_args(arguments)
    if flags.images is not None and flags.images < 1:
        raise UsageError("--images", f"{flags.images} images", expected="1 or more", reason="images")
    recipes = [find_recipe(name).name for name in flags.recipe or RECIPES]
    runtimes = tuple(flags.runtime or stages.RUNTIMES)
    request = stages.Request(
        profile=load_profile(PROFILE),
        model=flags.model,
        weights=flags.weights,
        out=Path("unused"),
        cache=flags.cache / "artefacts",
        calibration=flags.calibration,
        verification=flags.verification,
        jobs=flags.jobs,
    )
    console = Console(stderr=True)
    prepared = stages.load(request)
    photographs = stages.choose(request, prepared)
    artefacts: list[Artefact] = []
    with StageProgress(flags.cache / "durations.json", console) as progress:
        for name in recipes:
            console.print(f"recipe {name}", highlight=False)
            artefacts += lower(msgspec.structs.replace(request, recipe=name), photographs, runtimes, progress)
    images = _first(photographs.verification, flags.images)
    eager = eager_logits(prepared.network, images.pixels)
    with console.status("run"):
        rows = tuple(judge(artefacts, images, eager, runtimes))
    top1 = None if images.labels is None else score(eager, images.labels).top1
    found = RecipeComparison(flags.model, prepared.checkpoint.name, len(images.pixels), top1, rows)
    if flags.json:
        print(msgspec.json.encode(found).decode())
    else:
        print_table(Console(), found)
    return 0


def lower(
    request: stages.Request, photographs: Photographs, runtimes: tuple[str, ...], progress: StageProgress
) -> list[Artefact]:
    """Lowers with one recipe, to both formats; what a conversion has lowered before is taken from the cache."""
    assert request.recipe is not None
    exports = stages.export_all(request, stages.load(request), photographs, progress.tell, is_sensitivity_wanted=False)
    artefacts = []
    for runtime in runtimes:
        folder = exports.folders[runtime]
        exported = msgspec.json.decode((folder / stages.EXPORTED_NAME).read_bytes(), type=Exported)
        artefacts.append(Artefact(request.recipe, runtime, folder / exported.file, exported))
    return artefacts


def judge(artefacts: list[Artefact], images: ImageSet, eager: NDArray[np.float32], runtimes: tuple[str, ...]) -> Iterator[Row]:
    """Runs each artefact on all images, and times those of a format against one another, in turns."""
    latencies: dict[tuple[str, str], tuple[float, float]] = {}
    for runtime in runtimes:
        latencies |= _time([one for one in artefacts if one.runtime == runtime], images.pixels[:1])
    for one in artefacts:
        logits = artefact_logits(one.runtime, one.file, images.pixels, input=one.exported.input, output=one.exported.output)
        verification = compare(logits, eager)
        latency_s, ratio = latencies[one.recipe, one.runtime]
        yield Row(
            recipe=one.recipe,
            runtime=one.runtime,
            is_default=default_recipe(find_recipe(one.recipe).precision, one.runtime).name == one.recipe,
            sqnr_db=round(verification.sqnr_db, 2),
            top1_agreement=round(verification.top1_agreement, 4),
            top1=None if images.labels is None else round(score(logits, images.labels).top1, 4),
            size_bytes=one.file.stat().st_size,
            latency_s=latency_s,
            latency_ratio=ratio,
        )


def _time(artefacts: list[Artefact], pixels: NDArray[np.uint8]) -> dict[tuple[str, str], tuple[float, float]]:
    """Median latency, and its ratio to the default int8 recipe's, or to the first there is."""
    runtime = artefacts[0].runtime
    names = [one.recipe for one in artefacts]
    default = default_recipe("int8", runtime).name
    reference = default if default in names else names[0]
    with contextlib.ExitStack() as stack:
        sessions: dict[str, Runnable] = {
            one.recipe: stack.enter_context(
                RUNTIMES.load(runtime)().open(one.file, input=one.exported.input, output=one.exported.output, threads=1)
            )
            for one in artefacts
        }
        rounds = list(itertools.islice(measure_rounds(sessions, pixels, runs=RUNS), ROUNDS))
    taken_s = {name: [found[name] for found in rounds] for name in names}
    return {
        (name, runtime): (round(spread(taken_s[name]).p50, 7), round(ratio_spread(taken_s[name], taken_s[reference]).p50, 4))
        for name in names
    }


def _first(images: ImageSet, count: int | None) -> ImageSet:
    labels = None if images.labels is None else images.labels[:count]
    return msgspec.structs.replace(images, pixels=images.pixels[:count], labels=labels)


def print_table(console: Console, found: RecipeComparison) -> None:
    """Prints a row a recipe and format."""
    eager = "" if found.top1 is None else f", eager fp32 names {found.top1:.1%} right"
    console.print(f"{found.model}, {found.weights}, {found.images} photographs{eager}\n", highlight=False)
    table = Table(
        "recipe", "format", "SQNR", "top-1 as fp32", "top-1", "size", "latency", "to the default", box=None, header_style="bold"
    )
    for row in found.rows:
        table.add_row(
            f"{row.recipe} *" if row.is_default else row.recipe,
            row.runtime,
            f"{row.sqnr_db:.1f} dB",
            f"{row.top1_agreement:.1%}",
            "–" if row.top1 is None else f"{row.top1:.1%}",
            f"{row.size_bytes / 1e6:.2f} MB",
            f"{row.latency_s * 1e3:.2f} ms",
            f"× {row.latency_ratio:.2f}",
        )
    console.print(table)
    console.print(f"\n* default of its precision. Latency: this machine, 1 thread, median of {ROUNDS} rounds.", highlight=False)


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
