"""Photographs to calibrate and to verify with: a user's folder, or the pack that ships with the weights.

A pack is a zip of JPEG files, ``calibration/<label>/*.jpg`` and ``verification/<label>/*.jpg``. No photograph is in both
halves.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.data.datasets import LabelledImage, list_images, read_labelled_folder
from converter.weights.checkpoints import Checkpoint
from device.contract import Preprocessing
from device.core.durable import write_durably
from device.core.errors import ConversionError, GhostwattError
from device.image.opencv import decode_bytes, decode_image
from device.image.preprocess import fit_frame

PACK_SUFFIX = ".photographs.zip"
CALIBRATION_IMAGES = 64
VERIFICATION_IMAGES = 128
LEAST_IMAGES = 16
"""With fewer, ranges and percentages mean little."""

T = TypeVar("T")

_PACK_DATE = (1980, 1, 1, 0, 0, 0)  # the first date of the zip format, so that equal photographs give equal bytes
_PACK_QUALITY = 85
_PACK_SHORT_SIDE_PX = 256


class ImageSet(msgspec.Struct, frozen=True):
    """Photographs as the network sees them.

    Attributes:
        pixels: ``(N, S, S, 3)`` uint8, RGB.
        labels: ``(N,)`` int64, indices of classes; None if they aren't known.
        origin: of the photographs, for the report.
        sha256: of the pixels and labels.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    origin: str
    sha256: str


class Photographs(msgspec.Struct, frozen=True):
    """The photographs to calibrate with, and those to verify with; no photograph is in both."""

    calibration: ImageSet
    verification: ImageSet


def choose_photographs(
    checkpoint: Checkpoint, spec: Preprocessing, *, calibration: Path | None, verification: Path | None
) -> Photographs:
    """Chooses photographs for a checkpoint: the user's folders if there are any, otherwise the pack beside the weights.

    With a calibration folder, but neither a verification folder nor a pack, further photographs of the same folder are taken.

    Args:
        checkpoint: whose labels the photographs must have.
        spec: how to fit them.
        calibration: folder of photographs.
        verification: labelled folder.

    Raises:
        ConversionError: there are no photographs to calibrate with.
    """
    labels = checkpoint.card.labels
    pack = checkpoint.path.with_name(checkpoint.path.stem + PACK_SUFFIX)
    if calibration is None and not pack.is_file():
        raise ConversionError(
            f"weights {checkpoint.name} of {checkpoint.card.model}",
            "come without calibration photographs",
            expected="a folder of photographs like those that the camera will take",
            remedy="pass --calibration DIR (make: CALIBRATION=DIR)",
            reason="calibration",
        )
    if calibration is None:
        ranges = read_pack(pack, "calibration", labels, spec)
    else:
        ranges = read_folder(calibration, spec, count=CALIBRATION_IMAGES)
    if verification is not None:
        check = read_labelled(verification, labels, spec)
    elif pack.is_file():
        check = read_pack(pack, "verification", labels, spec)
    else:
        assert calibration is not None  # checked above
        check = read_folder(calibration, spec, count=VERIFICATION_IMAGES, skip=CALIBRATION_IMAGES)
    return Photographs(ranges, check)


def make_image_set(images: list[NDArray[np.uint8]], labels: list[int] | None, origin: str) -> ImageSet:
    """Stacks fitted images of equal size."""
    pixels = np.stack(images)
    indices = None if labels is None else np.asarray(labels, np.int64)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes())
    digest.update(b"" if indices is None else indices.tobytes())
    return ImageSet(pixels, indices, origin, digest.hexdigest())


def read_folder(folder: Path, spec: Preprocessing, *, count: int, skip: int = 0) -> ImageSet:
    """Reads unlabelled photographs of a folder, spread over its sub-folders.

    Args:
        folder: searched at any depth.
        spec: how to fit them.
        count: number of photographs, at most.
        skip: how many to leave out first.

    Raises:
        ConversionError: there are too few photographs, or one can't be decoded.
    """
    if not folder.is_dir():
        raise ConversionError(str(folder), "is not a folder", expected="a folder of photographs", reason="calibration")
    groups = [list(group) for _, group in itertools.groupby(list_images(folder), key=lambda path: path.parent)]
    chosen = list(itertools.islice(_round_robin(groups), skip, skip + count))
    _require_enough(len(chosen), str(folder))
    return make_image_set([_fit(path, spec) for path in chosen], None, folder.name)


