"""The conversion, as a list of stages: load, choose photographs, export, verify, time, write.

Each stage is a function from what came before to what it adds. The exports, and the measurement of what each rounding costs,
run in processes of their own: two at once on two cores, and their memory is given back. They are cached by content.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from converter.data.photographs import ImageSet, Photographs, choose_photographs
from converter.evaluate.accuracy import change
from converter.evaluate.latency import Latency, measure_latency
from converter.evaluate.sensitivity import IMAGES, LayerNoise, measure_sensitivity
from converter.evaluate.verify import Verification, artefact_logits, compare, eager_logits, require_floor
from converter.exporters import Exported, load_exporter
from converter.exporters.quiet import quiet
from converter.models.counting import count_macs, count_parameters
from converter.profiles import LoadedProfile
from converter.quantise.folding import fold
from converter.quantise.recipes import Recipe, default_recipe, find_recipe
from converter.report.page import write_page
from converter.report.record import ArtefactReport, ConversionReport, PhotographSet, judge, summarise_noise, write_report
from converter.weights.checkpoints import Checkpoint, load_checkpoint
from converter.work.cache import Cache, hash_sources, installed_versions, make_key
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
from device.contract import Artefact, Manifest, ModelCard, Preprocessing, Profile, manifest_schema_for
from device.core.errors import ConversionError

RUNTIMES = ("executorch", "litert")
"""Formats of a bundle, the one that takes longer to make first."""

GOLDEN_IMAGES = 8
EXPORTED_NAME = "exported.json"
SENSITIVITY = "sensitivity"
LAYERS_NAME = "layers.json"

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
        jobs: long stages at a time.
        recipe: for every format, by name; None takes each format's default for the profile's precision.
    """

    profile: LoadedProfile
    model: str
    weights: str
    out: Path
    cache: Path
    calibration: Path | None = None
    verification: Path | None = None
    jobs: int = 2
    recipe: str | None = None


class Prepared(msgspec.Struct, frozen=True):
    """A network ready to export.

    Attributes:
        checkpoint: as loaded.
        preprocessing: the weights', at the profile's input size.
        network: batch norm and normalisation folded in; see `converter.quantise.folding`.
        recipes: runtime name -> how to quantise for its format.
    """

    checkpoint: Checkpoint
    preprocessing: Preprocessing
    network: fx.GraphModule
    recipes: dict[str, Recipe]


class Job(msgspec.Struct, frozen=True):
    """A long stage in a process of its own, and all that it needs.

    Attributes:
        stage: `SENSITIVITY`, or the export's name.
        runtime: whose format to export to, or whose recipe to simulate.
        model: variant.
        weights: as the user named them.
        input_px: side of the square that the network sees.
        recipe: by name.
        calibration: ``.npy`` file of the pixels.
        verification: likewise.
        out: folder that the stage makes and fills.
    """

    stage: str
    runtime: str
    model: str
    weights: str
    input_px: int
    recipe: str
    calibration: Path
    verification: Path
    out: Path


class Exports(msgspec.Struct, frozen=True):
    """What the long stages made.

    Attributes:
        folders: runtime name -> folder with the artefact and `EXPORTED_NAME`.
        layers: what each rounding costs, worst first; empty where nothing is rounded.
    """

    folders: dict[str, Path]
    layers: tuple[LayerNoise, ...]


class Verified(msgspec.Struct, frozen=True):
    """An artefact, what it was found to be worth, and its logits, ``(N, C)`` float32."""

    exported: Exported
    verification: Verification
    logits: NDArray[np.float32]


class Results(msgspec.Struct, frozen=True):
    """What running the artefacts gave.

    Attributes:
        eager: ``(N, C)`` float32, of the network itself.
        artefacts: one a runtime.
    """

    eager: NDArray[np.float32]
    artefacts: dict[str, Verified]


class Conversion(msgspec.Struct, frozen=True):
    """What every stage gave; all that a bundle is written from."""

    request: Request
    prepared: Prepared
    photographs: Photographs
    exports: Exports
    results: Results
    latency: Latency


def load(request: Request) -> Prepared:
    """Loads the checkpoint, checks it, folds it."""
    checkpoint = load_checkpoint(request.model, request.weights)
    return _prepare(checkpoint, request.profile.profile.model.input_px, choose_recipes(request))


