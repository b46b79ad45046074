"""The conversion as a list of stages: load, choose photographs, export, verify, time, write.

Each stage is a function: it takes what earlier stages produced, and returns what it adds. The exports, and the measurement of
what each rounding costs, run in processes of their own (see `converter.work.jobs`), and their results are cached by content.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import fx

from converter.data.photographs import ImageSet, Photographs, choose_photographs
from converter.evaluate.accuracy import change
from converter.evaluate.latency import Latency, measure_latency
from converter.evaluate.sensitivity import IMAGES, SENSITIVITY_TARGET, LayerNoise, SensitivityRequest, read_layers
from converter.evaluate.verify import Verification, artefact_logits, compare, eager_logits, require_floor
from converter.exporters import Exported, default_recipe, exporter_names, load_exporter, toolchain_versions
from converter.exporters.job import EXPORT_TARGET, ExportRequest, Lowered, TrainedNetwork, read_artefact, toolchain_key
from converter.models.counting import count_macs, count_parameters
from converter.profiles import LoadedProfile
from converter.quantise.folding import fold
from converter.quantise.recipes import Recipe, find_recipe
from converter.report.page import write_page
from converter.report.record import ArtefactReport, ConversionReport, PhotographSet, judge, summarise_noise, write_report
from converter.weights.checkpoints import Checkpoint, load_checkpoint
from converter.work.cache import Cache, hash_imported, make_key
from converter.work.jobs import CachedJob, run_jobs
from converter.work.progress import ProgressCallback
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
from device.core.durable import replacing_folder
from device.core.errors import GhostwattError

GOLDEN_IMAGES = 8
SENSITIVITY = "sensitivity"

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True):
    """What to convert, for whom, and where to.

    Attributes:
        profile: resolved.
        model: variant; the profile's, or the one that the user chose.
        weights: the profile's, or those that the user chose.
        out: the bundle's folder.
        cache: folder with the results of earlier conversions.
        calibration: folder of photographs; None takes those that come with the weights.
        verification: labelled folder; None takes those that come with the weights.
        jobs: how many long stages run at once.
        recipe: name of the recipe for every format; None takes each format's default for the profile's precision.
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
        preprocessing: that the weights demand, at the profile's input size.
        network: with batch norms and normalisation folded in; see `converter.quantise.folding`.
        recipes: runtime name -> how to quantise for its format.
    """

    checkpoint: Checkpoint
    preprocessing: Preprocessing
    network: fx.GraphModule
    recipes: dict[str, Recipe]


class ExportResults(msgspec.Struct, frozen=True):
    """What the long stages produced.

    Attributes:
        artefacts: runtime name -> the artefact.
        layers: what each rounding costs, worst first; empty if nothing is rounded.
    """

    artefacts: dict[str, Lowered]
    layers: tuple[LayerNoise, ...]


class Verified(msgspec.Struct, frozen=True):
    """An artefact, how near it comes to eager fp32, and its logits, ``(N, C)`` float32."""

    exported: Exported
    verification: Verification
    logits: NDArray[np.float32]


class Results(msgspec.Struct, frozen=True):
    """What the network and its artefacts computed on the verification photographs.

    Attributes:
        eager: logits of the network itself in fp32, ``(N, C)`` float32.
        artefacts: one for each runtime.
    """

    eager: NDArray[np.float32]
    artefacts: dict[str, Verified]


class Conversion(msgspec.Struct, frozen=True):
    """The results of all stages: everything that a bundle is written from."""

    request: Request
    prepared: Prepared
    photographs: Photographs
    exports: ExportResults
    results: Results
    latency: Latency


def load(request: Request) -> Prepared:
    """Loads the checkpoint, checks it, and folds it."""
    checkpoint = load_checkpoint(request.model, request.weights)
    preprocessing = msgspec.structs.replace(checkpoint.card.preprocessing, input_px=request.profile.profile.model.input_px)
    return Prepared(checkpoint, preprocessing, fold(checkpoint.model, preprocessing), choose_recipes(request))


def choose_recipes(request: Request) -> dict[str, Recipe]:
    """Gives the recipe of each format: the one that the user asked for, or the default for the profile's precision.

    Raises:
        UsageError: there is no recipe of that name, or no exporter for the profile's runtime.
    """
    load_exporter(request.profile.artefact)
    if request.recipe is not None:
        return dict.fromkeys(exporter_names(), find_recipe(request.recipe))
    precision = request.profile.profile.model.precision
    return {runtime: default_recipe(precision, runtime) for runtime in exporter_names()}


def export_all(
    request: Request,
    prepared: Prepared,
    photographs: Photographs,
    report: ProgressCallback,
    *,
    is_sensitivity_wanted: bool = True,
) -> ExportResults:
    """Exports to every format and measures what each rounding costs. Results of earlier conversions come from the cache.

    The measurement is last in the list, so it runs beside the export that takes longest.

    Raises:
        ConversionError: the graph is not wholly inside one delegate.
    """
    with tempfile.TemporaryDirectory(prefix="ghostwatt-") as scratch:
        calibration, verification = Path(scratch) / "calibration.npy", Path(scratch) / "verification.npy"
        np.save(calibration, photographs.calibration.pixels)
        np.save(verification, photographs.verification.pixels[:IMAGES])
        jobs = {
            runtime: CachedJob(
                f"export {runtime}",
                export_key(runtime, request, prepared, photographs),
                EXPORT_TARGET,
                _export_request(runtime, request, prepared, calibration),
            )
            for runtime in prepared.recipes
        }
        chosen = prepared.recipes[request.profile.artefact]
        if is_sensitivity_wanted and chosen.precision == "int8":
            jobs[SENSITIVITY] = CachedJob(
                SENSITIVITY,
                sensitivity_key(request, prepared, photographs),
                SENSITIVITY_TARGET,
                SensitivityRequest(
                    request.model, request.weights, prepared.preprocessing, chosen, str(calibration), str(verification)
                ),
            )
        folders = _run_all(list(jobs.values()), request, report)
    layers = read_layers(folders[SENSITIVITY]) if SENSITIVITY in jobs else ()
    return ExportResults({runtime: read_artefact(folders[jobs[runtime].title]) for runtime in prepared.recipes}, layers)


def _export_request(runtime: str, request: Request, prepared: Prepared, calibration: Path) -> ExportRequest:
    network = TrainedNetwork(request.model, request.weights, prepared.preprocessing)
    return ExportRequest(runtime, network, prepared.recipes[runtime], str(calibration))


def export_key(runtime: str, request: Request, prepared: Prepared, photographs: Photographs) -> str:
    """Key of an export in the cache: a hash of everything that shapes the artefact."""
    return make_key(
        **toolchain_key(runtime),
        model=request.model,
        weights=prepared.checkpoint.sha256,
        card=prepared.checkpoint.card,
        preprocessing=prepared.preprocessing,
        recipe=prepared.recipes[runtime],
        calibration=photographs.calibration.sha256,
    )


def sensitivity_key(request: Request, prepared: Prepared, photographs: Photographs) -> str:
    """Key in the cache of what each rounding costs."""
    return make_key(
        stage=SENSITIVITY,
        sources=hash_imported("converter.evaluate.sensitivity"),
        export=export_key(request.profile.artefact, request, prepared, photographs),
        verification=photographs.verification.sha256,
    )


def _run_all(jobs: list[CachedJob], request: Request, report: ProgressCallback) -> dict[str, Path]:
    """Runs the jobs. Gives each job's title -> the folder of its result."""
    folders: dict[str, Path] = {}
    # Closed at once if one fails, so that the others end, too.
    with contextlib.closing(run_jobs(jobs, Cache(request.cache), request.jobs, report)) as ended:
        for job, result in ended:
            if isinstance(result, GhostwattError):
                raise result
            folders[job.title] = result
    return folders


