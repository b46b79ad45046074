"""Converts a network's output to ranked classes. Pure functions."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


class Ranking(NamedTuple):
    """The best classes, best first: indices, and softmax scores from 0 to 1."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]


def softmax(logits: NDArray[Real], temperature: float = 1.0) -> NDArray[Real]:
    """Computes scores from 0 to 1 that sum to 1 over the last axis.

    Args:
        logits: ``(..., C)``.
        temperature: divisor of the logits; above 1, the scores become more even. The order never changes.
    """
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    shares: NDArray[Real] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def rank(logits: NDArray[np.float32], count: int, temperature: float = 1.0) -> Ranking:
    """Ranks the best classes by softmax score; equal scores keep the order of their indices.

    Args:
        logits: ``(C,)`` float32.
        count: maximum number of classes.
        temperature: temperature of the weights, see `softmax`.
    """
    scores = softmax(logits, temperature)
    order = np.argsort(-logits, kind="stable")[:count]
    return Ranking(tuple(order.tolist()), tuple(scores[order].tolist()))


def is_unknown(ranking: Ranking, unknown_below: float | None) -> bool:
    """Whether the best class is too uncertain to be named.

    Args:
        ranking: from `rank`.
        unknown_below: minimum score for naming a class; None always names one.

    References:
        Hendrycks & Gimpel, ICLR 2017 (arXiv 1610.02136): the highest softmax score as an indicator of unknown inputs.
    """
    return unknown_below is not None and not ranking.scores[0] >= unknown_below  # the negation makes NaN unknown, too
