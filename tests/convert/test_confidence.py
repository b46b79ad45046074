from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from converter.evaluate.confidence import THRESHOLDS, main
from converter.models import create_model
from converter.weights.checkpoints import Card, save_checkpoint
from device.contract import Preprocessing
from device.core.errors import ConversionError, TrainingError

pytestmark = pytest.mark.host

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows nothing, with a card that says so."""
    path = tmp_path_factory.mktemp("weights") / "ghostnet_050.letters.safetensors"
    torch.manual_seed(0)
    card = Card(
        model="ghostnet_050",
        labels=LABELS,
        preprocessing=Preprocessing(input_px=32),
        data="none",
        command="none",
        validation_images=0,
        top1=0.0,
        top5=0.0,
        macro_top1=0.0,
        temperature=2.0,
    )
    save_checkpoint(path, create_model("ghostnet_050", num_classes=3), card)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs a class under ``validation/``, and three of other things."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder, count in [*((f"labelled/validation/{label}", 4) for label in LABELS), ("others", 3)]:
        (root / folder).mkdir(parents=True)
        for index in range(count):
            assert cv2.imwrite(str(root / folder / f"{index}.png"), rng.integers(0, 256, (40, 40, 3), np.uint8))
    (root / "empty").mkdir()
    return root


def flags(weights: Path, data: Path, others: str | None = None) -> list[str]:
    found = ["--model", "ghostnet_050", "--weights", str(weights), "--data", str(data / "labelled")]
    return found + (["--others", str(data / others)] if others else [])


def test_prints_one_object_for_programs(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags(weights, data, "others"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 12
    assert found["temperature"] == 2.0
    assert [row["unknown_below"] for row in found["trade_offs"]] == list(THRESHOLDS)
    assert all(set(row["others"]) == {"others", "flat", "noise", "blurred"} for row in found["trade_offs"])
    assert set(found["trade_offs"][0]["others"].values()) == {1.0}
    assert sum(one["images"] for one in found["reliability"]) == 12
    assert 0.0 <= found["error"] <= 1.0


def test_prints_a_table_for_people(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(flags(weights, data)) == 0
    out = capsys.readouterr().out
    assert "2.000 in the card" in out
    assert "noise" in out
    assert "others" not in out
    assert "\u2026" not in out, "something was cut off"


def test_a_class_that_the_weights_do_not_know_is_refused(weights: Path, data: Path) -> None:
    with pytest.raises(TrainingError, match="no class of the model"):
        main(["--model", "ghostnet_050", "--weights", str(weights), "--data", str(data)])


def test_a_folder_without_photographs_is_refused(weights: Path, data: Path) -> None:
    with pytest.raises(ConversionError, match="holds no photographs"):
        main(flags(weights, data, "empty"))