def choose_recipes(request: Request) -> dict[str, Recipe]:
    """The recipe of each format: the one that was asked for, or the default of the profile's precision.

    Raises:
        UsageError: there is no recipe of that name.
    """
    if request.recipe is not None:
        return dict.fromkeys(RUNTIMES, find_recipe(request.recipe))
    precision = request.profile.profile.model.precision
    return {runtime: default_recipe(precision, runtime) for runtime in RUNTIMES}


def _prepare(checkpoint: Checkpoint, input_px: int, recipes: dict[str, Recipe]) -> Prepared:
    preprocessing = msgspec.structs.replace(checkpoint.card.preprocessing, input_px=input_px)
    return Prepared(checkpoint, preprocessing, fold(checkpoint.model, preprocessing), recipes)


def export_all(
    request: Request, prepared: Prepared, photographs: Photographs, tell: Tell, *, is_sensitivity_wanted: bool = True
) -> Exports:
    """Exports to every format, and measures what each rounding costs; what an earlier conversion made is taken from the cache.

    The measurement comes last, so that it runs beside the export that takes longer.

    Raises:
        ConversionError: the graph is not wholly inside one delegate.
    """
    cache = Cache(request.cache)
    keys = {_export_name(runtime): export_key(runtime, request, prepared, photographs) for runtime in RUNTIMES}
    if is_sensitivity_wanted and prepared.recipes[request.profile.profile.runtime.name].precision == "int8":
        keys[SENSITIVITY] = sensitivity_key(request, prepared, photographs)
    missing = [stage for stage, key in keys.items() if cache.find(key) is None]
    for stage in keys:
        if stage not in missing:
            tell(stage, "cached")
    if missing:
        with tempfile.TemporaryDirectory(prefix="ghostwatt-") as scratch:
            jobs = _make_jobs(missing, request, prepared, photographs, Path(scratch))
            _run_jobs(jobs, request.jobs, tell)
            for job in jobs:
                with cache.store(keys[job.stage]) as folder:
                    shutil.copytree(job.out, folder, dirs_exist_ok=True)
    found = {stage: path for stage, key in keys.items() if (path := cache.find(key)) is not None}
    layers: tuple[LayerNoise, ...] = ()
    if SENSITIVITY in found:
        layers = msgspec.json.decode((found[SENSITIVITY] / LAYERS_NAME).read_bytes(), type=tuple[LayerNoise, ...])
    return Exports({runtime: found[_export_name(runtime)] for runtime in RUNTIMES}, layers)


def export_key(runtime: str, request: Request, prepared: Prepared, photographs: Photographs) -> str:
    """The cache's key of an export: everything that shapes the artefact."""
    here = Path(__file__).parent
    return make_key(
        runtime=runtime,
        model=request.model,
        weights=prepared.checkpoint.sha256,
        card=prepared.checkpoint.card,
        preprocessing=prepared.preprocessing,
        recipe=prepared.recipes[runtime],
        calibration=photographs.calibration.sha256,
        sources=hash_sources(here),
        versions=installed_versions(),
    )


def sensitivity_key(request: Request, prepared: Prepared, photographs: Photographs) -> str:
    """The cache's key of what each rounding costs."""
    return make_key(
        stage=SENSITIVITY,
        export=export_key(request.profile.profile.runtime.name, request, prepared, photographs),
        verification=photographs.verification.sha256,
    )


def _export_name(runtime: str) -> str:
    return f"export {runtime}"


def _make_jobs(stages: list[str], request: Request, prepared: Prepared, photographs: Photographs, scratch: Path) -> list[Job]:
    runtimes = {_export_name(runtime): runtime for runtime in RUNTIMES} | {SENSITIVITY: request.profile.profile.runtime.name}
    pixels = {"calibration": photographs.calibration.pixels, "verification": photographs.verification.pixels[:IMAGES]}
    for name, images in pixels.items():
        np.save(scratch / f"{name}.npy", images)
    return [
        Job(
            stage=stage,
            runtime=runtimes[stage],
            model=request.model,
            weights=request.weights,
            input_px=prepared.preprocessing.input_px,
            recipe=prepared.recipes[runtimes[stage]].name,
            calibration=scratch / "calibration.npy",
            verification=scratch / "verification.npy",
            out=scratch / stage,
        )
        for stage in stages
    ]


