"""Augmentation of training photographs: random crop, mirror image, colours, an erased patch."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from converter.data.datasets import LabelledImage
from device.contract import Preprocessing
from device.image.opencv import decode_image

Pixels = NDArray[np.uint8]


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Augments training photographs: gives ``(3, px, px)`` float32, normalised, and the label.

    Args:
        samples: photographs and their labels.
        px: side of the result.
        spec: mean and deviation of the network's input.
        seed: of this epoch.
    """

    def __init__(self, samples: tuple[LabelledImage, ...], px: int, spec: Preprocessing, seed: int) -> None:
        self.samples = samples
        self.px = px
        self.mean = np.asarray(spec.mean, np.float32)
        self.std = np.asarray(spec.std, np.float32)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        # Seeded by epoch and index, not by worker, so that a run doesn't depend on the number of workers.
        rng = np.random.default_rng((self.seed, index))
        image = _random_crop(decode_image(sample.path), self.px, rng)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        pixels = _jitter_colours(image.astype(np.float32) / 255.0, rng)
        pixels = (pixels - self.mean) / self.std
        return torch.from_numpy(_erase_a_patch(pixels, rng)).permute(2, 0, 1), sample.label


def _random_crop(image: Pixels, px: int, rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    area = height * width * rng.uniform(0.3, 1.0)
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_width = min(width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(area / aspect))))
    left = int(rng.integers(0, width - crop_width + 1))
    top = int(rng.integers(0, height - crop_height + 1))
    crop = image[top : top + crop_height, left : left + crop_width]
    return np.asarray(cv2.resize(crop, (px, px), interpolation=cv2.INTER_AREA), np.uint8)


def _jitter_colours(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    brightness, contrast, saturation = rng.uniform(0.6, 1.4, 3)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean() * brightness
    return np.clip(pixels, 0.0, 1.0).astype(np.float32)


def _erase_a_patch(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < 0.25:
        px = pixels.shape[0]
        side = int(rng.integers(px // 8, px // 3))
        top, left = rng.integers(0, px - side, 2)
        pixels[top : top + side, left : left + side] = 0.0
    return pixels
