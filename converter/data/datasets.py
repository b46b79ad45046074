"""Labelled folders of photographs: ``DIR/<class>/*.jpg``, with or without ``train/`` and ``validation/`` in between."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from converter.weights.imagenet import index_by_folder
from device.core.errors import SourceError, TrainingError, nearest
from device.image.opencv import decode_image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
TRAIN_NAMES = ("train",)
VALIDATION_NAMES = ("validation", "val", "valid")


class LabelledImage(NamedTuple):
    """An image file and the index of its class."""

    path: Path
    label: int


class LabelledFolder(NamedTuple):
    """A folder with one sub-folder for each class. Classes and samples are sorted by name."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[LabelledImage, ...]


class Split(NamedTuple):
    """The photographs to train on, and those to validate on: the same classes, and no photograph in both."""

    train: LabelledFolder
    validation: LabelledFolder


def list_images(folder: Path) -> list[Path]:
    """Lists the image files below a folder, at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def read_labelled_folder(folder: Path, classes: tuple[str, ...] | None = None) -> LabelledFolder:
    """Lists a labelled folder.

    Args:
        folder: with one sub-folder for each class.
        classes: labels whose indices to use; a sub-folder may also be named by the synset of an ImageNet label. None takes the
            sorted names of the sub-folders.

    Raises:
        TrainingError: there is no such folder, it has no classes, or a class is empty or isn't in ``classes``.
    """
    if not folder.is_dir():
        raise TrainingError(
            str(folder), "is not a folder", expected="a folder with one sub-folder for each class", reason="missing"
        )
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    known = tuple(path.name for path in found) if classes is None else classes
    if not found:
        raise TrainingError(str(folder), "has no sub-folders", expected="one sub-folder for each class", reason="empty")
    indices = index_by_folder(known)
    unknown = [path.name for path in found if path.name not in indices]
    if unknown:
        more = f" and {len(unknown) - 3} more" if unknown[3:] else ""
        raise TrainingError(
            str(folder),
            f"{', '.join(unknown[:3])}{more}: no class of the model has this name",
            expected=nearest(unknown[0], known),
            reason="mismatch",
        )
    samples: list[LabelledImage] = []
    for sub_folder in found:
        images = list_images(sub_folder)
        if not images:
            raise TrainingError(
                str(sub_folder), "holds no images", expected="JPEG, PNG, WebP, BMP or TIFF files", reason="empty"
            )
        samples += [LabelledImage(path, indices[sub_folder.name]) for path in images]
    return LabelledFolder(folder, known, tuple(samples))


def find_split(root: Path, names: tuple[str, ...]) -> Path | None:
    """Finds the sub-folder of a split by any of its usual names; None if there is none."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def read_split(root: Path, hold_out: float = 0.0) -> Split:
    """Reads a folder to train on: ``train/<class>/*`` and ``validation/<class>/*``.

    Args:
        root: holds both. Without a validation split, ``hold_out`` of each class is set aside, and the classes may also lie in
            ``root`` itself.
        hold_out: share of each class, from 0 to 1. The choice of photographs depends only on their names.

    Raises:
        TrainingError: there is nothing to validate on, there is only one class, a class is empty, or the classes of the splits
            differ.
    """
    train_folder, validation_folder = find_split(root, TRAIN_NAMES), find_split(root, VALIDATION_NAMES)
    if validation_folder is None and not hold_out:
        raise TrainingError(
            str(root),
            "has no validation split",
            expected="train/<class>/*.jpg and validation/<class>/*.jpg",
            remedy="pass --hold-out 0.1 to set a tenth of each class aside",
            reason="mismatch",
        )
    if train_folder is None and validation_folder is not None:
        raise TrainingError(
            str(root), f"has {validation_folder.name}/ but no train/", expected="train/<class>/*.jpg", reason="missing"
        )
    train = read_labelled_folder(train_folder or root)
    if len(train.classes) < 2:
        raise TrainingError(str(train.root), "holds one class", expected="two or more", reason="one_class")
    if validation_folder is not None:
        return Split(train, read_labelled_folder(validation_folder, train.classes))
    return _set_aside(train, hold_out)


def _set_aside(folder: LabelledFolder, share: float) -> Split:
    kept: list[LabelledImage] = []
    aside: list[LabelledImage] = []
    for label, name in enumerate(folder.classes):
        # Shuffled by a hash of the name: files are often sorted by time, and so by what they show.
        samples = sorted(
            (sample for sample in folder.samples if sample.label == label),
            key=lambda sample: hashlib.sha256(sample.path.name.encode()).digest(),
        )
        count = max(1, round(len(samples) * share))
        if count >= len(samples):
            raise TrainingError(
                str(folder.root / name),
                f"holds {len(samples)} images",
                expected=f"more than the {count} to set aside",
                reason="empty",
            )
        aside += samples[:count]
        kept += samples[count:]
    return Split(folder._replace(samples=tuple(sorted(kept))), folder._replace(samples=tuple(sorted(aside))))


def find_broken(samples: tuple[LabelledImage, ...], done: Callable[[], None]) -> dict[Path, str]:
    """Decodes every photograph once, to find broken ones before the hours of training.

    Args:
        samples: photographs to decode.
        done: called after each.

    Returns:
        Path of each broken photograph -> what is wrong with it.
    """

    def check(sample: LabelledImage) -> tuple[Path, str]:
        try:
            decode_image(sample.path)
        except SourceError as error:
            return sample.path, error.found
        finally:
            done()
        return sample.path, ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the GIL while it decodes
        return {path: problem for path, problem in pool.map(check, samples) if problem}
