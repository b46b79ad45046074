"""Writes small bundles whose artefacts no runtime has to open."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from device.bundle import (
    GOLDEN_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    Golden,
    describe_file,
    encode_manifest,
    open_bundle,
    write_golden,
)
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
    RuntimeSettings,
    TensorSpec,
)
from device.contract.profile import Arch
from device.contract.tensor import dequantise
from device.protocols import Image
from device.runtimes.registry import RUNTIMES
from tests.unit.fakes import INPUT, LABELS, OUTPUT, SIDE_PX, ColourSession, coloured


def make_profile(
    name: str = "host",
    *,
    inherits: str | None = None,
    compatible: tuple[str, ...] = (),
    arch: Arch = "x86_64",
    unknown_below: float | None = None,
) -> Profile:
    """A profile of a board that is named like it."""
    return Profile(
        name=name,
        description="a board for tests",
        board=Board(
            name=inherits or name,
            title="Board",
            arch=arch,
            cpu="x",
            cores=2,
            memory_mb=512,
            compatible=compatible,
        ),
        model=Model(name="colours", weights="none", input_px=SIDE_PX, unknown_below=unknown_below),
        runtime=RuntimeSettings(name="litert", threads=1),
        camera=Camera(uri="synthetic:"),
        inherits=inherits,
    )


def change_manifest(root: Path, **changes: Any) -> None:
    """Writes a bundle's manifest anew: with other fields, and the hashes of the files that lie there now."""
    manifest = msgspec.json.decode((root / MANIFEST_NAME).read_bytes(), type=Manifest)
    files = tuple(describe_file(root / entry.name) for entry in manifest.files)
    (root / MANIFEST_NAME).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files, **changes)))


def copy_bundle(source: Path, root: Path, **profile_changes: Any) -> Path:
    """Copies a bundle's files to a new folder; the copy's profile has other fields."""
    root.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, root / path.name)
    profile = open_bundle(root).manifest.profile
    change_manifest(root, profile=msgspec.structs.replace(profile, **profile_changes))
    return root


MODELS = Path(__file__).parents[1] / "fixtures" / "models"


def write_tiny_bundle(root: Path, profile: Profile | None = None, *, temperature: float = 1.0) -> Manifest:
    """Writes a whole bundle of the tiny network that both runtimes can run."""
    root.mkdir(parents=True)
    with np.load(MODELS / "expected.npz") as arrays:
        pixels = arrays["pixels"]
        scale, zero_point = float(arrays["int8_output"][0]), int(arrays["int8_output"][1])
    int8_output = msgspec.structs.replace(OUTPUT, dtype="int8", scale=scale, zero_point=zero_point)
    outputs = {"litert": int8_output, "executorch": OUTPUT}
    files = {"litert": "tiny_int8.tflite", "executorch": "tiny_int8.pte"}
    for name in files.values():
        shutil.copyfile(MODELS / name, root / name)
    (root / LABELS_NAME).write_text("\n".join(LABELS) + "\n")
    write_golden(
        root / GOLDEN_NAME,
        Golden(pixels, {runtime: _run(runtime, root / files[runtime], pixels, output) for runtime, output in outputs.items()}),
    )
    manifest = _manifest(
        root,
        profile or make_profile(),
        tuple(_artefact(runtime, files[runtime], output) for runtime, output in outputs.items()),
        temperature,
    )
    (root / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def write_fp32_bundle(root: Path, models: dict[str, str]) -> Manifest:
    """Writes a whole bundle of fixtures whose boundaries are real-valued, for a board with an ARM processor.

    Nothing is run for it, so that it may hold what a runtime refuses; the golden scores are those of the trained network.

    Args:
        root: the new folder.
        models: runtime -> file under ``tests/fixtures/models``.
    """
    root.mkdir(parents=True)
    for name in models.values():
        shutil.copyfile(MODELS / name, root / name)
    (root / LABELS_NAME).write_text("\n".join(LABELS) + "\n")
    with np.load(MODELS / "expected.npz") as arrays:
        write_golden(root / GOLDEN_NAME, Golden(arrays["pixels"], dict.fromkeys(models, arrays["scores"])))
    profile = make_profile("emulated", arch="aarch64")
    profile = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, precision="fp32"))
    artefacts = tuple(_artefact(runtime, name, OUTPUT, "fp32") for runtime, name in models.items())
    manifest = _manifest(root, profile, artefacts)
    (root / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def _run(runtime: str, model: Path, pixels: Image, output: TensorSpec) -> NDArray[np.float32]:
    with RUNTIMES.load(runtime)().open(model, input=INPUT, output=output, threads=1) as session:
        return np.stack([dequantise(session.run(image[None]), output) for image in pixels])


def _artefact(runtime: str, file: str, output: TensorSpec, precision: str = "int8") -> Artefact:
    return Artefact(
        runtime=runtime,
        file=file,
        precision=precision,
        recipe="none",
        input=INPUT,
        output=output,
        delegates=1,
        undelegated_ops=(),
        sqnr_db=40.0,
        top1_agreement=1.0,
    )


def _manifest(root: Path, profile: Profile, artefacts: tuple[Artefact, ...], temperature: float = 1.0) -> Manifest:
    return Manifest(
        schema=MANIFEST_SCHEMA,
        profile=profile,
        model=ModelCard(
            name="colours",
            weights="none",
            weights_sha256="0" * 64,
            parameters=1,
            macs=1,
            num_classes=len(LABELS),
            preprocessing=Preprocessing(input_px=SIDE_PX),
            temperature=temperature,
        ),
        artefacts=artefacts,
        files=tuple(describe_file(root / name) for name in (LABELS_NAME, GOLDEN_NAME, *(one.file for one in artefacts))),
        versions={},
    )


def write_bundle(root: Path, profile: Profile | None = None) -> Manifest:
    """Writes a whole bundle for `ColourSession`."""
    root.mkdir(parents=True)
    (root / LABELS_NAME).write_text("\n".join(LABELS) + "\n")
    (root / "model.tflite").write_bytes(b"not a network" * 100)
    pixels = np.stack([coloured(label) for label in LABELS])
    logits = np.concatenate([ColourSession().run(image[None]) for image in pixels]).astype(np.float32)
    write_golden(root / GOLDEN_NAME, Golden(pixels, {"litert": logits}))
    manifest = _manifest(root, profile or make_profile(), (_artefact("litert", "model.tflite", OUTPUT),))
    (root / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest
