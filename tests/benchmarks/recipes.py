"""``python -m tests.benchmarks.recipes``: what each recipe gives in each format, by the same photographs, in one run.

Nothing has a floor here: what a recipe reaches is what is asked. Latency is a ratio to the format's default, taken in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from converter.evaluate.accuracy import change, score
from converter.evaluate.verify import artefact_logits, compare, eager_logits
from converter.exporters import Exported
from converter.profiles import load_profile
from converter.quantise.recipes import default_recipe, recipe_names
from converter.stages import EXPORTED_NAME, RUNTIMES, Request, choose, export_all, load
from device.core.errors import exit_with_one_line
from device.protocols import Session
from device.runtimes.registry import RUNTIMES as RUNTIME_CLASSES
from tests.benchmarks.__main__ import machine

ROUNDS = 200


class Row(msgspec.Struct):
    """What a recipe gives in a format; ``top1_change`` in shares, ``latency_ratio`` to the format's default."""

    runtime: str
    recipe: str
    is_default: bool
    sqnr_db: float
    top1_agreement: float
    top1: float | None
    top1_change: float | None
    latency_ratio: float = 1.0


def open_artefact(runtime: str, folder: Path) -> Session:
    """Opens an export on one thread."""
    exported = msgspec.json.decode((folder / EXPORTED_NAME).read_bytes(), type=Exported)
    session: Session = RUNTIME_CLASSES.load(runtime)().open(
        folder / exported.file, input=exported.input, output=exported.output, threads=1
    )
    return session


def measure(request: Request, tell: bool) -> list[Row]:
    """Converts by every int8 recipe, and measures."""
    rows: list[Row] = []
    folders: dict[tuple[str, str], Path] = {}
    names = [name for name in recipe_names("int8") if name != "int8_published"]  # the default's artefact, another floor
    for name in names:
        asked = msgspec.structs.replace(request, recipe=name)
        prepared = load(asked)
        photographs = choose(asked, prepared)
        made = export_all(asked, prepared, photographs, lambda *_: None, is_sensitivity_wanted=False)
        images = photographs.verification
        eager = eager_logits(prepared.network, images.pixels)
        for runtime, folder in made.folders.items():
            folders[runtime, name] = folder
            exported = msgspec.json.decode((folder / EXPORTED_NAME).read_bytes(), type=Exported)
            logits = artefact_logits(
                runtime, folder / exported.file, images.pixels, input=exported.input, output=exported.output
            )
            found = compare(logits, eager)
            labels = images.labels
            rows.append(
                Row(
                    runtime,
                    name,
                    name == default_recipe("int8", runtime).name,
                    found.sqnr_db,
                    found.top1_agreement,
                    None if labels is None else score(logits, labels).top1,
                    None if labels is None else change(logits, eager, labels).top1,
                )
            )
            if tell:
                print(f"{runtime} {name}: {found.sqnr_db:.1f} dB", file=sys.stderr)
    for runtime in RUNTIMES:
        ratios = latency_ratios(runtime, {name: folders[runtime, name] for name in names})
        for row in rows:
            if row.runtime == runtime:
                row.latency_ratio = ratios[row.recipe]
    return rows


def latency_ratios(runtime: str, folders: dict[str, Path]) -> dict[str, float]:
    """Median over the rounds of a recipe's time by the default's in the same round."""
    default = default_recipe("int8", runtime).name
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(open_artefact(runtime, folder)) for name, folder in folders.items()}
        pixels = np.zeros(next(iter(sessions.values())).input.shape, np.uint8)
        rounds: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            times = {}
            for name, session in sessions.items():
                started_s = time.perf_counter()
                session.run(pixels)
                times[name] = time.perf_counter() - started_s
            rounds.append(times)
    return {name: statistics.median(times[name] / times[default] for times in rounds) for name in folders}


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipes", description="What each int8 recipe gives.")
    parser.add_argument("--model", default="ghostnet_100")
    parser.add_argument("--weights", default="clothing")
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="photographs (default: the weights' own)")
    parser.add_argument("--verification", type=Path, metavar="DIR", help="labelled photographs (likewise)")
    parser.add_argument("--cache", type=Path, default=Path("build/cache"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    request = Request(
        profile=load_profile("host"),
        model=flags.model,
        weights=flags.weights,
        out=Path("build/host"),
        cache=flags.cache / "artefacts",
        calibration=flags.calibration,
        verification=flags.verification,
    )
    rows = measure(request, not flags.json)
    if flags.json:
        print(json.dumps({"machine": machine(), "recipes": msgspec.to_builtins(rows)}))
        return 0
    print(machine())
    print(f"{'runtime':<11}{'recipe':<22}{'SQNR':>9}{'as fp32':>9}{'top-1':>8}{'change':>8}{'latency':>9}")
    for row in rows:
        accuracy = "" if row.top1 is None or row.top1_change is None else f"{row.top1:>8.1%}{100 * row.top1_change:>+8.1f}"
        mark = " *" if row.is_default else ""
        print(
            f"{row.runtime:<11}{row.recipe + mark:<22}{row.sqnr_db:>6.1f} dB{row.top1_agreement:>9.1%}{accuracy}"
            f"{row.latency_ratio:>8.2f}x"
        )
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
