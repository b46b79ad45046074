"""Accuracy over a labelled set, each share with its 95 % confidence interval.

Training, evaluation, the converter and its report all compute these figures here. It needs numpy, but no torch.

References:
    Interval of a share: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927),
    209–212. Of a weighted sum of shares (the mean over classes): Zou, Huang & Zhang, "A note on confidence interval estimation
    for a linear function of binomial proportions", Computational Statistics & Data Analysis 53 (2009), 1080–1085. Of the
    difference of two shares on the same images: Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998), 2635–2650, method 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Images or frames, channels-last, RGB."""

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

Classifier = Callable[[Pixels], Logits]
"""A network that maps ``(N, S, S, 3)`` uint8, RGB, to ``(N, C)`` float32."""

TOP_K = 5

_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution, for a two-sided interval of 95 %."""


class ConfidenceInterval(msgspec.Struct, frozen=True):
    """A 95 % confidence interval, in the unit of the figure that it belongs to."""

    low: float
    high: float


class Score(msgspec.Struct, frozen=True):
    """Accuracy over a labelled set; all figures are shares from 0 to 1.

    Attributes:
        images: number of images.
        top1: share of images whose right class came first.
        top5: share of images whose right class was among the first `TOP_K`, or among all if the network has fewer.
        macro_top1: mean top-1 of the classes that are in the set.
        top1_interval: by Wilson.
        top5_interval: by Wilson.
        macro_top1_interval: by Zou, Huang and Zhang, from the classes' Wilson intervals.
    """

    images: int
    top1: float
    top5: float
    macro_top1: float
    top1_interval: ConfidenceInterval
    top5_interval: ConfidenceInterval
    macro_top1_interval: ConfidenceInterval


class Change(msgspec.Struct, frozen=True):
    """The difference in top-1 of two networks on the same images.

    Overlapping intervals of the two say little about it: since the images are the same, only those count on which one network
    is right and the other wrong.

    Attributes:
        top1: top-1 of the second network less that of the first; negative is a loss.
        interval: by Newcombe's method 10.
        lost_images: number of images that only the first names right.
        gained_images: number of images that only the second names right.
    """

    top1: float
    interval: ConfidenceInterval
    lost_images: int
    gained_images: int


def wilson_interval(hits: int, images: int) -> ConfidenceInterval:
    """Computes the interval of the share ``hits / images``: within 0..1, and never empty, even if all or none are hits.

    Raises:
        ValueError: no images, or more hits than images.
    """
    if not 0 <= hits <= images or images == 0:
        raise ValueError(f"{hits} hits of {images} images: expected 0 <= hits <= images, and an image at least")
    share, spread = hits / images, _Z * _Z / images
    centre = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    # The bounds are exactly 0 and 1 at the ends; rounding would leave them slightly off.
    return ConfidenceInterval(centre - reach if hits else 0.0, centre + reach if hits < images else 1.0)


def score(logits: Logits, labels: Labels) -> Score:
    """Computes top-1, top-5 and class-averaged top-1.

    Args:
        logits: ``(N, C)`` float32, N at least 1. Of equal logits the first class wins, as on the board.
        labels: ``(N,)`` int64, each below C.

    Raises:
        ValueError: the shapes don't match.
    """
    _check(logits, labels)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
    hits = order[:, 0] == labels
    among = (order == labels[:, None]).any(axis=1)
    macro, macro_interval = _mean_over_classes(hits, labels)
    images = len(labels)
    return Score(
        images=images,
        top1=float(hits.mean()),
        top5=float(among.mean()),
        macro_top1=macro,
        top1_interval=wilson_interval(int(hits.sum()), images),
        top5_interval=wilson_interval(int(among.sum()), images),
        macro_top1_interval=macro_interval,
    )


def change(logits: Logits, reference: Logits, labels: Labels) -> Change:
    """Computes how a network's top-1 differs from that of a reference.

    Args:
        logits: ``(N, C)`` float32.
        reference: ``(N, C)`` float32, of the same images.
        labels: ``(N,)`` int64.

    Raises:
        ValueError: the shapes don't match.
    """
    _check(logits, labels)
    _check(reference, labels)
    found, before = logits.argmax(axis=1) == labels, reference.argmax(axis=1) == labels
    lost, gained = int((before & ~found).sum()), int((found & ~before).sum())
    interval = _paired_interval(int((found & before).sum()), gained, lost, int((~found & ~before).sum()))
    return Change((gained - lost) / len(labels), interval, lost, gained)


def confusion(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """Computes the confusion matrix: ``(C, C)`` int64, a row for each right class, a column for each named one.

    Args:
        logits: ``(N, C)`` float32.
        labels: ``(N,)`` int64.

    Raises:
        ValueError: the shapes don't match.
    """
    _check(logits, labels)
    matrix = np.zeros((logits.shape[1],) * 2, np.int64)
    np.add.at(matrix, (labels, logits.argmax(axis=1)), 1)
    return matrix


def _mean_over_classes(hits: NDArray[np.bool_], labels: Labels) -> tuple[float, ConfidenceInterval]:
    classes = [hits[labels == index] for index in np.unique(labels)]
    shares = np.array([float(of_class.mean()) for of_class in classes])
    intervals = [wilson_interval(int(of_class.sum()), len(of_class)) for of_class in classes]
    below = shares - np.array([interval.low for interval in intervals])
    above = np.array([interval.high for interval in intervals]) - shares
    mean = float(shares.mean())
    return mean, ConfidenceInterval(
        mean - float(np.linalg.norm(below)) / len(classes), min(1.0, mean + float(np.linalg.norm(above)) / len(classes))
    )


def _paired_interval(both: int, gained: int, lost: int, neither: int) -> ConfidenceInterval:
    images = both + gained + lost + neither
    found, before = both + gained, both + lost
    found_interval, before_interval = wilson_interval(found, images), wilson_interval(before, images)
    below = found / images - found_interval.low, before_interval.high - before / images
    above = found_interval.high - found / images, before / images - before_interval.low
    correlation = _correlation(both, gained, lost, neither)
    difference = (found - before) / images

    def combine(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    return ConfidenceInterval(difference - combine(*below), difference + combine(*above))


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Correlation of two networks' hits, with Newcombe's continuity correction; 0 if one is always or never right."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - gained * lost)
    if product > 0:
        product = max(product - (both + gained + lost + neither) / 2, 0.0)
    return product / math.sqrt(margins)


def _check(logits: Logits, labels: Labels) -> None:
    if logits.ndim != 2 or labels.shape != (len(logits),) or not len(labels):
        raise ValueError(f"logits {logits.shape}, labels {labels.shape}; expected (N, C) and (N,), N at least 1")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {logits.shape[1] - 1}")