def read_labelled(folder: Path, labels: tuple[str, ...], spec: Preprocessing, *, count: int | None = None) -> ImageSet:
    """Reads labelled photographs, ``folder/<label>/*``.

    Args:
        folder: with sub-folders for all or some of the classes.
        labels: of the network.
        spec: how to fit them.
        count: number of photographs, spread over the classes; None for all.
    """
    samples = read_labelled_folder(folder, labels).samples
    groups = [list(group) for _, group in itertools.groupby(samples, key=lambda sample: sample.label)]
    chosen = list(itertools.islice(_round_robin(groups), count))
    _require_enough(len(chosen), str(folder))
    return make_image_set([_fit(sample.path, spec) for sample in chosen], [sample.label for sample in chosen], folder.name)


def read_pack(path: Path, half: str, labels: tuple[str, ...], spec: Preprocessing) -> ImageSet:
    """Reads one half of a pack.

    Raises:
        ConversionError: the pack is damaged, or names a label that the network doesn't have.
    """
    images: list[NDArray[np.uint8]] = []
    indices: list[int] = []
    for name, data in pack_members(path):
        folder, label, _ = name.split("/")
        if folder != half:
            continue
        if label not in labels:
            raise ConversionError(f"{path}: {name}", f"{label!r} is not a label of the weights", reason="calibration")
        images.append(fit_frame(decode_bytes(data, f"{path}: {name}"), spec))
        indices.append(labels.index(label))
    _require_enough(len(images), f"{path}: {half}")
    return make_image_set(images, indices, f"{path.name}, {half}")


def pack_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names (``half/label/file.jpg``) and bytes of a pack's photographs."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.count("/") != 2:
                    raise ConversionError(
                        f"{path}: {entry.filename}",
                        "is not half/label/photograph",
                        remedy="make the pack again",
                        reason="calibration",
                    )
                yield entry.filename, archive.read(entry)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConversionError(
            str(path), f"can't be read ({error})", remedy="make the pack again", reason="calibration"
        ) from error


def write_pack(path: Path, halves: dict[str, tuple[LabelledImage, ...]], labels: tuple[str, ...]) -> None:
    """Writes a pack; equal photographs give equal bytes.

    Args:
        path: of the zip.
        halves: ``calibration`` and ``verification``, each with its samples.
        labels: that the samples' indices refer to.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for half, samples in halves.items():
            for index, sample in enumerate(samples):
                entry = zipfile.ZipInfo(f"{half}/{labels[sample.label]}/{index:04d}.jpg", _PACK_DATE)
                archive.writestr(entry, _encode(decode_image(sample.path)))
    write_durably(path, buffer.getvalue())


def spread(samples: tuple[LabelledImage, ...], count: int) -> tuple[LabelledImage, ...]:
    """Takes the first ``count`` samples, from each class in turn."""
    groups = [list(group) for _, group in itertools.groupby(samples, key=lambda sample: sample.label)]
    return tuple(itertools.islice(_round_robin(groups), count))


def _encode(image: NDArray[np.uint8]) -> bytes:
    scale = _PACK_SHORT_SIDE_PX / min(image.shape[:2])
    if scale < 1.0:
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _PACK_QUALITY])
    return bytes(data)


def _round_robin(groups: list[list[T]]) -> Iterator[T]:
    for row in itertools.zip_longest(*groups):
        yield from (item for item in row if item is not None)


def _fit(path: Path, spec: Preprocessing) -> NDArray[np.uint8]:
    try:
        return fit_frame(decode_image(path), spec)
    except GhostwattError as error:
        raise ConversionError(
            error.where, error.found, expected=error.expected, remedy=error.remedy, reason="calibration"
        ) from error


def _require_enough(found: int, where: str) -> None:
    if found < LEAST_IMAGES:
        raise ConversionError(
            where,
            f"{found} photographs",
            expected=f"at least {LEAST_IMAGES}, like those that the camera will take",
            reason="calibration",
        )
