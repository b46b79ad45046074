"""Activation ranges: the range of each tensor's values, measured on calibration photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converter.quantise.recipes import Recipe

BATCH_IMAGES = 8
"""Calibration images that run at once: enough to hide Python's overhead, few enough for the memory of a small host."""

# Values kept of one tensor of one image: enough that a hundred images show the tails.
_SAMPLES_PER_IMAGE = 2048
_LEVELS = 255
# Shares of the full range that are tried as the clipped range.
_SHARES = tuple(share / 40 for share in range(40, 11, -1))
# Larger powers spare the extremes more than 2, the mean square, does. Chosen by the SQNR of the logits on photographs.
_ERROR_POWER = 2.4


class ActivationRange:
    """Range of one tensor, merged over all calibration images.

    ``min_max`` takes the extremes of all images, not a moving average. ``percentile`` cuts the same share of a sample of the
    values off either side. ``least_error`` scales the full range down to the range with the least mean of
    ``|rounding and clipping error| ** 2.4`` over the sample.

    Args:
        recipe: which of them, and the share to cut off.

    References:
        Clipping by least error: Nagel et al., "A White Paper on Neural Network Quantization" (arXiv 2106.08295), 3.1.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._low = 0.0
        self._high = 0.0
        self._samples: list[NDArray[np.float32]] = []

    def observe(self, values: NDArray[np.float32]) -> None:
        """Adds the values of a tensor on one image or a batch of images; the first axis is the batch."""
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        if self._recipe.clipping != "min_max":
            flat = values.reshape(-1)
            wanted = _SAMPLES_PER_IMAGE * values.shape[0]
            # An odd step reaches every channel of a channels-last tensor, whose number of channels is even.
            step = max(1, flat.size // wanted) | 1
            self._samples.append(flat[::step].copy())

    def limits(self, margin: float = 1.0) -> tuple[float, float]:
        """Gives the range to quantise, times a margin. It includes 0, so that zero padding and ReLU's zero are exact."""
        low, high = self._limits()
        return low * margin, high * margin

    def _limits(self) -> tuple[float, float]:
        full = self._low, self._high
        if self._recipe.clipping == "min_max" or not self._samples or full == (0.0, 0.0):
            return full
        samples = np.concatenate(self._samples)
        if self._recipe.clipping == "percentile":
            low, high = np.percentile(samples, (100.0 - self._recipe.percentile, self._recipe.percentile))
            return min(float(low), 0.0), max(float(high), 0.0)
        errors = [_rounding_error(samples, self._low * share, self._high * share) for share in _SHARES]
        best = _SHARES[int(np.argmin(errors))]
        return self._low * best, self._high * best


def _rounding_error(samples: NDArray[np.float32], low: float, high: float) -> float:
    scale = np.float32((high - low) / _LEVELS)
    zero_point = np.round(-low / scale)
    levels = np.clip(np.round(samples / scale) + zero_point, 0, _LEVELS) - zero_point
    return float(np.mean(np.abs(levels * scale - samples) ** _ERROR_POWER))