def _run_jobs(jobs: list[Job], at_a_time: int, tell: Tell) -> None:
    # Spawned, not forked: a fork of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(jobs))
    running: dict[Future[None], Job] = {}
    with ProcessPoolExecutor(max_workers=min(at_a_time, len(jobs)), mp_context=context, max_tasks_per_child=1) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < at_a_time:
                    job = waiting.pop()
                    running[pool.submit(run_job, job)] = job
                    tell(job.stage, "start")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    future.result()
                    tell(job.stage, "done")
        except BrokenProcessPool as error:
            raise ConversionError(
                job.stage,
                "its process was killed",
                expected="about 1.2 GB of free memory an export",
                remedy="pass --jobs 1, or free some memory",
                reason="export",
            ) from error
        except BaseException:
            for process in multiprocessing.active_children():  # lowering can't be interrupted from inside
                process.terminate()
            raise


def run_job(job: Job) -> None:
    """Runs a long stage in this process; the entry point of a spawned one."""
    # Jobs run side by side: threads of each would wait for one another's, which took three times as long.
    torch.set_num_threads(1)
    recipe = find_recipe(job.recipe)
    prepared = _prepare(load_checkpoint(job.model, job.weights), job.input_px, {job.runtime: recipe})
    job.out.mkdir(parents=True)
    pixels = np.load(job.calibration)
    if job.stage == SENSITIVITY:
        layers = measure_sensitivity(prepared.network, pixels, np.load(job.verification), recipe)
        (job.out / LAYERS_NAME).write_bytes(msgspec.json.encode(layers))
        return
    with quiet():  # the toolchains talk while they are imported, too
        exporter = load_exporter(job.runtime)
        exported = exporter.export(prepared.network, pixels, recipe=recipe, out=job.out / f"model.{exporter.suffix}")
    (job.out / EXPORTED_NAME).write_bytes(msgspec.json.encode(exported))


def choose(request: Request, prepared: Prepared) -> Photographs:
    """Chooses the photographs: the user's folders where given, else the pack beside the weights."""
    return choose_photographs(
        prepared.checkpoint, prepared.preprocessing, calibration=request.calibration, verification=request.verification
    )


def verify_all(prepared: Prepared, photographs: Photographs, exports: Exports) -> Results:
    """Runs each artefact as the board will, and compares with eager fp32.

    Raises:
        ConversionError: an artefact is worse than its recipe promises.
    """
    pixels = photographs.verification.pixels
    eager = eager_logits(prepared.network, pixels)
    verified: dict[str, Verified] = {}
    for runtime, folder in exports.folders.items():
        exported = msgspec.json.decode((folder / EXPORTED_NAME).read_bytes(), type=Exported)
        logits = artefact_logits(runtime, folder / exported.file, pixels, input=exported.input, output=exported.output)
        verification = compare(logits, eager)
        require_floor(runtime, verification, prepared.recipes[runtime], exports.layers)
        verified[runtime] = Verified(exported, verification, logits)
    return Results(eager, verified)


def time_all(prepared: Prepared, photographs: Photographs, exports: Exports, results: Results) -> Latency:
    """Times each artefact on this machine."""
    models = {
        exports.folders[runtime] / result.exported.file: _describe_artefact(runtime, prepared, result)
        for runtime, result in results.artefacts.items()
    }
    return measure_latency(models, photographs.verification.pixels)