def choose(request: Request, prepared: Prepared) -> Photographs:
    """Chooses the photographs: the user's folders where given, else the pack beside the weights."""
    return choose_photographs(
        prepared.checkpoint, prepared.preprocessing, calibration=request.calibration, verification=request.verification
    )


def verify_all(prepared: Prepared, photographs: Photographs, exports: ExportResults) -> Results:
    """Runs each artefact as the board will, and compares its logits with those of eager fp32.

    Raises:
        ConversionError: an artefact is below the floor of its recipe.
    """
    pixels = photographs.verification.pixels
    eager = eager_logits(prepared.network, pixels)
    verified: dict[str, Verified] = {}
    for runtime, (path, exported) in exports.artefacts.items():
        logits = artefact_logits(runtime, path, pixels, exported)
        verification = compare(logits, eager)
        require_floor(runtime, verification, prepared.recipes[runtime], exports.layers)
        verified[runtime] = Verified(exported, verification, logits)
    return Results(eager, verified)


def time_all(prepared: Prepared, photographs: Photographs, exports: ExportResults, results: Results) -> Latency:
    """Measures the latency of each artefact on this machine."""
    models = {
        exports.artefacts[runtime].path: _describe_artefact(runtime, prepared, result)
        for runtime, result in results.artefacts.items()
    }
    return measure_latency(models, photographs.verification.pixels)


