"""Small bundles of the tiny networks under ``tests/fixtures/models``, whose boundaries are real-valued."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from device.bundle import GOLDEN_NAME, LABELS_NAME, MANIFEST_NAME, Golden, describe_file, encode_manifest, write_golden
from device.contract import (
    MANIFEST_SCHEMA,
    Artefact,
    Board,
    Camera,
    Manifest,
    Model,
    ModelCard,
    Preprocessing,
    Profile,
    Runtime,
    TensorSpec,
)

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
SIDE_PX = 32
CLASSES = 4


def write_tiny_bundle(root: Path, models: dict[str, str]) -> None:
    """Writes a bundle of fixtures.

    Args:
        root: the new folder.
        models: runtime -> file under ``tests/fixtures/models``; its scores are those of ``expected.npz``, or it has none.
    """
    root.mkdir(parents=True)
    expected = np.load(MODELS / "expected.npz")
    (root / LABELS_NAME).write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    write_golden(root / GOLDEN_NAME, Golden(expected["pixels"], dict.fromkeys(models, expected["scores"])))
    for name in models.values():
        shutil.copy(MODELS / name, root / name)
    manifest = Manifest(
        schema=MANIFEST_SCHEMA,
        profile=_profile(),
        model=ModelCard(
            name="tiny",
            weights="none",
            weights_sha256="0" * 64,
            parameters=1,
            macs=1,
            num_classes=CLASSES,
            preprocessing=Preprocessing(input_px=SIDE_PX),
        ),
        artefacts=tuple(_artefact(runtime, name) for runtime, name in models.items()),
        files=tuple(describe_file(root / name) for name in (LABELS_NAME, GOLDEN_NAME, *models.values())),
        versions={},
    )
    (root / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


def _profile() -> Profile:
    return Profile(
        name="emulated",
        description="the emulated board",
        board=Board(name="emulated", title="QEMU", arch="aarch64", cpu="cortex-a72", cores=2, memory_mb=1024),
        model=Model(name="tiny", weights="none", input_px=SIDE_PX, precision="fp32"),
        runtime=Runtime(name="litert", threads=1),
        camera=Camera(uri="v4l2:/dev/video0"),
    )


def _artefact(runtime: str, name: str) -> Artefact:
    return Artefact(
        runtime=runtime,
        file=name,
        precision="fp32",
        recipe="none",
        input=TensorSpec("pixels", (1, SIDE_PX, SIDE_PX, 3), "uint8", "NHWC", 1 / 127.5, 128),
        output=TensorSpec("scores", (1, CLASSES), "float32", "NC"),
        delegates=1,
        undelegated_ops=(),
        sqnr_db=100.0,
        top1_agreement=1.0,
    )
