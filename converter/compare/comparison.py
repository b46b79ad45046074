"""The comparison: counts, measures, and judges the claims."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from converter.compare.claims import judge
from converter.compare.exports import NUM_CLASSES, SEED, Outcomes
from converter.compare.latency import Runnable, measure_rounds, summarise
from converter.compare.networks import REFERENCE, ComparedNetwork
from converter.compare.records import SCHEMA, ArmCounts, ArtefactFigures, Comparison, NetworkFigures, with_arm_counts
from converter.data.photographs import PACK_SUFFIX, read_folder, read_pack
from converter.evaluate.verify import open_artefact
from converter.exporters import Pixels, toolchain_versions
from converter.exporters.job import Lowered
from converter.exporters.quiet import quiet
from converter.models import create_model
from converter.models.counting import count_macs, count_parameters
from converter.weights.checkpoints import find_checkpoint, read_card
from converter.work.machine import LoadMeter, MeasuredMachine, describe_machine
from device import __version__
from device.contract import Preprocessing
from device.core.errors import GhostwattError
from device.runtimes.registry import RUNTIMES

INPUT_PX = 224
IMAGES = 16
"""Calibration photographs: enough for ranges like those of trained weights, few enough to be quick."""

LEAST_ROUNDS = 3
"""With fewer there is no spread to show; an interrupted measurement with fewer is dropped."""

_BUSY_CORES = 0.2

Failures = dict[tuple[str, str], str]


class Measurement(msgspec.Struct, frozen=True):
    """The results of the rounds.

    Attributes:
        machine: that measured, with what else ran there.
        rounds_s: (network, runtime) -> latency in each round, in seconds.
        rounds: number of measured rounds.
        wanted: number of requested rounds.
        failures: (network, runtime) -> why its artefact didn't run.
    """

    machine: MeasuredMachine
    rounds_s: dict[tuple[str, str], list[float]]
    rounds: int
    wanted: int
    failures: Failures


def read_photographs(folder: Path | None) -> Pixels:
    """Reads calibration photographs: the user's, or those that ship with the weights.

    Returns:
        ``(N, S, S, 3)`` uint8.

    Raises:
        ConversionError: there are too few, or they are damaged.
    """
    spec = Preprocessing(input_px=INPUT_PX)
    if folder is not None:
        return read_folder(folder, spec, count=IMAGES).pixels
    checkpoint = find_checkpoint(REFERENCE, "clothing")
    pack = checkpoint.with_name(checkpoint.stem + PACK_SUFFIX)
    return read_pack(pack, "calibration", read_card(checkpoint).labels, spec).pixels[:IMAGES]


def measure(
    exports: Outcomes, pixels: Pixels, *, rounds: int, runs: int, machine: MeasuredMachine, report: Callable[[int], None]
) -> Measurement:
    """Measures the latency of every artefact.

    Ctrl-C ends the measurement early. Its rounds count if there are at least `LEAST_ROUNDS`.

    Args:
        exports: from `ExportStore.make`.
        pixels: ``(1, S, S, 3)`` uint8.
        rounds: number of rounds.
        runs: inferences of one network in one round.
        machine: this machine.
        report: called with the number of finished rounds.

    Raises:
        KeyboardInterrupt: too early for a result.
    """
    with ExitStack() as stack:
        with quiet():  # LiteRT prints that it made a delegate
            sessions, failures = _open(exports, pixels, stack)
        load = LoadMeter()
        figures: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
        done = 0
        try:
            for found in measure_rounds(sessions, pixels, runs=runs) if sessions else ():
                for key, duration_s in found.items():
                    figures[key].append(duration_s)
                done += 1
                report(done)
                if done == rounds:
                    break
        except KeyboardInterrupt:
            if done < LEAST_ROUNDS:
                raise
            figures = {key: values[:done] for key, values in figures.items()}
    return Measurement(load.finish(machine), figures, done, rounds, failures)


def _open(exports: Outcomes, pixels: Pixels, stack: ExitStack) -> tuple[dict[tuple[str, str], Runnable], Failures]:
    sessions: dict[tuple[str, str], Runnable] = {}
    failures: Failures = {}
    for (network, runtime), lowered in exports.items():
        if isinstance(lowered, str):
            continue
        try:
            session = stack.enter_context(open_artefact(runtime, lowered.path, lowered.exported))
            session.run(pixels)
        except GhostwattError as error:
            failures[network, runtime] = str(error)
        else:
            sessions[network, runtime] = session
    return sessions, failures


def this_machine(runtimes: Sequence[str]) -> MeasuredMachine:
    """Describes the machine, with the versions of the runtimes and of the toolchains."""
    return describe_machine(
        {"ghostwatt": __version__, **{name: RUNTIMES.load(name)().version for name in runtimes}, **toolchain_versions()}
    )


def build(
    networks: Sequence[ComparedNetwork],
    runtimes: Sequence[str],
    exports: Outcomes,
    measurement: Measurement,
    *,
    runs: int,
    arm_counts: ArmCounts,
) -> Comparison:
    """Combines all figures, and judges the claims."""
    rows = tuple(with_arm_counts(_make_row(network, runtimes, exports, measurement), arm_counts) for network in networks)
    return Comparison(
        schema=SCHEMA,
        measured_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=measurement.machine,
        runtimes=tuple(runtimes),
        reference=REFERENCE,
        input_px=INPUT_PX,
        num_classes=NUM_CLASSES,
        rounds=measurement.rounds,
        runs=runs,
        notes=tuple(make_notes(measurement, runs)),
        rows=rows,
        verdicts=judge(rows, runtimes),
    )


def add_arm_counts(comparison: Comparison, counts: ArmCounts) -> Comparison:
    """Adds instructions that were counted later to a comparison, and judges again."""
    rows = tuple(with_arm_counts(row, counts) for row in comparison.rows)
    return msgspec.structs.replace(comparison, rows=rows, verdicts=judge(rows, comparison.runtimes))


def make_notes(measurement: Measurement, runs: int) -> list[str]:
    """Makes the remarks to show with the figures."""
    machine = measurement.machine
    notes = [
        f"Weights are fresh (seed {SEED}) and batch norms set from {IMAGES} photographs: int8 speed doesn't depend on weights. "
        "Accuracy is as published, in fp32; it was not measured here.",
        f"Latency: int8, one image, 1 thread. In each of {measurement.rounds} rounds the networks take turns in a new order, "
        f"with {runs} inferences each. Shown are median, p10 and p90 of the rounds' medians.",
        "The article's milliseconds are from another machine: only their ratio can be checked on this one.",
    ]
    if measurement.rounds < measurement.wanted:
        notes.append(f"Interrupted after {measurement.rounds} of {measurement.wanted} rounds.")
    if machine.other_load_cores is not None and machine.other_load_cores > _BUSY_CORES:
        notes.append(
            f"The machine was busy: other programs took {machine.other_load_cores:.1f} of {machine.cores} cores meanwhile. "
            "Ratios within a round suffer less from that than milliseconds do."
        )
    return notes


def _make_row(network: ComparedNetwork, runtimes: Sequence[str], exports: Outcomes, measurement: Measurement) -> NetworkFigures:
    model = create_model(network.model, num_classes=NUM_CLASSES, **network.options)
    return NetworkFigures(
        network=network.name,
        description=network.description,
        parameters=count_parameters(model),
        macs=count_macs(model, input_px=INPUT_PX),
        published=network.published,
        artefacts=tuple(_describe(network.name, runtime, exports, measurement) for runtime in runtimes),
    )


def _describe(network: str, runtime: str, exports: Outcomes, measurement: Measurement) -> ArtefactFigures:
    lowered = exports[network, runtime]
    failure = lowered if isinstance(lowered, str) else measurement.failures.get((network, runtime))
    if failure is not None or not isinstance(lowered, Lowered):
        return ArtefactFigures(runtime, failure=failure)
    data = lowered.path.read_bytes()
    rounds_s = measurement.rounds_s
    reference_s = rounds_s.get((REFERENCE, runtime))
    return ArtefactFigures(
        runtime,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        timing=summarise(rounds_s[network, runtime], reference_s),
    )
