from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converter.data.datasets import read_split
from converter.models import create_model
from converter.train.__main__ import main
from converter.train.trainer import Trainer, TrainingSettings
from converter.weights.checkpoints import Card, load_checkpoint, save_checkpoint
from device.contract import Preprocessing
from device.core.errors import TrainingError

pytestmark = pytest.mark.host

COLOURS = {"blue": (220, 40, 30), "red": (30, 40, 220)}  # B, G, R: as OpenCV writes
SETTINGS = TrainingSettings(
    model="ghostnet_050", epochs=2, batch_size=8, warmup_epochs=1, first_px=32, last_px=32, test_px=32, learning_rate=4e-3
)
SMALL = ["--first-px=32", "--last-px=32", "--test-px=32", "--learning-rate=4e-3", "--mixup-alpha=0", "--workers=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in colour."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 6)):
        for label, colour in COLOURS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                image = np.clip(rng.normal(0, 25, (40, 50, 3)) + colour, 0, 255).astype(np.uint8)
                assert cv2.imwrite(str(folder / f"{index}.png"), image)
    return root


def finish(trainer: Trainer) -> dict[str, torch.Tensor]:
    while trainer.epochs_done < trainer.settings.epochs:
        assert all(np.isfinite(loss) for loss in trainer.train_epoch())
    return trainer.average.model.state_dict()


def test_a_run_that_was_killed_ends_as_if_it_never_had_been(data: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, noise_weight=0.1)
    whole = finish(Trainer(read_split(data), settings, tmp_path / "whole.state", workers=0))
    killed = Trainer(read_split(data), settings, tmp_path / "killed.state", workers=0)
    list(killed.train_epoch())
    again = Trainer(read_split(data), settings, tmp_path / "killed.state", workers=0)
    again.resume()
    assert again.epochs_done == 1
    resumed = finish(again)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_settings_do_not_resume(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(read_split(data), SETTINGS, tmp_path / "x.state")
    trainer.save_state()
    with pytest.raises(TrainingError, match="other settings"):
        Trainer(read_split(data), TrainingSettings(model="ghostnet_050", epochs=3), tmp_path / "x.state").resume()


def test_the_command_learns_two_colours_and_writes_a_checkpoint_with_its_card(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ghostnet_050.colours.safetensors"
    flags = ["--model", "ghostnet_050", "--epochs", "8", "--batch-size", "8", "--warmup-epochs", "1"]
    flags += SMALL
    assert main(["--data", str(data), "--out", str(out), *flags]) == 0
    checkpoint = load_checkpoint("ghostnet_050", str(out))
    assert checkpoint.card.labels == ("blue", "red")
    assert checkpoint.card.top1 > 0.9
    assert checkpoint.card.validation_images == 12
    assert "--epochs 8" in checkpoint.card.command
    assert not out.with_suffix(".state").exists()
    assert cv2.imread(str(out.with_name("ghostnet_050.colours.curves.png"))) is not None
    assert "epoch   8/8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ([], "no validation split.*--hold-out"),
        (["train/a", "validation/a"], "one class"),
        (["train/a", "train/b", "validation/a", "validation/b"], "holds no images"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(tmp_path: Path, folders: list[str], words: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        if "one class" in words:
            cv2.imwrite(str(tmp_path / folder / "x.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(TrainingError, match=words):
        read_split(tmp_path)


def test_without_a_validation_split_a_share_of_each_class_is_set_aside(data: Path) -> None:
    for root in (data / "train", data):
        split = read_split(data / "train", hold_out=0.25) if root != data else read_split(data)
        ours, theirs = ({sample.path for sample in half.samples} for half in split)
        assert not ours & theirs
    assert len(read_split(data / "train", hold_out=0.25).validation.samples) == 12
    assert read_split(data / "train", hold_out=0.25) == read_split(data / "train", hold_out=0.25)


def test_broken_photographs_are_named_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    whole = (root / "train/red/3.png").read_bytes()
    (root / "train/red/3.png").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(TrainingError, match=r"1 of 60 photographs can't be decoded .*red/3\.png"):
        main(["--data", str(root), "--out", str(tmp_path / "x.safetensors"), "--model", "ghostnet_050", *SMALL])


def test_weights_of_other_classes_lend_all_but_the_classifier(data: Path, tmp_path: Path) -> None:
    first = create_model("ghostnet_050", num_classes=7)
    path = tmp_path / "other.safetensors"
    save_file(first.state_dict(), path)
    trainer = Trainer(read_split(data), SETTINGS, tmp_path / "x.state", start=path)
    own = trainer.model.state_dict()
    assert torch.equal(own["conv_head.weight"], first.state_dict()["conv_head.weight"])
    assert own["classifier.weight"].shape[0] == 2


def test_a_student_learns_from_its_teacher_and_not_from_one_of_other_classes(data: Path, tmp_path: Path) -> None:
    teacher_file = tmp_path / "ghostnet_050.teacher.safetensors"
    teacher = create_model("ghostnet_050", num_classes=2)
    torch.nn.init.zeros_(teacher.classifier.weight)  # type: ignore[union-attr,arg-type]
    teacher.classifier.bias.data = torch.tensor([0.0, 9.0])  # type: ignore[union-attr]  # red, whatever it sees
    card = Card("ghostnet_050", ("blue", "red"), Preprocessing(input_px=32), "", "", 1, 0.5, 1.0, 0.5)
    save_checkpoint(teacher_file, teacher, card)
    settings = msgspec.structs.replace(SETTINGS, distillation=1.0, epochs=4)
    trainer = Trainer(read_split(data), settings, tmp_path / "x.state", teacher=teacher_file, workers=0)
    finish(trainer)
    assert (trainer.validation_logits().argmax(axis=1) == 1).all()  # the photographs' labels would say half and half
    save_checkpoint(teacher_file, teacher, msgspec.structs.replace(card, labels=("cat", "dog")))
    with pytest.raises(TrainingError, match="knows the classes cat, dog; expected blue, red"):
        Trainer(read_split(data), settings, tmp_path / "y.state", teacher=teacher_file)
