"""The report of a conversion as data: ``report.json``. `converter.report.page` makes ``report.html`` of it.

It holds no time and no name of a machine: equal input gives equal bytes. The latency on the host differs from run to run and is
in ``latency.json`` (see `converter.evaluate.latency`). The manifest has the hash of ``report.json``, but not that of
``latency.json``, nor that of ``report.html``, which shows both: a bundle is identified by what was converted, not by how fast
the host was that day. No board reads the latter two, and ``python -m converter.report.page`` writes the page again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.evaluate.accuracy import Change, Score, confusion, score
from converter.evaluate.confidence import ReliabilityBin, chance_error, expected_calibration_error, reliability
from converter.evaluate.sensitivity import LayerNoise
from converter.evaluate.verify import Verification
from converter.quantise.recipes import Recipe
from converter.weights.checkpoints import Card
from device.contract import Artefact, ModelCard
from device.core.errors import BundleError
from device.image.postprocess import softmax

JSON_NAME = "report.json"

_PLACES = 6  # of a share: finer than any number of photographs can tell

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class PhotographSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Photographs that the conversion used.

    Attributes:
        images: how many.
        origin: where they come from.
        sha256: of their pixels, as the network saw them, and of their labels.
        labelled: whether their correct classes are known.
    """

    images: int
    origin: str
    sha256: str
    labelled: bool


class Confusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cell of a confusion matrix. Classes are indices of the card's labels.

    Attributes:
        right: correct class of the photographs.
        named: class that the network predicted.
        images: how many.
    """

    right: int
    named: int
    images: int


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy and calibration of a network on labelled photographs.

    Attributes:
        score: accuracy, with intervals.
        confusions: the cells of the confusion matrix that aren't 0, row by row.
        temperature: divisor of the logits before the softmax; the weights' own, not fitted here.
        expected_calibration_error: mean distance of confidence and accuracy, from 0 to 1; see `converter.evaluate.confidence`.
        chance_error: the error that a perfectly calibrated network would show on so few images.
        reliability: the bins that the error was taken over.
    """

    score: Score
    confusions: tuple[Confusion, ...]
    temperature: float
    expected_calibration_error: float
    chance_error: float
    reliability: tuple[ReliabilityBin, ...]


class NoiseByLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The noise that each rounding of an int8 artefact adds to the logits.

    Attributes:
        recipe: the one that was simulated.
        images: how many it was measured on.
        layers: worst first; those without noise are left out.
    """

    recipe: str
    images: int
    layers: tuple[LayerNoise, ...]


class ArtefactReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An artefact with its size and its accuracy.

    Attributes:
        artefact: as the manifest has it.
        size_bytes: of the file.
        operators: inside the delegate: name -> how many.
        recipe: how it was quantised, with the floors that it had to reach.
        verification: how near it is to eager fp32.
        judgement: on labelled photographs; None where the labels aren't known.
        change: of its top-1 against eager fp32's; None where the labels aren't known.
    """

    artefact: Artefact
    size_bytes: int
    operators: dict[str, int]
    recipe: Recipe
    verification: Verification
    judgement: Judgement | None
    change: Change | None


class ConversionReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is reported of a conversion.

    Attributes:
        profile: its name.
        runtime: the one that the profile names.
        model: the network.
        card: of the weights.
        fp32: eager fp32 on labelled photographs; None where the labels aren't known.
        artefacts: one per runtime, the profile's first.
        calibration: the photographs that the ranges were taken from.
        verification: the photographs that the figures were taken on.
        sensitivity: None where nothing is rounded.
        versions: of the packages that converted.
    """

    profile: str
    runtime: str
    model: ModelCard
    card: Card
    fp32: Judgement | None
    artefacts: tuple[ArtefactReport, ...]
    calibration: PhotographSet
    verification: PhotographSet
    sensitivity: NoiseByLayer | None
    versions: dict[str, str]


def judge(logits: Logits, labels: Labels, temperature: float) -> Judgement:
    """Judges a network by its logits.

    Args:
        logits: ``(N, C)`` float32.
        labels: ``(N,)`` int64.
        temperature: of the weights.
    """
    confidences = softmax(logits, temperature).max(axis=1)
    hits = logits.argmax(axis=1) == labels
    cells = np.argwhere(matrix := confusion(logits, labels))
    return Judgement(
        score=score(logits, labels),
        confusions=tuple(Confusion(int(right), int(named), int(matrix[right, named])) for right, named in cells),
        temperature=temperature,
        expected_calibration_error=round(expected_calibration_error(confidences, hits), _PLACES),
        chance_error=round(chance_error(confidences), _PLACES),
        reliability=tuple(_round_bin(one) for one in reliability(confidences, hits)),
    )


def summarise_noise(recipe: str, images: int, layers: tuple[LayerNoise, ...]) -> NoiseByLayer:
    """Sorts the noise by layer, and rounds it: the last places depend on the number of torch's threads."""
    finite = [layer for layer in layers if np.isfinite(layer.sqnr_db)]
    rounded = [msgspec.structs.replace(layer, sqnr_db=round(layer.sqnr_db, 2)) for layer in finite]
    return NoiseByLayer(recipe, images, tuple(sorted(rounded, key=lambda layer: (layer.sqnr_db, layer.name, layer.operator))))


def write_report(folder: Path, report: ConversionReport) -> None:
    """Writes ``report.json`` into a bundle; equal reports give equal bytes."""
    data = msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=2)
    (folder / JSON_NAME).write_bytes(data + b"\n")


def read_report(folder: Path) -> ConversionReport:
    """Reads a bundle's report.

    Raises:
        BundleError: ``missing`` or ``malformed``.
    """
    path = folder / JSON_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=ConversionReport)
    except OSError as error:
        raise BundleError(
            str(path), f"can't be read ({error.strerror})", remedy="make convert PROFILE=... writes one", reason="missing"
        ) from error
    except msgspec.DecodeError as error:
        raise BundleError(str(path), f"isn't a report ({error})", remedy="convert again", reason="malformed") from error


def _round_bin(one: ReliabilityBin) -> ReliabilityBin:
    if one.confidence is None or one.accuracy is None:
        return one
    return msgspec.structs.replace(one, confidence=round(one.confidence, _PLACES), accuracy=round(one.accuracy, _PLACES))
