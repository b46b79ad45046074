"""The conversion, as a list of stages: load, choose photographs, export, verify, write.

Each stage is a function from what came before to what it adds. The exports run in processes of their own: both at once on two
cores, and their memory is given back. Exports and verifications are cached by content.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import fx

from converter.cache import Cache, hash_sources, installed_versions, make_key
from converter.checkpoints import Checkpoint, load_checkpoint
from converter.exporters import Exported, load_exporter
from converter.exporters.quiet import quiet
from converter.folding import fold
from converter.models.counting import count_macs, count_parameters
from converter.photographs import (
    CALIBRATION_IMAGES,
    PACK_SUFFIX,
    VERIFICATION_IMAGES,
    ImageSet,
    read_folder,
    read_labelled,
    read_pack,
)
from converter.profiles import LoadedProfile
from converter.recipes import Recipe, find_recipe
from converter.report import ArtefactReport, Report, write_report
from converter.verify import Verification, artefact_logits, compare, eager_logits, require_floor
from device import __version__
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
from device.contract import MANIFEST_SCHEMA, Artefact, Manifest, ModelCard, Preprocessing, Profile
from device.errors import ConversionError

RUNTIMES = ("executorch", "litert")
"""Formats of a bundle, the one that takes longer to make first."""

GOLDEN_IMAGES = 8
EXPORTED_NAME = "exported.json"

T = TypeVar("T")

Tell = Callable[[str, str], None]
"""Told of progress: a stage's name, and ``start``, ``done`` or ``cached``."""


class Request(msgspec.Struct, frozen=True):
    """What to convert, for whom, and where to.

    Attributes:
        profile: resolved.
        model: variant; the profile's, or the user's own choice.
        weights: likewise.
        out: the bundle's folder.
        cache: results of earlier conversions.
        calibration: folder of photographs; None takes those that come with the weights.
        verification: labelled folder; None takes those that come with the weights.
        jobs: exports at a time.
    """

    profile: LoadedProfile
    model: str
    weights: str
    out: Path
    cache: Path
    calibration: Path | None = None
    verification: Path | None = None
    jobs: int = 2


class Prepared(msgspec.Struct, frozen=True):
    """A network ready to export.

    Attributes:
        checkpoint: as loaded.
        preprocessing: the weights', at the profile's input size.
        network: batch norm and normalisation folded in; see `converter.folding`.
        recipe: how to quantise.
    """

    checkpoint: Checkpoint
    preprocessing: Preprocessing
    network: fx.GraphModule
    recipe: Recipe


class Photographs(msgspec.Struct, frozen=True):
    """What to calibrate and to verify with; no photograph is in both."""

    calibration: ImageSet
    verification: ImageSet


class ExportJob(msgspec.Struct, frozen=True):
    """All that an export in another process needs."""

    runtime: str
    model: str
    weights: str
    input_px: int
    recipe: str
    calibration: Path
    out: Path


class Verified(msgspec.Struct, frozen=True):
    """An artefact, what it was found to be worth, and its first few logits, ``(N, C)``."""

    exported: Exported
    verification: Verification
    golden: NDArray[np.float32]


def load(request: Request) -> Prepared:
    """Loads the checkpoint, checks it, folds it."""
    checkpoint = load_checkpoint(request.model, request.weights)
    profile = request.profile.profile
    return _prepare(checkpoint, profile.model.input_px, profile.model.precision)


def _prepare(checkpoint: Checkpoint, input_px: int, precision: str) -> Prepared:
    preprocessing = msgspec.structs.replace(checkpoint.card.preprocessing, input_px=input_px)
    return Prepared(checkpoint, preprocessing, fold(checkpoint.model, preprocessing), find_recipe(precision))


def export_all(request: Request, prepared: Prepared, photographs: Photographs, tell: Tell) -> dict[str, Path]:
    """Exports to every format.

    Returns:
        runtime name -> folder with the artefact and `EXPORTED_NAME`.

    Raises:
        ConversionError: the graph is not wholly inside one delegate.
    """
    cache = Cache(request.cache)
    keys = {runtime: export_key(runtime, request, prepared, photographs) for runtime in RUNTIMES}
    missing = [runtime for runtime in RUNTIMES if cache.find(keys[runtime]) is None]
    for runtime in RUNTIMES:
        if runtime not in missing:
            tell(f"export {runtime}", "cached")
    if missing:
        with tempfile.TemporaryDirectory(prefix="ghostwatt-") as scratch:
            images = Path(scratch) / "calibration.npy"
            np.save(images, photographs.calibration.pixels)
            jobs = [_make_job(runtime, request, prepared, images, Path(scratch) / runtime) for runtime in missing]
            _run_jobs(jobs, request.jobs, tell)
            for job in jobs:
                with cache.store(keys[job.runtime]) as folder:
                    shutil.copytree(job.out, folder, dirs_exist_ok=True)
    found = {runtime: cache.find(key) for runtime, key in keys.items()}
    return {runtime: path for runtime, path in found.items() if path is not None}


