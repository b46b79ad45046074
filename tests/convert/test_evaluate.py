"""Accuracy on labelled folders. The bundle here is of a tiny network, its checkpoint another's: what is tested is the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch

from converter.evaluate import __main__ as evaluate
from converter.evaluate.__main__ import main
from converter.models import create_model
from converter.weights.checkpoints import Card, card_path, load_checkpoint, save_checkpoint
from device.bundle import MANIFEST_NAME, encode_manifest, open_bundle
from device.contract import Preprocessing
from device.core.errors import BundleError, ConversionError, GhostwattError, TrainingError, UsageError
from device.runtimes.registry import RUNTIMES
from tests.unit.bundles import write_tiny_bundle
from tests.unit.fakes import LABELS, SIDE_PX, coloured

pytestmark = pytest.mark.host

MODEL = "ghostnet_050"
CARD = Card(
    model=MODEL,
    labels=LABELS,
    preprocessing=Preprocessing(input_px=SIDE_PX),
    data="none",
    command="none",
    validation_images=7,
    top1=0.5,
    top5=1.0,
    macro_top1=0.5,
)
IMAGES_OF = {"dark": 3, "red": 2, "green": 4, "blue": 1}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights" / f"{MODEL}.colours.safetensors"
    save_checkpoint(path, create_model(MODEL, num_classes=len(LABELS)), CARD)
    return path


@pytest.fixture
def bundle(tmp_path: Path, weights: Path) -> Path:
    """A bundle that says that it was converted from `weights`."""
    root = tmp_path / "bundle"
    manifest = write_tiny_bundle(root)
    checkpoint = load_checkpoint(MODEL, str(weights))
    model = msgspec.structs.replace(manifest.model, name=MODEL, weights_sha256=checkpoint.sha256)
    chosen = msgspec.structs.replace(manifest.profile.model, name=MODEL, weights=str(weights))
    profile = msgspec.structs.replace(manifest.profile, model=chosen)
    manifest = msgspec.structs.replace(manifest, model=model, profile=profile)
    (root / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for label, count in IMAGES_OF.items():
        folder = root / "validation" / label
        folder.mkdir(parents=True)
        for index in range(count):
            noisy = np.clip(coloured(label).astype(int) + generator.integers(-40, 40, (SIDE_PX, SIDE_PX, 3)), 0, 255)
            assert cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(noisy.astype(np.uint8), cv2.COLOR_RGB2BGR))
    return root


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, Any]:
    assert main([*(str(flag) for flag in flags), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(kind: type[GhostwattError], *flags: object) -> GhostwattError:
    with pytest.raises(kind) as caught:
        main([str(flag) for flag in flags])
    assert "\n" not in str(caught.value)
    return caught.value


def test_eager_and_every_artefact_are_scored_on_the_same_photographs(
    data: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "--data", data, "--bundle", bundle)
    assert found["data"] == str(data / "validation")
    assert [result["name"] for result in found["results"]] == ["eager", "litert", "executorch"]
    assert {result["score"]["images"] for result in found["results"]} == {10}
    assert (found["classes"], found["num_classes"], found["damaged"]) == (4, 4, [])
    assert found["manifest_sha256"] == open_bundle(bundle).manifest_sha256


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_an_artefact_scores_what_its_session_says(
    data: Path, bundle: Path, runtime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_bundle(bundle)
    artefact = opened.artefact(runtime)
    hits = []
    path = opened.path(artefact.file)
    with RUNTIMES.load(runtime)().open(path, input=artefact.input, output=artefact.output, threads=1) as session:
        for label in LABELS:
            for file in sorted((data / "validation" / label).iterdir()):
                pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
                hits.append(LABELS[int(session.run(pixels[None])[0].argmax())] == label)
    found = run(capsys, "--data", data, "--bundle", bundle)
    (result,) = (result for result in found["results"] if result["name"] == runtime)
    assert result["score"]["top1"] == pytest.approx(np.mean(hits))
    eager = found["results"][0]["score"]["top1"]
    assert result["change"]["top1"] == pytest.approx(result["score"]["top1"] - eager)


def test_eager_is_the_checkpoint_through_its_own_normalisation(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imagenet = Preprocessing(input_px=SIDE_PX, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    card_path(weights).write_bytes(msgspec.json.encode(msgspec.structs.replace(CARD, preprocessing=imagenet)))
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    checkpoint = load_checkpoint(MODEL, str(weights))
    normalised = (pixels / 255.0 - np.asarray(imagenet.mean)) / np.asarray(imagenet.std)
    with torch.no_grad():
        wanted = checkpoint.model(torch.from_numpy(normalised).permute(0, 3, 1, 2).float()).numpy()
    found_logits = evaluate.run_eager(checkpoint.model, imagenet)(pixels)
    # An untrained network multiplies float32's rounding; another normalisation is off by far more.
    np.testing.assert_allclose(found_logits, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
    found = run(capsys, "--data", data, "--model", MODEL, "--weights", weights)
    assert [result["name"] for result in found["results"]] == ["eager"]
    assert found["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_the_table_names_what_was_measured(data: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(data), "--bundle", str(bundle)]) == 0
    out = capsys.readouterr().out
    for word in ("10 photographs of 4 of 4 classes", "eager", ".tflite", ".pte", "top-1", "macro", "top-1 50.0% on 7"):
        assert word in out


def test_class_folders_may_lie_directly_in_the_folder_and_be_few(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.rmtree(data / "validation" / "red")
    found = run(capsys, "--data", data / "validation", "--model", MODEL, "--weights", weights)
    assert (found["classes"], found["results"][0]["score"]["images"]) == (3, 8)


def test_a_damaged_photograph_is_told_and_left_out(data: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = data / "validation" / "blue" / "broken.jpg"
    broken.write_bytes(b"no picture")
    found = run(capsys, "--data", data, "--model", MODEL, "--weights", weights)
    assert found["damaged"] == [str(broken)]
    assert found["results"][0]["score"]["images"] == 10


def test_a_folder_of_nothing_but_damaged_photographs_is_refused(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "bad" / "red").mkdir(parents=True)
    (tmp_path / "bad" / "red" / "x.jpg").write_bytes(b"no picture")
    assert "can't be decoded" in str(refusal(TrainingError, "--data", tmp_path / "bad", "--model", MODEL, "--weights", weights))


def test_labels_that_the_network_does_not_know_are_named(data: Path, weights: Path) -> None:
    (data / "validation" / "bleu").mkdir()
    said = str(refusal(TrainingError, "--data", data, "--model", MODEL, "--weights", weights))
    assert "bleu: no class" in said
    assert "did you mean 'blue'?" in said


def test_another_checkpoint_than_the_bundles_is_refused(data: Path, bundle: Path, weights: Path) -> None:
    save_checkpoint(weights, create_model(MODEL, num_classes=len(LABELS)), CARD)
    error = refusal(BundleError, "--data", data, "--bundle", bundle)
    assert error.reason == "mismatch"
    assert str(weights) in error.found


def test_other_labels_than_the_bundles_are_refused(data: Path, bundle: Path, weights: Path) -> None:
    card_path(weights).write_bytes(msgspec.json.encode(msgspec.structs.replace(CARD, labels=tuple(reversed(LABELS)))))
    assert refusal(BundleError, "--data", data, "--bundle", bundle).reason == "labels"


def test_a_checkpoint_that_has_moved_can_be_named(
    data: Path, bundle: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / weights.name
    card_path(weights).replace(card_path(moved))
    weights.replace(moved)
    assert "is neither" in str(refusal(ConversionError, "--data", data, "--bundle", bundle))
    assert len(run(capsys, "--data", data, "--bundle", bundle, "--weights", moved)["results"]) == 3


def test_flags_that_do_not_go_together_are_refused(data: Path, bundle: Path) -> None:
    assert "--bundle: is missing" in str(refusal(UsageError, "--data", data))
    assert "holds ghostnet_050" in str(refusal(UsageError, "--data", data, "--bundle", bundle, "--model", "ghostnet_100"))
    assert "did you mean 'ghostnet_100'" in str(refusal(UsageError, "--data", data, "--model", "gohstnet_100"))
