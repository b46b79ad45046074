"""From a network's output to labels: pure functions."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from device.contract import TensorSpec

Real = TypeVar("Real", np.float32, np.float64)


class Ranking(NamedTuple):
    """The best classes, best first: indices, and softmax scores from 0 to 1."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]


def dequantise(output: NDArray[np.generic], spec: TensorSpec) -> NDArray[np.float32]:
    """Real scores of a session's output.

    Args:
        output: ``(1, C)`` of ``spec.dtype``.
        spec: the session's output.

    Returns:
        ``(C,)`` float32, a copy.
    """
    real: NDArray[np.float32] = output[0].astype(np.float32)
    if spec.scale != 1.0 or spec.zero_point != 0:
        real = (real - np.float32(spec.zero_point)) * np.float32(spec.scale)
    return real


def softmax(logits: NDArray[Real], temperature: float = 1.0) -> NDArray[Real]:
    """Scores from 0 to 1 that sum to 1 over the last axis.

    Args:
        logits: ``(..., C)``.
        temperature: that they are divided by; above 1 the scores come nearer to each other. The order never changes.
    """
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    shares: NDArray[Real] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def rank(logits: NDArray[np.float32], count: int, temperature: float = 1.0) -> Ranking:
    """Softmax, then the best classes; equal scores keep the order of their indices.

    Args:
        logits: ``(C,)`` float32.
        count: how many classes, at most.
        temperature: see `softmax`; the weights' own.
    """
    scores = softmax(logits, temperature)
    order = np.argsort(-logits, kind="stable")[:count]
    return Ranking(tuple(order.tolist()), tuple(scores[order].tolist()))


def is_unknown(ranking: Ranking, unknown_below: float | None) -> bool:
    """Whether the best class is too unsure to be named.

    Args:
        ranking: from `rank`.
        unknown_below: the least score that names a class; None names one always.

    References:
        The highest softmax score as the sign of what a network doesn't know: Hendrycks & Gimpel, ICLR 2017 (arXiv 1610.02136).
    """
    return unknown_below is not None and not ranking.scores[0] >= unknown_below  # so that NaN is unknown, too
