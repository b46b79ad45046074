"""``python -m converter.compare.recipes``: what each recipe gives in each format, with one network's weights.

Every artefact is lowered, run by the board's own runtime on the verification photographs, and timed on this machine. Exports
are taken from the conversions' cache, and kept in it. No floor is applied: the question is what a recipe reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from converter import stages
from converter.compare.latency import Runnable, measure_rounds, ratio_spread, spread
from converter.data.photographs import ImageSet, Photographs
from converter.evaluate.accuracy import change, score
from converter.evaluate.verify import artefact_logits, compare, eager_logits, open_artefact
from converter.exporters import default_recipe, exporter_names
from converter.exporters.job import Lowered
from converter.profiles import load_profile
from converter.quantise.recipes import RECIPES, find_recipe
from converter.work.progress import TaskProgress
from device.core.errors import UsageError, exit_with_one_line

PROFILE = "host"
ROUNDS = 30
RUNS = 10
"""Inferences of one turn; each artefact has one turn in each round."""


class RecipeFigures(msgspec.Struct, frozen=True):
    """One recipe in one format.

    Attributes:
        recipe: name.
        runtime: that runs the format.
        is_default: whether a conversion takes it by default.
        sqnr_db: of the logits against eager fp32.
        top1_agreement: share of images on which it names the class that eager fp32 names.
        top1: share of images on which it names the right class; None without labels.
        top1_change: ``top1`` less that of eager fp32; None without labels.
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
    top1_change: float | None
    size_bytes: int
    latency_s: float
    latency_ratio: float


class RecipeComparison(msgspec.Struct, frozen=True):
    """All that was measured.

    Attributes:
        model: variant.
        weights: checkpoint.
        images: number of images that the artefacts were run on.
        top1: of eager fp32; None without labels.
        rows: recipe by recipe.
    """

    model: str
    weights: str
    images: int
    top1: float | None
    rows: tuple[RecipeFigures, ...]


class LoweredRecipe(NamedTuple):
    """A recipe in a format, lowered."""

    recipe: str
    runtime: str
    lowered: Lowered


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="python -m converter.compare.recipes", description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="ghostnet_100", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--weights", default="clothing", metavar="NAME|PATH", help="(default: %(default)s)")
    parser.add_argument(
        "--recipe", action="append", metavar="NAME", help=f"this alone; may be repeated (default: all: {', '.join(RECIPES)})"
    )
    parser.add_argument(
        "--runtime", action="append", choices=exporter_names(), help="this alone; may be repeated (default: all)"
    )
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="photographs (default: the weights' own)")
    parser.add_argument("--verification", type=Path, metavar="DIR", help="labelled photographs (default: the weights' own)")
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
    runtimes = tuple(flags.runtime or exporter_names())
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
    candidates: list[LoweredRecipe] = []
    with TaskProgress(flags.cache / "durations.json", console=console) as progress:
        for name in recipes:
            console.print(f"recipe {name}", highlight=False)
            candidates += lower(msgspec.structs.replace(request, recipe=name), photographs, runtimes, progress)
    images = _first(photographs.verification, flags.images)
    eager = eager_logits(prepared.network, images.pixels)
    with console.status("run"):
        rows = tuple(judge(candidates, images, eager, runtimes))
    top1 = None if images.labels is None else score(eager, images.labels).top1
    found = RecipeComparison(flags.model, prepared.checkpoint.name, len(images.pixels), top1, rows)
    if flags.json:
        print(msgspec.json.encode(found).decode())
    else:
        print_table(Console(), found)
    return 0


def lower(
    request: stages.Request, photographs: Photographs, runtimes: Sequence[str], progress: TaskProgress
) -> list[LoweredRecipe]:
    """Lowers with one recipe; an export that an earlier conversion made is taken from the cache."""
    assert request.recipe is not None
    made = stages.export_all(request, stages.load(request), photographs, progress.report, is_sensitivity_wanted=False)
    return [LoweredRecipe(request.recipe, runtime, made.artefacts[runtime]) for runtime in runtimes]


def judge(
    candidates: list[LoweredRecipe], images: ImageSet, eager: NDArray[np.float32], runtimes: Sequence[str]
) -> Iterator[RecipeFigures]:
    """Runs each candidate on all images, and times those of a format against one another, in turns."""
    latencies: dict[tuple[str, str], tuple[float, float]] = {}
    for runtime in runtimes:
        latencies |= _time([one for one in candidates if one.runtime == runtime], images.pixels[:1])
    for one in candidates:
        logits = artefact_logits(one.runtime, one.lowered.path, images.pixels, one.lowered.exported)
        verification = compare(logits, eager)
        latency_s, ratio = latencies[one.recipe, one.runtime]
        labels = images.labels
        yield RecipeFigures(
            recipe=one.recipe,
            runtime=one.runtime,
            is_default=default_recipe(find_recipe(one.recipe).precision, one.runtime).name == one.recipe,
            sqnr_db=round(verification.sqnr_db, 2),
            top1_agreement=round(verification.top1_agreement, 4),
            top1=None if labels is None else round(score(logits, labels).top1, 4),
            top1_change=None if labels is None else round(change(logits, eager, labels).top1, 4),
            size_bytes=one.lowered.path.stat().st_size,
            latency_s=latency_s,
            latency_ratio=ratio,
        )


def _time(candidates: list[LoweredRecipe], pixels: NDArray[np.uint8]) -> dict[tuple[str, str], tuple[float, float]]:
    """Median latency, and its ratio to the default int8 recipe's; to the first candidate's if the default isn't among them."""
    runtime = candidates[0].runtime
    names = [one.recipe for one in candidates]
    default = default_recipe("int8", runtime).name
    reference = default if default in names else names[0]
    with contextlib.ExitStack() as stack:
        sessions: dict[str, Runnable] = {
            one.recipe: stack.enter_context(open_artefact(runtime, one.lowered.path, one.lowered.exported))
            for one in candidates
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
    """Prints a row for each recipe and format."""
    eager = "" if found.top1 is None else f", eager fp32 names {found.top1:.1%} right"
    console.print(f"{found.model}, {found.weights}, {found.images} photographs{eager}\n", highlight=False)
    table = Table(box=None, header_style="bold")
    headings = ("recipe", "format", "SQNR", "top-1 as fp32", "top-1", "change", "size", "latency", "to the default")
    for heading in headings:
        table.add_column(heading)
    for row in found.rows:
        table.add_row(
            f"{row.recipe} *" if row.is_default else row.recipe,
            row.runtime,
            f"{row.sqnr_db:.1f} dB",
            f"{row.top1_agreement:.1%}",
            "–" if row.top1 is None else f"{row.top1:.1%}",
            "–" if row.top1_change is None else f"{100 * row.top1_change:+.1f}",
            f"{row.size_bytes / 1e6:.2f} MB",
            f"{row.latency_s * 1e3:.2f} ms",
            f"× {row.latency_ratio:.2f}",
        )
    console.print(table)
    console.print(
        f"\n* default of its precision. Change: of top-1 against fp32, in points. Latency: this machine, 1 thread, median of "
        f"{ROUNDS} rounds.",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
