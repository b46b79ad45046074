"""Latency of artefacts on this machine, kept with the machine's name and the time, since it is true of no other.

It serves to compare artefacts. The latency of a board is measured on the board.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from converter.evaluate.accuracy import Pixels
from converter.exporters import toolchain_versions
from converter.work.machine import LoadMeter, MeasuredMachine, describe_machine
from device.contract import Artefact
from device.protocols import Percentiles
from device.runtimes.registry import RUNTIMES

THREADS = 1
WARM_UP_INFERENCES = 10
MOST_INFERENCES = 300
LEAST_INFERENCES = 100
"""With fewer, the 99th percentile would be the slowest inference."""

_BUDGET_S = 3.0  # a slow network is measured no longer than this


class ArtefactLatency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency of one artefact.

    Attributes:
        runtime: that ran it.
        runtime_version: name and version, as the runtime reports them.
        threads: number of threads.
        inferences: number of timed inferences, after the warm-up.
        latency_s: of one inference, from pixels to scores.
    """

    runtime: str
    runtime_version: str
    threads: int
    inferences: int
    latency_s: Percentiles


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The latencies of all artefacts of a bundle.

    Attributes:
        measured_at_utc: ISO 8601, to the minute.
        machine: that they were measured on, and what else ran there meanwhile.
        artefacts: one for each runtime.
    """

    measured_at_utc: str
    machine: MeasuredMachine
    artefacts: tuple[ArtefactLatency, ...]


def measure_latency(models: Mapping[Path, Artefact], pixels: Pixels) -> Latency:
    """Measures the latency of artefacts, one after the other.

    Args:
        models: file -> its entry in the manifest.
        pixels: ``(N, S, S, 3)`` uint8: images, used in turn.
    """
    load = LoadMeter()
    taken = tuple(measure_artefact(artefact, model, pixels) for model, artefact in models.items())
    machine = load.finish(describe_machine(toolchain_versions()))
    return Latency(datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"), machine, taken)


def measure_artefact(artefact: Artefact, model: Path, pixels: Pixels, *, budget_s: float = _BUDGET_S) -> ArtefactLatency:
    """Measures single inferences of one artefact.

    Args:
        artefact: its entry in the manifest.
        model: its file.
        pixels: ``(N, S, S, 3)`` uint8: images, used in turn.
        budget_s: the measurement ends after this time, once there are `LEAST_INFERENCES`.
    """
    taken_s: list[float] = []
    runtime = RUNTIMES.load(artefact.runtime)()
    with runtime.open(model, input=artefact.input, output=artefact.output, threads=THREADS) as session:
        for index in range(WARM_UP_INFERENCES):
            session.run(pixels[index % len(pixels)][None])
        begun_s = time.perf_counter()
        while len(taken_s) < MOST_INFERENCES:
            if len(taken_s) >= LEAST_INFERENCES and time.perf_counter() - begun_s > budget_s:
                break
            image = pixels[len(taken_s) % len(pixels)][None]
            started_s = time.perf_counter()
            session.run(image)
            taken_s.append(time.perf_counter() - started_s)
        threads = session.threads
    p50_s, p90_s, p99_s = (round(float(value), 7) for value in np.quantile(taken_s, (0.5, 0.9, 0.99), method="inverted_cdf"))
    return ArtefactLatency(artefact.runtime, runtime.version, threads, len(taken_s), Percentiles(p50_s, p90_s, p99_s))
