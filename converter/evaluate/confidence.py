"""``python -m converter.evaluate.confidence --data DIR``: fits a temperature to scores, and shows what a threshold costs.

A temperature scales the confidence of a network: of the images with a score of 0.8, eight in ten are then right. A threshold
can then decide which images are not named at all. The functions need numpy, but no torch; only the command loads a network.

References:
    * temperature, reliability, expected calibration error: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
      (arXiv 1706.04599).
    * targets short of certainty, since a few images that are all right don't prove certainty: Platt, "Probabilistic outputs for
      support vector machines", Advances in Large Margin Classifiers (1999), section 2.2.
    * the error by chance on a number of images: Vaicenavicius et al., "Evaluating model calibration in
      classification", AISTATS 2019 (arXiv 1902.06977).
    * rejection by the highest score: Hendrycks & Gimpel, ICLR 2017 (arXiv 1610.02136).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.evaluate.accuracy import Classifier, ConfidenceInterval, Labels, Logits, Pixels, wilson_interval
from device.contract import Preprocessing
from device.core.errors import ConversionError, exit_with_one_line
from device.image.postprocess import softmax

Confidences = NDArray[np.float32] | NDArray[np.float64]
Hits = NDArray[np.bool_]

BINS = 15
"""Number of bins of equal width; as in the paper."""

FOLDS = 5
"""Number of folds of the cross-validation: each temperature is fitted on four fifths of the images."""

THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

BATCH_IMAGES = 32
FLAT_FRAMES = NOISE_FRAMES = 16

_LOWEST, _HIGHEST = 0.01, 100.0
_HALVINGS = 50  # of the logarithm of that range: more exact than the places that a card keeps


class TemperatureScaling(msgspec.Struct, frozen=True):
    """Figures for the card of the weights, rounded as in the card.

    Attributes:
        temperature: fitted on all images.
        expected_calibration_error: by temperatures that were fitted on other images, see `cross_validate`; None for one image.
    """

    temperature: float
    expected_calibration_error: float | None


class ReliabilityBin(msgspec.Struct, frozen=True):
    """The images whose confidence is above ``low`` and at most ``high``.

    Attributes:
        low: 0 in the first bin, which includes 0.
        high: 1 in the last bin.
        images: number of images.
        confidence: their mean confidence; None if there are none.
        accuracy: share of them that is right; None if there are none.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class TradeOff(msgspec.Struct, frozen=True):
    """The effect of a threshold.

    Attributes:
        unknown_below: the threshold, as a profile's ``model.unknown_below``.
        kept: share of the labelled images that are still named.
        accuracy: share of those that is right; None if none is named.
        accuracy_interval: by Wilson, 95 %.
        others: kind -> share of the frames without any class that are still named, each of them wrongly.
    """

    unknown_below: float
    kept: float
    accuracy: float | None
    accuracy_interval: ConfidenceInterval | None
    others: dict[str, float]


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Fits the temperature that minimises the negative log-likelihood of the labels.

    With N images, the target of the right class is 1 - 1 / (N + 2), and the other classes share the rest (Platt). With a target
    of 1, a set without mistakes would have no minimum.

    Args:
        logits: ``(N, C)`` float32.
        labels: ``(N,)`` int64, each below C.

    Returns:
        From 0.01 to 100; the latter for a network that is worse than chance. 1 if all logits of each image are equal, or there
        is one class, since any temperature would do.

    Raises:
        ValueError: the shapes don't match, or a logit isn't finite.
    """
    _check(logits, labels)
    images, classes = logits.shape
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    if not centred.any():
        return 1.0
    own = centred[np.arange(images), labels]
    others = (centred.sum(axis=1) - own) / (classes - 1)
    doubt = 1.0 / (images + 2)
    wanted = float(((1.0 - doubt) * own + doubt * others).mean())
    # The likelihood is concave in 1 / temperature, so its slope (the mean logit of the targets less that of the scores) has one
    # root.
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = float((softmax(centred, math.exp(middle)) * centred).sum(axis=1).mean())
        low, high = (middle, high) if expected > wanted else (low, middle)
    return math.exp((low + high) / 2)


def reliability(confidences: Confidences, hits: Hits, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Computes how often images of each confidence are right.

    Args:
        confidences: ``(N,)``: the highest score of each image, from 0 to 1.
        hits: ``(N,)`` bool: whether its class is right.
        bins: number of bins of equal width.

    Returns:
        All bins, in order.
    """
    index = np.clip(np.ceil(confidences.astype(np.float64) * bins) - 1, 0, bins - 1)
    return tuple(_fill_bin(confidences[index == one], hits[index == one], one / bins, (one + 1) / bins) for one in range(bins))