def write_bundle(made: Conversion) -> Manifest:
    """Writes the bundle beside its place, opens it as the board will, and only then moves it to its place."""
    made.request.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(made.request.out) as folder:
        manifest = _fill(folder, made)
        open_bundle(folder)
    return manifest


def _fill(folder: Path, made: Conversion) -> Manifest:
    prepared, artefacts = made.prepared, made.results.artefacts
    card = prepared.checkpoint.card
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in card.labels), encoding="utf-8")
    for runtime, result in artefacts.items():
        shutil.copyfile(made.exports.artefacts[runtime].path, folder / result.exported.file)
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
    versions = {"ghostwatt": __version__, **toolchain_versions()}
    record = _make_report(made, model, versions, folder)
    write_report(folder, record)
    manifest = Manifest(
        schema=manifest_schema_for(made.request.profile.profile),
        profile=_resolve_profile(made.request),
        model=model,
        artefacts=tuple(_describe_artefact(runtime, prepared, result) for runtime, result in artefacts.items()),
        files=tuple(describe_file(path) for path in sorted(folder.iterdir())),
        versions=versions,
    )
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    # Not listed in the manifest: the page shows latencies, which differ from run to run. See `converter.report.record`.
    write_page(folder, record, made.latency)
    return manifest


def _resolve_profile(request: Request) -> Profile:
    """The profile, with the model, weights and precision that were really used."""
    profile = request.profile.profile
    precision = choose_recipes(request)[request.profile.artefact].precision
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
    chosen = made.request.profile.artefact
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


def convert(request: Request, report: ProgressCallback) -> Manifest:
    """Runs every stage, in order.

    Raises:
        ConversionError: a checkpoint, a photograph, a graph or an artefact isn't good enough. An existing bundle stays as it
            was.
    """

    def stage(name: str, action: Callable[[], T]) -> T:
        report(name, "start")
        try:
            result = action()
        except BaseException:
            report(name, "failed")
            raise
        report(name, "done")
        return result

    prepared = stage("load", lambda: load(request))
    photographs = stage("photographs", lambda: choose(request, prepared))
    exports = export_all(request, prepared, photographs, report)
    results = stage("verify", lambda: verify_all(prepared, photographs, exports))
    latency = stage("latency", lambda: time_all(prepared, photographs, exports, results))
    made = Conversion(request, prepared, photographs, exports, results, latency)
    return stage("write", lambda: write_bundle(made))
