"""Trains a network on a labelled folder of photographs: ``python -m converter.train --data DIR``.

Writes a checkpoint, its card and its curves. An interrupted run resumes after its last finished epoch.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from converter.data.datasets import Split, find_broken, read_split
from converter.evaluate.accuracy import score
from converter.evaluate.confidence import fit_scaling
from converter.models import model_names
from converter.train.curves import draw_curves
from converter.train.trainer import Trainer, TrainingSettings
from converter.weights.checkpoints import Card, find_checkpoint, save_checkpoint
from device.core.errors import TrainingError, UsageError, exit_with_one_line

CURVES_SUFFIX = ".curves.png"
STATE_SUFFIX = ".state"
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
_BROKEN_SHOWN = 3


def check_photographs(split: Split, console: Console) -> None:
    """Decodes all photographs once, before the hours of training.

    Raises:
        TrainingError: some are broken; names the first few.
    """
    samples = split.train.samples + split.validation.samples
    with Progress(*_COLUMNS, console=console, transient=True) as progress:
        task = progress.add_task("checking photographs", total=len(samples))
        broken = find_broken(samples, lambda: progress.advance(task))
    if not broken:
        return
    shown = "; ".join(f"{path}: {problem}" for path, problem in list(broken.items())[:_BROKEN_SHOWN])
    more = f"; and {len(broken) - _BROKEN_SHOWN} more" if len(broken) > _BROKEN_SHOWN else ""
    raise TrainingError(
        str(split.train.root.parent),
        f"{len(broken)} of {len(samples)} photographs can't be decoded ({shown}{more})",
        expected="whole images",
        remedy="repair or delete them",
        reason="broken_images",
    )


def run(trainer: Trainer, out: Path, data_title: str, console: Console) -> Card:
    """Trains to the end, and writes the checkpoint with its card and its curves."""
    settings = trainer.settings
    with Progress(*_COLUMNS, console=console) as progress:
        total = settings.epochs * trainer.steps_an_epoch
        task = progress.add_task("training", total=total, completed=trainer.epochs_done * trainer.steps_an_epoch)
        while trainer.epochs_done < settings.epochs:
            started_s = time.monotonic()
            for _ in trainer.train_epoch():
                progress.advance(task)
            console.print(_describe_epoch(trainer, time.monotonic() - started_s))
            draw_curves(trainer.history, f"{settings.model} on {data_title}", curves_path(out))
    card = make_card(trainer, data_title)
    save_checkpoint(out, trainer.average.model, card)
    trainer.state_path.unlink(missing_ok=True)
    return card


def curves_path(out: Path) -> Path:
    """Gives the path of a run's curves."""
    return out.with_name(out.stem + CURVES_SUFFIX)


def _describe_epoch(trainer: Trainer, seconds: float) -> str:
    epoch = trainer.history[-1]
    noise = "" if epoch.noise_db is None else f"  int8 noise {epoch.noise_db:.1f} dB"
    return (
        f"epoch {epoch.epoch:3d}/{trainer.settings.epochs}  {epoch.input_px} px  loss {epoch.loss:.3f}{noise}  "
        f"top-1 {epoch.top1:6.1%}  macro {epoch.macro_top1:6.1%}  {seconds:.0f} s"
    )


def make_card(trainer: Trainer, data_title: str) -> Card:
    """Makes the card of the weights, with their accuracy on the validation split."""
    logits, labels = trainer.validation_logits(), trainer.validation_labels()
    found = score(logits, labels)
    scaling = fit_scaling(logits, labels)
    return Card(
        model=trainer.settings.model,
        labels=trainer.train_set.classes,
        preprocessing=trainer.spec,
        data=data_title,
        command="python -m converter.train " + " ".join(_flags(trainer)),
        validation_images=found.images,
        top1=round(found.top1, 4),
        top5=round(found.top5, 4),
        macro_top1=round(found.macro_top1, 4),
        temperature=scaling.temperature,
        expected_calibration_error=scaling.expected_calibration_error,
        versions={"torch": str(torch.__version__)},
    )


def _flags(trainer: Trainer) -> list[str]:
    chosen, usual = msgspec.to_builtins(trainer.settings), msgspec.to_builtins(TrainingSettings())
    files = {"--start": trainer.start, "--teacher": trainer.teacher_path}
    given = ["--data DIR"] + [f"{flag} {path.name}" for flag, path in files.items() if path is not None]
    return given + [f"--{key.replace('_', '-')} {chosen[key]}" for key in chosen if chosen[key] != usual[key]]


def build_parser() -> argparse.ArgumentParser:
    """The command's flags; one for every field of `TrainingSettings`."""
    parser = argparse.ArgumentParser(prog="python -m converter.train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train/<class>/ and validation/<class>/")
    parser.add_argument("--data-title", default="", help="what the photographs are, for the card (default: DIR's name)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="checkpoint to write (default: build/weights/MODEL.DATA.safetensors)"
    )
    parser.add_argument(
        "--start",
        metavar="NAME|FILE",
        help="weights to start from, as --weights of converter (default: from scratch)",
    )
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="checkpoint of the same classes to learn from")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that prepare images (default: 1)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: cuda where there is one)")
    for field in msgspec.structs.fields(TrainingSettings):
        choices = model_names() if field.name == "model" else None
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.type,
            default=field.default,
            choices=choices,
            help=f"(default: {field.default})",
        )
    return parser


def choose_device(name: str) -> str:
    """Resolves ``auto``.

    Raises:
        UsageError: ``cuda`` is not available.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UsageError("--device", "torch finds no CUDA device here", expected="cpu or auto", reason="device")
    return ("cuda" if has_cuda else "cpu") if name == "auto" else name


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, trains, prints the card's figures."""
    flags = build_parser().parse_args(arguments)
    settings = TrainingSettings(
        **{field.name: getattr(flags, field.name) for field in msgspec.structs.fields(TrainingSettings)}
    )
    out: Path = flags.out or Path("build/weights") / f"{settings.model}.{flags.data.resolve().name}.safetensors"
    console = Console()
    split = read_split(flags.data, settings.hold_out)
    check_photographs(split, console)
    trainer = Trainer(
        split,
        settings,
        out.with_suffix(STATE_SUFFIX),
        start=find_checkpoint(settings.model, flags.start) if flags.start else None,
        teacher=flags.teacher,
        workers=flags.workers,
        device=choose_device(flags.device),
    )
    trainer.resume()
    console.print(
        f"{settings.model} on {trainer.device}: {len(split.train.samples)} photographs to train on, "
        f"{len(split.validation.samples)} to validate, {len(split.train.classes)} classes; "
        f"epoch {trainer.epochs_done} of {settings.epochs}"
    )
    card = run(trainer, out, flags.data_title or flags.data.resolve().name, console)
    console.print(f"{out}: top-1 {card.top1:.1%}, macro {card.macro_top1:.1%} on {card.validation_images} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