def _fill_bin(confidences: Confidences, hits: Hits, low: float, high: float) -> ReliabilityBin:
    if not len(hits):
        return ReliabilityBin(low, high, 0, None, None)
    return ReliabilityBin(low, high, len(hits), float(confidences.mean(dtype=np.float64)), float(hits.mean()))


def expected_calibration_error(confidences: Confidences, hits: Hits, bins: int = BINS) -> float:
    """Computes the mean distance of confidence and accuracy over the bins, weighted by their images; from 0 to 1.

    The arguments are those of `reliability`.
    """
    gaps = [
        one.images * abs(one.accuracy - one.confidence)
        for one in reliability(confidences, hits, bins)
        if one.accuracy is not None and one.confidence is not None
    ]
    return sum(gaps) / len(hits)


def chance_error(confidences: Confidences, bins: int = BINS, repeats: int = 200) -> float:
    """Estimates the mean expected calibration error of a perfectly calibrated network on the same number of images.

    In a bin with few images, accuracy differs from confidence by chance. A measured error is significant only above this one.

    Args:
        confidences: ``(N,)``.
        bins: number of bins, as for the measured error.
        repeats: how often hits are drawn by the confidences; the draws are always the same.
    """
    rng = np.random.default_rng(0)
    draws = (rng.random(len(confidences)) < confidences for _ in range(repeats))
    return float(np.mean([expected_calibration_error(confidences, hits, bins) for hits in draws]))


