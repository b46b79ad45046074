"""``python -m converter --profile rpi4``: lowers a network for a board, and writes the bundle."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from converter.evaluate.accuracy import Score
from converter.exporters import default_recipe, exporter_names, load_exporter
from converter.models import model_names
from converter.profiles import FOLDER, SCHEMA_NAME, encode_schema, load_profile, profile_names
from converter.quantise.recipes import RECIPES, find_recipe
from converter.report.record import ConversionReport, read_report
from converter.stages import Request, convert
from converter.weights.checkpoints import find_checkpoint, known_names
from converter.work.progress import TaskProgress
from device.bundle import open_bundle
from device.contract import Manifest
from device.core.errors import ProfileError, exit_with_one_line, nearest

BUILD = Path("build")
CACHE = BUILD / "cache"


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    suffixes = " and ".join(f".{load_exporter(name).suffix}" for name in exporter_names())
    parser = argparse.ArgumentParser(
        prog="python -m converter",
        description=f"Lowers a network to {suffixes} for a board, checks what it computes, and writes the bundle.",
    )
    parser.add_argument("--profile", metavar="NAME", help=f"a profile of firmware_profiles/ ({', '.join(profile_names())})")
    parser.add_argument("--model", metavar="NAME", help=f"instead of the profile's ({', '.join(model_names())})")
    parser.add_argument(
        "--weights",
        metavar="NAME|PATH",
        help="instead of the profile's: a shipped checkpoint, imagenet (fetched), or a file with its card",
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help=f"instead of each format's default for the profile's precision ({', '.join(RECIPES)})"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR", help="photographs to take the ranges from (default: the weights' own)"
    )
    parser.add_argument(
        "--verification",
        type=Path,
        metavar="DIR",
        help="labelled photographs to check with, DIR/<label>/* (default: the weights' own)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the bundle (default: build/<profile>)")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="results of earlier conversions (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="exports at a time (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--list", action="store_true", help="list profiles, models, weights and recipes, and exit")
    parser.add_argument("--write-schema", action="store_true", help=f"write firmware_profiles/{SCHEMA_NAME}, and exit")
    return parser


def list_choices(console: Console) -> None:
    """Prints what ``--profile``, ``--model``, ``--weights`` and ``--recipe`` take."""
    profiles = Table("profile", "description", "runtime", "threads", title=None, box=None, header_style="bold")
    for name in profile_names():
        profile = load_profile(name).profile
        profiles.add_row(name, profile.description, profile.runtime.name, str(profile.runtime.threads))
    models = Table("model", "weights (imagenet is fetched)", box=None, header_style="bold")
    for name in model_names():
        models.add_row(name, ", ".join(known_names(name)) or "none: pass --weights FILE")
    console.print(profiles)
    console.print()
    console.print(models)
    console.print()
    console.print(list_recipes())


def list_recipes() -> Table:
    """Makes the table of recipes: the formats that each is the default of, and the reason to use it."""
    table = Table("recipe", "default of", "reason", box=None, header_style="bold")
    for name, recipe in RECIPES.items():
        formats = [runtime for runtime in exporter_names() if default_recipe(recipe.precision, runtime) is recipe]
        table.add_row(name, ", ".join(formats) or "–", recipe.reason)
    return table


def print_summary(console: Console, out: Path, manifest: Manifest, manifest_sha256: str) -> None:
    """Prints the artefacts and their accuracy."""
    table = Table("artefact", "recipe", "size", "delegates", "outside", "SQNR", "top-1 as fp32", box=None, header_style="bold")
    for artefact in manifest.artefacts:
        table.add_row(
            artefact.file,
            artefact.recipe,
            f"{(out / artefact.file).stat().st_size / 1e6:.2f} MB",
            str(artefact.delegates),
            ", ".join(artefact.undelegated_ops) or "nothing",
            f"{artefact.sqnr_db:.1f} dB",
            f"{artefact.top1_agreement:.1%}",
        )
    console.print(table)
    console.print()
    print_accuracy(console, read_report(out))
    console.print()
    console.print(f"manifest sha256 {manifest_sha256}", highlight=False, soft_wrap=True)
    console.print(f"report {out / 'report.html'}", highlight=False)


def print_accuracy(console: Console, report: ConversionReport) -> None:
    """Prints the top-1 of fp32 and of each artefact, and the difference."""
    if report.fp32 is None:
        console.print("top-1 is unknown, since the photographs have no labels; pass labelled ones by --verification DIR")
        return
    table = Table("", f"top-1 of {report.verification.images}", "95 %", "against fp32", "95 %", box=None, header_style="bold")
    table.add_row("fp32", *_format_top1(report.fp32.score), "", "")
    for item in report.artefacts:
        if item.judgement is not None and item.change is not None:
            low, high = 100 * item.change.interval.low, 100 * item.change.interval.high
            difference = f"{100 * item.change.top1:+.1f} points", f"{low:+.1f} to {high:+.1f}"
            table.add_row(item.artefact.file, *_format_top1(item.judgement.score), *difference)
    console.print(table)


def _format_top1(found: Score) -> tuple[str, str]:
    return f"{found.top1:.1%}", f"{100 * found.top1_interval.low:.1f} to {100 * found.top1_interval.high:.1f}"


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and converts."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    console = Console()
    if flags.write_schema:
        (FOLDER / SCHEMA_NAME).write_bytes(encode_schema())
        return 0
    if flags.list:
        list_choices(console)
        return 0
    if flags.profile is None:
        parser.error(f"--profile is missing; expected one of {', '.join(profile_names())}")
    loaded = load_profile(flags.profile)
    model = flags.model or loaded.profile.model.name
    if model not in model_names():
        where = "--model" if flags.model else loaded.where("model", "name")
        raise ProfileError(where, f"{model!r} is not a model", expected=nearest(model, model_names()), reason="unknown_model")
    if flags.recipe is not None:
        find_recipe(flags.recipe)  # refuses a wrong name before a long download
    out = flags.out or BUILD / flags.profile
    request = Request(
        profile=loaded,
        model=model,
        weights=flags.weights or loaded.profile.model.weights,
        out=out,
        cache=flags.cache / "artefacts",
        calibration=flags.calibration,
        verification=flags.verification,
        jobs=flags.jobs,
        recipe=flags.recipe,
    )
    started_s = time.monotonic()
    find_checkpoint(request.model, request.weights)  # outside the progress display, since a download shows its own
    with TaskProgress(flags.cache / "durations.json") as progress:
        manifest = convert(request, progress.report)
    if flags.json:
        print(msgspec.json.encode(manifest).decode())
        return 0
    print_summary(console, out, manifest, open_bundle(out).manifest_sha256)
    console.print(f"converted in {time.monotonic() - started_s:.0f} s", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
