"""Runs artefacts as the board will, and compares their logits with those of the network that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import nn

from converter.evaluate.accuracy import Logits, Pixels
from converter.evaluate.sensitivity import LayerNoise
from converter.quantise.recipes import Recipe, recipe_names
from device.contract import TensorSpec
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT, dequantise
from device.core.errors import ConversionError
from device.protocols import Session
from device.runtimes.registry import RUNTIMES

_WORST_LAYERS = 3  # that an error names


class Verification(msgspec.Struct, frozen=True):
    """How near an artefact's logits come to those of eager fp32.

    Attributes:
        images: number of images that were compared.
        sqnr_db: signal to quantisation noise ratio, over all logits of all images; infinite without noise.
        cosine: mean over the images of the cosine similarity of their logits.
        top1_agreement: share of images on which both name the same class.
    """

    images: int
    sqnr_db: float
    cosine: float
    top1_agreement: float


@torch.inference_mode()
def eager_logits(network: nn.Module, pixels: Pixels) -> Logits:
    """Computes the logits of the network itself in fp32.

    Args:
        network: takes ``(N, 3, S, S)`` float32, ``(pixel - 128) / 127.5``.
        pixels: ``(N, S, S, 3)`` uint8, RGB.

    Returns:
        ``(N, C)`` float32.
    """
    real = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - PIXEL_ZERO_POINT) * PIXEL_SCALE
    return np.concatenate([network(batch).numpy() for batch in torch.split(real, 16)])


class Boundary(Protocol):
    """Input and output of an artefact: an artefact of a manifest, or a fresh export."""

    @property
    def input(self) -> TensorSpec:
        """What a session takes."""

    @property
    def output(self) -> TensorSpec:
        """What a session gives."""


def open_artefact(runtime: str, model: Path, boundary: Boundary) -> Session:
    """Opens an artefact on one thread, as the board does."""
    session: Session = RUNTIMES.load(runtime)().open(model, input=boundary.input, output=boundary.output, threads=1)
    return session


def artefact_logits(runtime: str, model: Path, pixels: Pixels, boundary: Boundary) -> Logits:
    """Computes the logits of an artefact with the board's runtime: ``(N, C)`` float32."""
    with open_artefact(runtime, model, boundary) as session:
        return np.stack([dequantise(session.run(image[None]), session.output) for image in pixels])


def compare(found: Logits, eager: Logits) -> Verification:
    """Compares an artefact's logits with those of eager fp32.

    Args:
        found: of the artefact, ``(N, C)`` float32.
        eager: of the network, ``(N, C)`` float32.
    """
    signal, reference = found.astype(np.float64), eager.astype(np.float64)
    noise_power = float(np.square(signal - reference).sum())
    signal_power = float(np.square(reference).sum())
    norms = np.linalg.norm(signal, axis=1) * np.linalg.norm(reference, axis=1)
    return Verification(
        images=len(eager),
        sqnr_db=10.0 * float(np.log10(signal_power / noise_power)) if noise_power and signal_power else float("inf"),
        cosine=float(np.mean((signal * reference).sum(axis=1) / np.maximum(norms, 1e-12))),
        top1_agreement=float((found.argmax(axis=1) == eager.argmax(axis=1)).mean()),
    )


def require_floor(runtime: str, verification: Verification, recipe: Recipe, layers: tuple[LayerNoise, ...] = ()) -> None:
    """Refuses an artefact that is below the floor of its recipe.

    Args:
        runtime: that runs it.
        verification: of the artefact.
        recipe: that made it.
        layers: what each rounding costs, worst first; empty if that wasn't measured.

    Raises:
        ConversionError: ``accuracy``; gives the figures, and names the layers that cost most.
    """
    problems: list[str] = []
    if not verification.sqnr_db >= recipe.min_sqnr_db:
        problems.append(f"SQNR {verification.sqnr_db:.1f} dB, expected at least {recipe.min_sqnr_db:.1f} dB")
    if not verification.top1_agreement >= recipe.min_top1_agreement:
        problems.append(f"top-1 agreement {verification.top1_agreement:.1%}, expected at least {recipe.min_top1_agreement:.1%}")
    if problems and layers:
        worst = ", ".join(f"{layer.name} ({layer.operator}) {layer.sqnr_db:.1f} dB" for layer in layers[:_WORST_LAYERS])
        problems.append(f"rounded alone, the worst are {worst}")
    if problems:
        raise ConversionError(
            f"{runtime} artefact, recipe {recipe.name}, {verification.images} images",
            "; ".join(problems),
            remedy=_remedies(recipe),
            reason="accuracy",
        )


def _remedies(recipe: Recipe) -> str:
    """Suggests what to try if an artefact is too far from fp32, the cheapest first."""
    if recipe.precision == "fp32":
        return "fp32 rounds nothing: check that the versions of the toolchain are those of pyproject.toml"
    other = next(name for name in recipe_names("int8") if name != recipe.name)
    return (
        f"try --recipe {other}; calibrate on more, and more typical, photographs (--calibration DIR); "
        "train with int8's noise (python -m converter.train --noise-weight 0.2); for weights that can't be trained, "
        "--recipe int8_published, whose floor is lower; or --recipe fp32"
    )
