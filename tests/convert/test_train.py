from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from converter.checkpoints import load_checkpoint
from converter.train import Recipe, Trainer, main, score_logits
from device.errors import TrainingError

pytestmark = pytest.mark.host

COLOURS = {"blue": (220, 40, 30), "red": (30, 40, 220)}  # B, G, R: as OpenCV writes
RECIPE = Recipe(
    model="ghostnet_050", epochs=2, batch_size=8, warmup_epochs=1, first_px=32, last_px=32, test_px=32, learning_rate=4e-3
)


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
    while trainer.epochs_done < trainer.recipe.epochs:
        assert all(np.isfinite(loss) for loss in trainer.train_epoch())
        trainer.save_state()
    return trainer.average.model.state_dict()


def test_a_run_that_was_killed_ends_as_if_it_never_had_been(data: Path, tmp_path: Path) -> None:
    whole = finish(Trainer(data, RECIPE, tmp_path / "whole.state", workers=0))
    killed = Trainer(data, RECIPE, tmp_path / "killed.state", workers=0)
    list(killed.train_epoch())
    killed.save_state()
    again = Trainer(data, RECIPE, tmp_path / "killed.state", workers=0)
    again.resume()
    assert again.epochs_done == 1
    resumed = finish(again)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_settings_do_not_resume(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(data, RECIPE, tmp_path / "x.state")
    trainer.save_state()
    with pytest.raises(TrainingError, match="other settings"):
        Trainer(data, Recipe(model="ghostnet_050", epochs=3), tmp_path / "x.state").resume()


def test_the_command_learns_two_colours_and_writes_a_checkpoint_with_its_card(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ghostnet_050.colours.safetensors"
    flags = ["--model", "ghostnet_050", "--epochs", "8", "--batch-size", "8", "--warmup-epochs", "1"]
    flags += [
        "--first-px",
        "32",
        "--last-px",
        "32",
        "--test-px",
        "32",
        "--learning-rate",
        "4e-3",
        "--mixup-alpha",
        "0",
        "--workers",
        "0",
    ]
    assert main(["--data", str(data), "--out", str(out), *flags]) == 0
    checkpoint = load_checkpoint("ghostnet_050", str(out))
    assert checkpoint.card.labels == ("blue", "red")
    assert checkpoint.card.top1 > 0.9
    assert checkpoint.card.validation_images == 12
    assert "--epochs 8" in checkpoint.card.command
    assert not out.with_suffix(".state").exists()
    assert "epoch   8/8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ([], "no train/ and validation/"),
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
        Trainer(tmp_path, RECIPE, tmp_path / "state")


def test_scores() -> None:
    logits = np.asarray([[3, 2, 1], [1, 2, 3], [1, 2, 3], [3, 1, 2]], np.float32)
    score = score_logits(logits, np.asarray([0, 2, 2, 1]))
    assert score.top1 == 0.75
    assert score.macro_top1 == pytest.approx(2 / 3)
    assert score.top5 == 1.0