def cross_validate(logits: Logits, labels: Labels, folds: int = FOLDS) -> NDArray[np.float64]:
    """Computes confidences by temperatures that were fitted on other images.

    A temperature is better on the images that it was fitted on than on others. So each fold, with its share of every class, is
    scored with the temperature of the other folds.

    Args:
        logits: ``(N, C)`` float32, N at least 2.
        labels: ``(N,)`` int64.
        folds: number of folds, at most the number of images.

    Returns:
        ``(N,)`` float64, from 0 to 1.
    """
    _check(logits, labels)
    folds = min(folds, len(labels))
    fold_of = np.empty(len(labels), np.int64)
    fold_of[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % folds
    confidences = np.empty(len(labels), np.float64)
    for fold in range(folds):
        held_out = fold_of == fold
        temperature = fit_temperature(logits[~held_out], labels[~held_out])
        confidences[held_out] = softmax(logits[held_out], temperature).max(axis=1)
    return confidences


def fit_scaling(logits: Logits, labels: Labels) -> TemperatureScaling:
    """Fits the temperature of weights, and measures its calibration error, for their card.

    Args:
        logits: ``(N, C)`` float32, of images that the network wasn't trained on.
        labels: ``(N,)`` int64.
    """
    temperature = round(fit_temperature(logits, labels), 4)
    if len(labels) < 2:
        return TemperatureScaling(temperature, None)
    error = expected_calibration_error(cross_validate(logits, labels), logits.argmax(axis=1) == labels)
    return TemperatureScaling(temperature, round(error, 4))


def trade_off(confidences: Confidences, hits: Hits, unknown_below: float, others: dict[str, Confidences]) -> TradeOff:
    """Computes what is still named if confidences below ``unknown_below`` are not, and how much of that is right.

    Args:
        confidences: ``(N,)``, N at least 1.
        hits: ``(N,)`` bool.
        unknown_below: the threshold.
        others: kind -> confidences of frames without any of the classes.
    """
    named = confidences >= unknown_below
    images, right = int(named.sum()), int(hits[named].sum())
    return TradeOff(
        unknown_below,
        images / len(hits),
        right / images if images else None,
        wilson_interval(right, images) if images else None,
        {kind: float((found >= unknown_below).mean()) for kind, found in others.items()},
    )


def _check(logits: Logits, labels: Labels) -> None:
    if logits.ndim != 2 or labels.shape != (len(logits),) or not len(labels):
        raise ValueError(f"logits {logits.shape}, labels {labels.shape}; expected (N, C) and (N,), N at least 1")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {logits.shape[1] - 1}")
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")


# --- the command ------------------------------------------------------------------------------------------------------


class ConfidenceReport(msgspec.Struct, frozen=True):
    """The output of ``--json``.

    Attributes:
        model: variant.
        weights: as named on the command line.
        images: number of labelled images.
        temperature: in the card; boards use it.
        fitted_temperature: fitted to these images; the same as in the card if it was fitted to these images.
        error_before: expected calibration error with temperature 1.
        error: expected calibration error with the card's temperature.
        error_cross_validated: with fitted temperatures, see `cross_validate`; None for a single image.
        error_by_chance: see `chance_error`, with the card's temperature.
        trade_offs: with the card's temperature.
        reliability: with the card's temperature.
    """

    model: str
    weights: str
    images: int
    temperature: float
    fitted_temperature: float
    error_before: float
    error: float
    error_cross_validated: float | None
    error_by_chance: float
    trade_offs: tuple[TradeOff, ...]
    reliability: tuple[ReliabilityBin, ...]


def compute_logits(network: Classifier, frames: Iterable[Pixels], advance: Callable[[int], None]) -> Logits:
    """Runs a network on frames, a batch at a time, so that any number of them fits into memory.

    Args:
        network: ``(N, S, S, 3)`` uint8, RGB, to ``(N, C)`` float32.
        frames: each ``(S, S, 3)`` uint8, RGB.
        advance: called with the number of frames after each batch.
    """
    rows: list[Logits] = []
    frames = iter(frames)
    while batch := list(itertools.islice(frames, BATCH_IMAGES)):
        rows.append(network(np.stack(batch)))
        advance(len(batch))
    return np.concatenate(rows)


def flat_frames(px: int) -> Iterator[Pixels]:
    """Makes frames of a wall or a lens cap: greys from black to white, with sensor noise."""
    rng = np.random.default_rng(0)
    for level in np.linspace(0, 255, FLAT_FRAMES):
        yield np.clip(rng.normal(level, 3.0, (px, px, 3)), 0, 255).astype(np.uint8)


def noise_frames(px: int) -> Iterator[Pixels]:
    """Makes frames of random pixels."""
    rng = np.random.default_rng(0)
    for _ in range(NOISE_FRAMES):
        yield rng.integers(0, 256, (px, px, 3), np.uint8)


def blur(frame: Pixels) -> Pixels:
    """Blurs a frame by a Gaussian of a tenth of its side, so that nothing can be recognised."""
    import cv2

    return np.asarray(cv2.GaussianBlur(frame, (0, 0), frame.shape[0] / 10), np.uint8)


def measure(
    network: Classifier, spec: Preprocessing, photographs: dict[Path, int], others: list[Path], advance: Callable[[int], None]
) -> tuple[Logits, Labels, dict[str, Logits]]:
    """Computes logits and labels of labelled photographs, and logits of frames without any of the classes, by kind.

    Args:
        network: see `compute_logits`.
        spec: preprocessing of the weights.
        photographs: path -> class.
        others: photographs of other things; may be empty.
        advance: called with the number of frames after each batch.
    """
    from device.image.opencv import decode_image
    from device.image.preprocess import fit_frame

    def read(paths: Iterable[Path]) -> Iterator[Pixels]:
        return (fit_frame(decode_image(path), spec) for path in paths)

    kinds: dict[str, Iterable[Pixels]] = {"others": read(others)} if others else {}
    kinds |= {
        "flat": flat_frames(spec.input_px),
        "noise": noise_frames(spec.input_px),
        "blurred": map(blur, read(photographs)),
    }
    logits = compute_logits(network, read(photographs), advance)
    labels = np.asarray(list(photographs.values()), np.int64)
    return logits, labels, {kind: compute_logits(network, frames, advance) for kind, frames in kinds.items()}


def report(
    model: str, weights: str, temperature: float, logits: Logits, labels: Labels, others: dict[str, Logits]
) -> ConfidenceReport:
    """Computes all figures of a `ConfidenceReport`."""
    hits = logits.argmax(axis=1) == labels
    confidences = softmax(logits, temperature).max(axis=1)
    foreign: dict[str, Confidences] = {kind: softmax(found, temperature).max(axis=1) for kind, found in others.items()}
    return ConfidenceReport(
        model=model,
        weights=weights,
        images=len(labels),
        temperature=temperature,
        fitted_temperature=round(fit_temperature(logits, labels), 4),
        error_before=expected_calibration_error(softmax(logits).max(axis=1), hits),
        error=expected_calibration_error(confidences, hits),
        error_cross_validated=fit_scaling(logits, labels).expected_calibration_error,
        error_by_chance=chance_error(confidences),
        trade_offs=tuple(trade_off(confidences, hits, threshold, foreign) for threshold in THRESHOLDS),
        reliability=reliability(confidences, hits),
    )


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m converter.evaluate.confidence",
        description="Shows how well scores match the accuracy, and what each threshold for 'unknown' keeps and costs.",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="labelled photographs: DIR/<class>/*, DIR/validation/<class>/*"
    )
    parser.add_argument("--others", type=Path, metavar="DIR", help="photographs of other things, which should not be named")
    parser.add_argument("--model", default="ghostnet_100", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--weights", default="clothing", metavar="NAME|PATH", help="a shipped checkpoint, or a file (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def print_report(found: ConfidenceReport) -> None:
    """Prints the figures and the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    validated = found.error_cross_validated
    console.print(f"{found.model} {found.weights}, {found.images} photographs")
    console.print(f"temperature   {found.temperature:.3f} in the card, {found.fitted_temperature:.3f} fits these photographs")
    console.print(
        f"calibration   error {found.error:.1%} by the card's temperature, {found.error_before:.1%} without; "
        + ("" if validated is None else f"{validated:.1%} fitted and cross-validated here; ")
        + f"{found.error_by_chance:.1%} would be chance"
    )
    table = Table("unknown below", "kept", box=None, header_style="bold")
    table.add_column("right of those (95 %)", no_wrap=True)
    for kind in found.trade_offs[0].others:
        table.add_column(f"{kind} named", justify="right")
    for row in found.trade_offs:
        interval = row.accuracy_interval
        right = "–"
        if row.accuracy is not None and interval is not None:
            right = f"{row.accuracy:.1%} ({100 * interval.low:.1f}–{100 * interval.high:.1f})"
        table.add_row(f"{row.unknown_below:g}", f"{row.kept:.1%}", right, *(f"{share:.0%}" for share in row.others.values()))
    console.print(table)
    console.print("flat: walls, a lens cap; noise: pixels at random; blurred: the photographs, out of focus", style="dim")


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, runs the network, prints."""
    flags = build_parser().parse_args(arguments)
    # Imported here, since the functions above are used without torch.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from converter.data.datasets import list_images
    from converter.evaluate.__main__ import find_folder, run_eager
    from converter.weights.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(flags.model, flags.weights)
    card = checkpoint.card
    folder = find_folder(flags.data, card.labels)
    others = [] if flags.others is None else list_images(flags.others)
    if flags.others is not None and not others:
        raise ConversionError(str(flags.others), "holds no photographs", expected="JPEG, PNG, ... files", reason="empty")
    total = 2 * len(folder.samples) + len(others) + FLAT_FRAMES + NOISE_FRAMES
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("frames", total=total)
        logits, labels, foreign = measure(
            run_eager(checkpoint.model, card.preprocessing),
            card.preprocessing,
            {sample.path: sample.label for sample in folder.samples},
            others,
            lambda count: progress.advance(task, count),
        )
    found = report(flags.model, flags.weights, card.temperature, logits, labels, foreign)
    if flags.json:
        print(msgspec.json.encode(found).decode())
    else:
        print_report(found)
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
