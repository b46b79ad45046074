"""Accuracy on a labelled folder: ``python -m converter.evaluate --data DIR --bundle build/host``.

Eager fp32 comes from the checkpoint that the bundle was converted from, the artefacts from the bundle. Both run with the
board's preprocessing, and the artefacts with its runtimes, so the figures are those of the board.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from converter.data.datasets import VALIDATION_NAMES, LabelledFolder, LabelledImage, find_split, read_labelled_folder
from converter.evaluate.accuracy import Change, Classifier, ConfidenceInterval, Labels, Logits, Pixels, Score, change, score
from converter.evaluate.verify import open_artefact
from converter.models import model_names
from converter.weights.checkpoints import Checkpoint, load_checkpoint
from device.bundle import Bundle, open_bundle
from device.contract import Preprocessing
from device.contract.tensor import dequantise
from device.core.errors import BundleError, SourceError, TrainingError, UsageError, exit_with_one_line, nearest
from device.image.opencv import decode_image
from device.image.preprocess import fit_frame
from device.protocols import Session

SPLIT_NAMES = (*VALIDATION_NAMES, "test")
BATCH_IMAGES = 16
EAGER = "eager"


class EvaluatedForm(msgspec.Struct, frozen=True):
    """Accuracy of one form of the network.

    Attributes:
        name: ``eager``, or the runtime of an artefact.
        file: of the checkpoint or the artefact.
        score: on all images.
        same_as_eager: share of images on which it names the same class as eager fp32; None for eager itself.
        change: of its top-1 against eager's; None for eager itself.
    """

    name: str
    file: str
    score: Score
    same_as_eager: float | None = None
    change: Change | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """The result of an evaluation.

    Attributes:
        data: the folder with the class folders.
        classes: number of the network's classes that are in it.
        num_classes: number of classes that the network knows.
        model: variant.
        weights: as the user or the bundle names them.
        weights_sha256: of the checkpoint file.
        preprocessing: of the images.
        manifest_sha256: of the bundle; None without one.
        card_top1: top-1 in the card of the weights.
        card_images: number of images that it was measured on.
        published_by: who published it; empty if this project measured it.
        damaged: image files that can't be decoded and were left out.
        results: eager first.
    """

    data: str
    classes: int
    num_classes: int
    model: str
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    manifest_sha256: str | None
    card_top1: float
    card_images: int
    published_by: str
    damaged: tuple[str, ...]
    results: tuple[EvaluatedForm, ...]


class Measured(msgspec.Struct, frozen=True):
    """Logits of every form of a network on the same images.

    Attributes:
        logits: name -> ``(N, C)`` float32.
        labels: ``(N,)`` int64.
        damaged: image files that were left out.
    """

    logits: dict[str, Logits]
    labels: Labels
    damaged: tuple[str, ...]


def find_folder(root: Path, labels: tuple[str, ...]) -> LabelledFolder:
    """Lists the class folders of a labelled folder, or of the validation or test split in it.

    Args:
        root: the user's folder.
        labels: of the network; a class may have the name of a split.

    Raises:
        TrainingError: no such folder, no images, or a class that the network doesn't know.
    """
    split = find_split(root, tuple(name for name in SPLIT_NAMES if name not in labels))
    return read_labelled_folder(split or root, labels)


def run_eager(model: nn.Module, spec: Preprocessing) -> Classifier:
    """Gives the network as it was trained, in fp32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))

    @torch.inference_mode()
    def run(pixels: Pixels) -> Logits:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
        return np.asarray(model((images - mean) / std).numpy(), np.float32)

    return run


def run_session(session: Session) -> Classifier:
    """Gives an artefact as the board runs it."""
    return lambda pixels: np.stack([dequantise(session.run(image[None]), session.output) for image in pixels])


def open_networks(
    stack: ExitStack, checkpoint: Checkpoint, bundle: Bundle | None, spec: Preprocessing
) -> dict[str, Classifier]:
    """Opens eager fp32 and every artefact of a bundle. The stack closes the sessions."""
    networks = {EAGER: run_eager(checkpoint.model, spec)}
    for artefact in bundle.manifest.artefacts if bundle else ():
        path = bundle.path(artefact.file) if bundle else Path(artefact.file)
        networks[artefact.runtime] = run_session(stack.enter_context(open_artefact(artefact.runtime, path, artefact)))
    return networks