def write_bundle(made: Conversion) -> Manifest:
    """Writes the bundle beside its place, opens it as the board will, and only then puts it there."""
    place = made.request.out
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        manifest = _fill(scratch, made)
        open_bundle(scratch)
        scratch.chmod(0o755)
        replace_folder(scratch, place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _fill(folder: Path, made: Conversion) -> Manifest:
    prepared, artefacts = made.prepared, made.results.artefacts
    card = prepared.checkpoint.card
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in card.labels), encoding="utf-8")
    for runtime, result in artefacts.items():
        shutil.copyfile(made.exports.folders[runtime] / result.exported.file, folder / result.exported.file)
    golden = {runtime: result.logits[:GOLDEN_IMAGES] for runtime, result in artefacts.items()}
    write_golden(folder / GOLDEN_NAME, Golden(made.photographs.verification.pixels[:GOLDEN_IMAGES], golden))
    model = ModelCard(
        name=made.request.model,
        weights=prepared.checkpoint.name,
        weights_sha256=prepared.checkpoint.sha256,
        parameters=count_parameters(prepared.checkpoint.model),
        macs=count_macs(prepared.checkpoint.model, input_px=prepared.preprocessing.input_px),
        num_classes=len(card.labels),
        preprocessing=prepared.preprocessing,
        temperature=card.temperature,
    )
    versions = {"ghostwatt": __version__, **installed_versions()}
    report = _make_report(made, model, versions, folder)
    write_report(folder, report)
    manifest = Manifest(
        schema=manifest_schema_for(made.request.profile.profile),
        profile=_resolve_profile(made.request),
        model=model,
        artefacts=tuple(_describe_artefact(runtime, prepared, result) for runtime, result in artefacts.items()),
        files=tuple(describe_file(path) for path in sorted(folder.iterdir())),
        versions=versions,
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    # Not among the manifest's files: they hold how long an inference took this time. See `converter.report.record`.
    write_page(folder, report, made.latency)
    return manifest


def _resolve_profile(request: Request) -> Profile:
    """The profile with the user's own choice of model and precision in it: what was asked for is what is written down."""
    profile = request.profile.profile
    precision = choose_recipes(request)[profile.runtime.name].precision
    model = msgspec.structs.replace(profile.model, name=request.model, weights=request.weights, precision=precision)
    return msgspec.structs.replace(profile, model=model)


def _describe_artefact(runtime: str, prepared: Prepared, result: Verified) -> Artefact:
    exported = result.exported
    return Artefact(
        runtime=runtime,
        file=exported.file,
        precision=prepared.recipes[runtime].precision,
        recipe=prepared.recipes[runtime].name,
        input=exported.input,
        output=exported.output,
        delegates=exported.delegates,
        undelegated_ops=exported.undelegated_ops,
        sqnr_db=round(result.verification.sqnr_db, 2),
        top1_agreement=round(result.verification.top1_agreement, 4),
    )


def _make_report(made: Conversion, model: ModelCard, versions: dict[str, str], folder: Path) -> ConversionReport:
    prepared, photographs, results = made.prepared, made.photographs, made.results
    labels, temperature = photographs.verification.labels, prepared.checkpoint.card.temperature
    chosen = made.request.profile.profile.runtime.name
    artefacts = [
        ArtefactReport(
            artefact=_describe_artefact(runtime, prepared, result),
            size_bytes=(folder / result.exported.file).stat().st_size,
            operators=result.exported.operators,
            recipe=prepared.recipes[runtime],
            verification=result.verification,
            judgement=None if labels is None else judge(result.logits, labels, temperature),
            change=None if labels is None else change(result.logits, results.eager, labels),
        )
        for runtime, result in results.artefacts.items()
    ]
    return ConversionReport(
        profile=made.request.profile.profile.name,
        runtime=chosen,
        model=model,
        card=prepared.checkpoint.card,
        fp32=None if labels is None else judge(results.eager, labels, temperature),
        artefacts=tuple(sorted(artefacts, key=lambda item: item.artefact.runtime != chosen)),
        calibration=_describe_photographs(photographs.calibration),
        verification=_describe_photographs(photographs.verification),
        sensitivity=summarise_noise(prepared.recipes[chosen].name, IMAGES, made.exports.layers)
        if made.exports.layers
        else None,
        versions=versions,
    )


def _describe_photographs(images: ImageSet) -> PhotographSet:
    return PhotographSet(len(images.pixels), images.origin, images.sha256, images.labels is not None)


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
    results = stage("verify", lambda: verify_all(prepared, photographs, exports))
    latency = stage("latency", lambda: time_all(prepared, photographs, exports, results))
    made = Conversion(request, prepared, photographs, exports, results, latency)
    return stage("write", lambda: write_bundle(made))
