"""Labelled folders of photographs: ``DIR/<class>/*.jpg``, with or without ``train/`` and ``validation/`` above."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from device.errors import TrainingError, nearest

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
TRAIN_NAMES = ("train",)
VALIDATION_NAMES = ("validation", "val", "valid")


class Sample(NamedTuple):
    """An image file and the index of its class."""

    path: Path
    label: int


class LabelledFolder(NamedTuple):
    """A folder with one sub-folder a class; classes and samples are sorted by name."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder, at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def read_labelled_folder(folder: Path, classes: tuple[str, ...] | None = None) -> LabelledFolder:
    """Lists a labelled folder.

    Args:
        folder: with one sub-folder a class.
        classes: the labels to index by; the sub-folders' sorted names when None.

    Raises:
        TrainingError: no such folder, no classes, a class without images, or a class that ``classes`` doesn't know.
    """
    if not folder.is_dir():
        raise TrainingError(str(folder), "is no folder", expected="a folder with one sub-folder a class", reason="missing")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    known = tuple(path.name for path in found) if classes is None else classes
    if not found:
        raise TrainingError(str(folder), "has no sub-folders", expected="one sub-folder a class", reason="empty")
    samples: list[Sample] = []
    for sub_folder in found:
        if sub_folder.name not in known:
            raise TrainingError(
                str(sub_folder), "is no class of the model", expected=nearest(sub_folder.name, known), reason="mismatch"
            )
        images = list_images(sub_folder)
        if not images:
            raise TrainingError(
                str(sub_folder), "holds no images", expected="JPEG, PNG, WebP, BMP or TIFF files", reason="empty"
            )
        samples += [Sample(path, known.index(sub_folder.name)) for path in images]
    return LabelledFolder(folder, known, tuple(samples))


def find_split(root: Path, names: tuple[str, ...]) -> Path | None:
    """The sub-folder that holds a split, by any of its customary names."""
    return next((root / name for name in names if (root / name).is_dir()), None)