def measure(
    networks: dict[str, Classifier], samples: tuple[LabelledImage, ...], spec: Preprocessing, advance: Callable[[int], None]
) -> Measured:
    """Runs every network on every image.

    Args:
        networks: by name.
        samples: images to run them on.
        spec: how to fit an image.
        advance: called with the number of images after each batch.

    Raises:
        TrainingError: no image could be decoded.
    """
    rows: dict[str, list[Logits]] = {name: [] for name in networks}
    labels: list[int] = []
    damaged: list[str] = []
    for start in range(0, len(samples), BATCH_IMAGES):
        batch = samples[start : start + BATCH_IMAGES]
        images = list(_decode(batch, spec, damaged))
        if images:
            pixels = np.stack([pixels for pixels, _ in images])
            labels += [label for _, label in images]
            for name, network in networks.items():
                rows[name].append(network(pixels))
        advance(len(batch))
    if not labels:
        raise TrainingError(damaged[0], "can't be decoded, like all other images here", reason="broken_image")
    return Measured({name: np.concatenate(found) for name, found in rows.items()}, np.asarray(labels, np.int64), tuple(damaged))


def _decode(batch: tuple[LabelledImage, ...], spec: Preprocessing, damaged: list[str]) -> Iterator[tuple[Pixels, int]]:
    for sample in batch:
        try:
            yield fit_frame(decode_image(sample.path), spec), sample.label
        except SourceError:
            damaged.append(str(sample.path))


def judge(measured: Measured, files: dict[str, str]) -> tuple[EvaluatedForm, ...]:
    """Scores every network, and compares each artefact with eager fp32."""
    eager = measured.logits[EAGER]
    results = []
    for name, logits in measured.logits.items():
        result = EvaluatedForm(name, files[name], score(logits, measured.labels))
        if name != EAGER:
            same = float((logits.argmax(axis=1) == eager.argmax(axis=1)).mean())
            result = msgspec.structs.replace(result, same_as_eager=same, change=change(logits, eager, measured.labels))
        results.append(result)
    return tuple(results)


def load_for_bundle(bundle: Bundle, model: str | None, weights: str | None) -> Checkpoint:
    """Loads the checkpoint that a bundle was converted from.

    Args:
        bundle: an open one.
        model: variant that the user expects, if any.
        weights: where the checkpoint is, if it isn't where the bundle says.

    Raises:
        UsageError: the bundle is of another variant.
        BundleError: ``mismatch`` if the checkpoint isn't the one that the bundle was converted from, ``labels`` if its labels
            differ.
        ConversionError: the checkpoint can't be found or read.
    """
    card = bundle.manifest.model
    if model is not None and model != card.name:
        raise UsageError(
            "--model", f"{model!r}, but {bundle.root} holds {card.name}", remedy="leave one of them out", reason="flags"
        )
    checkpoint = load_checkpoint(card.name, weights or bundle.manifest.profile.model.weights)
    if checkpoint.sha256 != card.weights_sha256:
        raise BundleError(
            str(bundle.root),
            f"was converted from weights with sha256 {card.weights_sha256[:12]}...; {checkpoint.path} has another, "
            f"{checkpoint.sha256[:12]}...",
            remedy="convert the bundle again, or pass --weights with the file that it was converted from",
            reason="mismatch",
        )
    if checkpoint.card.labels != bundle.labels:
        raise BundleError(
            str(bundle.root),
            f"has other labels than the card of {checkpoint.path}",
            remedy="convert the bundle again",
            reason="labels",
        )
    return checkpoint


def load(bundle: Bundle | None, model: str | None, weights: str | None) -> Checkpoint:
    """Loads the checkpoint that the flags name.

    Raises:
        UsageError: a flag is missing, or the model is unknown.
    """
    if model is not None and model not in model_names():
        raise UsageError("--model", f"{model!r} is not a model", expected=nearest(model, model_names()), reason="unknown_model")
    if bundle is not None:
        return load_for_bundle(bundle, model, weights)
    if model is None or weights is None:
        raise UsageError(
            "--bundle",
            "is missing",
            expected="--bundle DIR, or --model NAME and --weights NAME|PATH for eager fp32 alone",
            reason="flags",
        )
    return load_checkpoint(model, weights)


