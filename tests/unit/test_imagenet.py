"""ImageNet's labels, and the folders that are named by its synsets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from converter.weights.imagenet import imagenet_labels, index_by_folder, read_classes
from device.core.errors import TrainingError


def test_there_are_a_thousand_classes_in_the_order_of_their_synsets_with_names_of_their_own() -> None:
    classes = read_classes()
    assert len(classes) == 1000
    assert [entry.synset for entry in classes] == sorted({entry.synset for entry in classes})
    assert all(re.fullmatch(r"n\d{8}", entry.synset) for entry in classes)
    assert len({entry.name.casefold() for entry in classes}) == 1000
    assert all(entry.name == entry.name.strip() and "/" not in entry.name for entry in classes)


@pytest.mark.parametrize(
    ("index", "name"), [(0, "tench"), (281, "tabby"), (282, "tiger cat"), (967, "espresso"), (999, "toilet tissue")]
)
def test_known_rows(index: int, name: str) -> None:
    assert imagenet_labels()[index] == name


def test_synsets_stand_for_imagenets_labels_only() -> None:
    assert index_by_folder(imagenet_labels())["n02123045"] == index_by_folder(imagenet_labels())["tabby"] == 281
    assert index_by_folder(("tabby", "cat")) == {"tabby": 0, "cat": 1}


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "0.jpg").touch()
    return root


def test_a_labelled_folder_may_use_either_name_and_hold_a_few_classes(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")
    from converter.data.datasets import read_labelled_folder

    folder = read_labelled_folder(make(tmp_path, "n02123045", "espresso"), imagenet_labels())
    assert {sample.path.parent.name: sample.label for sample in folder.samples} == {"n02123045": 281, "espresso": 967}


def test_folders_that_no_class_has_are_named_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")
    from converter.data.datasets import read_labelled_folder

    with pytest.raises(TrainingError) as caught:
        read_labelled_folder(make(tmp_path, "n02123045", "expresso", "zzz"), imagenet_labels())
    said = str(caught.value)
    assert "expresso, zzz: no class" in said
    assert "did you mean 'espresso'?" in said
    assert len(said) < 1000