def export_key(runtime: str, request: Request, prepared: Prepared, photographs: Photographs) -> str:
    """The cache's key of an export: everything that shapes the artefact."""
    here = Path(__file__).parent
    return make_key(
        runtime=runtime,
        model=request.model,
        weights=prepared.checkpoint.sha256,
        card=prepared.checkpoint.card,
        preprocessing=prepared.preprocessing,
        recipe=prepared.recipe,
        calibration=photographs.calibration.sha256,
        sources=hash_sources(here),
        versions=installed_versions(),
    )


def _make_job(runtime: str, request: Request, prepared: Prepared, images: Path, out: Path) -> ExportJob:
    return ExportJob(
        runtime=runtime,
        model=request.model,
        weights=request.weights,
        input_px=prepared.preprocessing.input_px,
        recipe=prepared.recipe.name,
        calibration=images,
        out=out,
    )


def _run_jobs(jobs: list[ExportJob], at_a_time: int, tell: Tell) -> None:
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(at_a_time, len(jobs)), mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(run_export_job, job): job for job in jobs}
        for job in jobs:
            tell(f"export {job.runtime}", "start")
        try:
            for future in as_completed(futures):
                future.result()
                tell(f"export {futures[future].runtime}", "done")
        except BrokenProcessPool as error:
            raise ConversionError(
                f"export {futures[future].runtime}",
                "its process was killed",
                expected="about 1.2 GB of free memory an export",
                remedy="pass --jobs 1, or free some memory",
                reason="export",
            ) from error
        except BaseException:
            for process in multiprocessing.active_children():  # lowering can't be interrupted from inside
                process.terminate()
            raise


def run_export_job(job: ExportJob) -> None:
    """Exports in this process; the entry point of a spawned one."""
    prepared = _prepare(load_checkpoint(job.model, job.weights), job.input_px, job.recipe)
    job.out.mkdir(parents=True)
    with quiet():  # the toolchains talk while they are imported, too
        exporter = load_exporter(job.runtime)
        exported = exporter.export(
            prepared.network, np.load(job.calibration), recipe=prepared.recipe, out=job.out / f"model.{exporter.suffix}"
        )
    (job.out / EXPORTED_NAME).write_bytes(msgspec.json.encode(exported))


def choose(request: Request, prepared: Prepared) -> Photographs:
    """Chooses the photographs: the user's folders where given, else the pack beside the weights.

    With a calibration folder but none to verify with, and no pack, the photographs after the calibration's own are taken.

    Raises:
        ConversionError: there is nothing to calibrate with.
    """
    spec = prepared.preprocessing
    labels = prepared.checkpoint.card.labels
    pack = prepared.checkpoint.path.with_name(prepared.checkpoint.path.stem + PACK_SUFFIX)
    if request.calibration is None and not pack.is_file():
        raise ConversionError(
            str(prepared.checkpoint.path),
            "comes without photographs",
            expected="a folder of photographs like those that the camera will see",
            remedy="pass --calibration DIR",
            reason="calibration",
        )
    if request.calibration is None:
        calibration = read_pack(pack, "calibration", labels, spec)
    else:
        calibration = read_folder(request.calibration, spec, count=CALIBRATION_IMAGES)
    if request.verification is not None:
        verification = read_labelled(request.verification, labels, spec)
    elif pack.is_file():
        verification = read_pack(pack, "verification", labels, spec)
    else:
        assert request.calibration is not None  # without both, the check above has refused
        verification = read_folder(request.calibration, spec, count=VERIFICATION_IMAGES, skip=CALIBRATION_IMAGES)
    return Photographs(calibration, verification)


def verify_all(prepared: Prepared, photographs: Photographs, exports: dict[str, Path]) -> dict[str, Verified]:
    """Runs each artefact as the board will, and compares with eager fp32.

    Raises:
        ConversionError: an artefact is worse than its recipe promises.
    """
    images = photographs.verification
    eager = eager_logits(prepared.network, images.pixels)
    verified: dict[str, Verified] = {}
    for runtime, folder in exports.items():
        exported = msgspec.json.decode((folder / EXPORTED_NAME).read_bytes(), type=Exported)
        logits = artefact_logits(runtime, folder / exported.file, images.pixels, input=exported.input, output=exported.output)
        verification = compare(logits, eager, images.labels)
        require_floor(runtime, verification, prepared.recipe)
        verified[runtime] = Verified(exported, verification, logits[:GOLDEN_IMAGES])
    return verified


