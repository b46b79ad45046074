from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from converter.checkpoints import Card, card_path, load_checkpoint, save_checkpoint
from converter.models import create_model
from device.contract import Preprocessing
from device.errors import ConversionError

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


def test_weights_without_a_card_say_what_to_do(path: Path) -> None:
    card_path(path).unlink()
    assert "card" in str(refusal(path))


def test_an_unknown_name_lists_the_shipped(path: Path) -> None:
    with pytest.raises(ConversionError, match="did you mean 'clothing'"):
        load_checkpoint("ghostnet_100", "clothign")
