"""ImageNet's classes: labels in the order of the published classifiers' rows, and the synsets that name its folders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

CLASSES_FILE = Path(__file__).parent / "imagenet_classes.txt"


class ImagenetClass(NamedTuple):
    """A class: its WordNet synset (``n02123045``) and its name (``tabby``)."""

    synset: str
    name: str


@cache
def read_classes() -> tuple[ImagenetClass, ...]:
    """Reads the 1000 classes, in the order of the classifiers' rows. The file says where they come from."""
    lines = CLASSES_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(ImagenetClass(*line.split(" ", 1)) for line in lines if not line.startswith("#"))


def imagenet_labels() -> tuple[str, ...]:
    """Gives the names of the 1000 classes, which are all different."""
    return tuple(entry.name for entry in read_classes())


def index_by_folder(labels: tuple[str, ...]) -> dict[str, int]:
    """Maps folder names to indices of labels. ImageNet's labels are found by their synsets, too.

    Args:
        labels: of a network, in the order of its scores.
    """
    indices = {label: index for index, label in enumerate(labels)}
    if labels == imagenet_labels():
        indices |= {entry.synset: index for index, entry in enumerate(read_classes())}
    return indices