def evaluate(data: Path, checkpoint: Checkpoint, bundle: Bundle | None, console: Console) -> Evaluation:
    """Measures a network, and the artefacts of its bundle, on a labelled folder.

    Args:
        data: see `find_folder`.
        checkpoint: of the network.
        bundle: converted from it; None measures only eager fp32.
        console: shows progress, if it is a terminal.
    """
    card = checkpoint.card
    spec = bundle.manifest.model.preprocessing if bundle else card.preprocessing
    folder = find_folder(data, card.labels)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        networks = open_networks(stack, checkpoint, bundle, spec)
        progress = stack.enter_context(Progress(*columns, console=console, transient=True, disable=not console.is_terminal))
        task = progress.add_task("photographs", total=len(folder.samples))
        measured = measure(networks, folder.samples, spec, lambda count: progress.advance(task, count))
    files = {artefact.runtime: artefact.file for artefact in bundle.manifest.artefacts} if bundle else {}
    return Evaluation(
        data=str(folder.root),
        classes=len(np.unique(measured.labels)),
        num_classes=len(card.labels),
        model=card.model,
        weights=checkpoint.name,
        weights_sha256=checkpoint.sha256,
        preprocessing=spec,
        manifest_sha256=bundle.manifest_sha256 if bundle else None,
        card_top1=card.top1,
        card_images=card.validation_images,
        published_by=card.published_by,
        damaged=measured.damaged,
        results=judge(measured, {EAGER: checkpoint.path.name, **files}),
    )


def print_evaluation(console: Console, found: Evaluation) -> None:
    """Prints an evaluation as a table."""
    origin = f"published: {found.published_by}" if found.published_by else "measured"
    images = found.results[0].score.images
    for line in (
        f"data     {found.data}: {images} photographs of {found.classes} of {found.num_classes} classes",
        f"network  {found.model}, weights {found.weights}, {found.preprocessing.input_px} px",
        f"card     top-1 {found.card_top1:.1%} on {found.card_images} photographs ({origin})",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="bold")
    table.add_column(no_wrap=True)
    for heading in ("top-1", "top-5", "macro top-1", "against eager", "as eager"):
        table.add_column(heading)
    for result in found.results:
        marks = result.score
        table.add_row(
            result.name if result.name == EAGER else result.file,
            _format_share(marks.top1, marks.top1_interval),
            _format_share(marks.top5, marks.top5_interval),
            _format_share(marks.macro_top1, marks.macro_top1_interval),
            "" if result.change is None else _format_change(result.change),
            "" if result.same_as_eager is None else f"{result.same_as_eager:.1%}",
        )
    console.print(table)
    console.print("in brackets: 95 % confidence intervals", style="dim")


def _format_share(share: float, interval: ConfidenceInterval) -> str:
    return f"{share:.1%} ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def _format_change(found: Change) -> str:
    low, high = 100 * found.interval.low, 100 * found.interval.high
    return f"{100 * found.top1:+.1f} points ({low:+.1f} to {high:+.1f})"


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m converter.evaluate",
        description="Top-1, top-5 and class-averaged top-1 of a network and its artefacts on a labelled folder.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="DIR/<label>/*, DIR/validation/<label>/*, or val/ or test/; ImageNet's synsets are labels, too",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="bundle whose artefacts to evaluate, with the network that they were converted from",
    )
    parser.add_argument("--model", metavar="NAME", help=f"without a bundle: the variant ({', '.join(model_names())})")
    parser.add_argument(
        "--weights", metavar="NAME|PATH", help="without a bundle: the checkpoint; with one: where its checkpoint is now"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, evaluates, prints."""
    flags = build_parser().parse_args(arguments)
    errors = Console(stderr=True)
    bundle = open_bundle(flags.bundle) if flags.bundle else None
    found = evaluate(flags.data, load(bundle, flags.model, flags.weights), bundle, errors)
    for path in found.damaged:
        errors.print(f"warning: {path}: can't be decoded; left out", highlight=False, soft_wrap=True)
    if flags.json:
        print(msgspec.json.encode(found).decode())
    else:
        print_evaluation(Console(), found)
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