def write_bundle(
    request: Request, prepared: Prepared, photographs: Photographs, exports: dict[str, Path], verified: dict[str, Verified]
) -> Manifest:
    """Writes the bundle beside its place, opens it as the board will, and only then puts it there."""
    request.out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{request.out.name}-", dir=request.out.parent))
    try:
        manifest = _fill(scratch, request, prepared, photographs, exports, verified)
        open_bundle(scratch)
        scratch.chmod(0o755)
        replace_folder(scratch, request.out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _fill(
    folder: Path,
    request: Request,
    prepared: Prepared,
    photographs: Photographs,
    exports: dict[str, Path],
    verified: dict[str, Verified],
) -> Manifest:
    card = prepared.checkpoint.card
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in card.labels), encoding="utf-8")
    for runtime, source in exports.items():
        shutil.copyfile(source / verified[runtime].exported.file, folder / verified[runtime].exported.file)
    golden = {runtime: result.golden for runtime, result in verified.items()}
    write_golden(folder / GOLDEN_NAME, Golden(photographs.verification.pixels[:GOLDEN_IMAGES], golden))
    artefacts = tuple(_describe_artefact(runtime, prepared, result) for runtime, result in verified.items())
    model = ModelCard(
        name=request.model,
        weights=prepared.checkpoint.name,
        weights_sha256=prepared.checkpoint.sha256,
        parameters=count_parameters(prepared.checkpoint.model),
        macs=count_macs(prepared.checkpoint.model, input_px=prepared.preprocessing.input_px),
        num_classes=len(card.labels),
        preprocessing=prepared.preprocessing,
    )
    versions = {"ghostwatt": __version__, **installed_versions()}
    write_report(folder, _make_report(request, prepared, photographs, verified, model, artefacts, folder, versions))
    manifest = Manifest(
        schema=MANIFEST_SCHEMA,
        profile=_resolve_profile(request),
        model=model,
        artefacts=artefacts,
        files=tuple(describe_file(path) for path in sorted(folder.iterdir())),
        versions=versions,
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def _resolve_profile(request: Request) -> Profile:
    """The profile with the user's own choice of model in it: what was asked for is what is written down."""
    profile = request.profile.profile
    model = msgspec.structs.replace(profile.model, name=request.model, weights=request.weights)
    return msgspec.structs.replace(profile, model=model)


def _describe_artefact(runtime: str, prepared: Prepared, result: Verified) -> Artefact:
    exported = result.exported
    return Artefact(
        runtime=runtime,
        file=exported.file,
        precision=prepared.recipe.precision,
        recipe=prepared.recipe.name,
        input=exported.input,
        output=exported.output,
        delegates=exported.delegates,
        undelegated_ops=exported.undelegated_ops,
        sqnr_db=round(result.verification.sqnr_db, 2),
        top1_agreement=round(result.verification.top1_agreement, 4),
    )


def _make_report(
    request: Request,
    prepared: Prepared,
    photographs: Photographs,
    verified: dict[str, Verified],
    model: ModelCard,
    artefacts: tuple[Artefact, ...],
    folder: Path,
    versions: dict[str, str],
) -> Report:
    return Report(
        profile=request.profile.profile.name,
        model=model,
        card=prepared.checkpoint.card,
        recipe=prepared.recipe,
        artefacts=tuple(
            ArtefactReport(artefact, (folder / artefact.file).stat().st_size, verified[artefact.runtime].verification)
            for artefact in artefacts
        ),
        calibration_images=len(photographs.calibration.pixels),
        verification_source=photographs.verification.origin,
        versions=versions,
    )


def replace_folder(new: Path, place: Path) -> None:
    """Puts ``new`` at ``place``; what was there stays whole until then, and comes back if the exchange is interrupted."""
    if not place.exists():
        new.replace(place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}-old-", dir=place.parent))
    place.replace(old / place.name)
    try:
        new.replace(place)
    except BaseException:
        (old / place.name).replace(place)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def convert(request: Request, tell: Tell) -> Manifest:
    """Runs every stage, in order.

    Raises:
        ConversionError: a checkpoint, a photograph, a graph or an artefact that isn't good enough. The bundle that was
            there before stays as it was.
    """

    def stage(name: str, action: Callable[[], T]) -> T:
        tell(name, "start")
        try:
            result = action()
        except BaseException:
            tell(name, "failed")
            raise
        tell(name, "done")
        return result

    prepared = stage("load", lambda: load(request))
    photographs = stage("photographs", lambda: choose(request, prepared))
    exports = export_all(request, prepared, photographs, tell)
    verified = stage("verify", lambda: verify_all(prepared, photographs, exports))
    return stage("write", lambda: write_bundle(request, prepared, photographs, exports, verified))
