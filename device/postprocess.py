"""From a network's output to labels: pure functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device.contract import TensorSpec


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


def rank(logits: NDArray[np.float32], count: int) -> Ranking:
    """Softmax, then the best classes; equal scores keep the order of their indices.

    Args:
        logits: ``(C,)`` float32.
        count: how many classes, at most.
    """
    weights = np.exp(logits - logits.max())
    scores = weights / weights.sum()
    order = np.argsort(-logits, kind="stable")[:count]
    return Ranking(tuple(order.tolist()), tuple(scores[order].tolist()))
