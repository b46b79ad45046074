"""Lists figures for programs: CSV with a row per figure, and JSON. Both need the standard library and msgspec alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from device.protocols import PowerOrigin, RunRecord
from device.report.subjects import Range, Report, Subject
from device.report.summary import RunReport
from device.report.throttling import ThrottleState
from device.report.words import Kind, format_duration, name_kind
from device.telemetry.read import Extent


class FigureRow(msgspec.Struct, frozen=True):
    """A row of the CSV.

    Attributes:
        of: ``run``, ``together`` (the runs of one setting) or ``bench``.
        name: with its unit, as in telemetry.
        value: of the figure.
        low: least of the intervals of a run, the runs of a setting or the rounds of a benchmark; None for a sum.
        high: greatest of them; None for a sum.
        source: of power; empty for what the program counts itself.
        scope: what the power covers; empty for what the program counts itself.
        kind: ``measured`` or ``estimated``.
        throttled: whether the processor was slowed down meanwhile.
        run_id: of the run, or of the runs together, separated by spaces; a benchmark's file.
    """

    of: Literal["run", "together", "bench"]
    profile: str
    board: str
    model: str
    runtime: str
    threads: int
    name: str
    value: float
    low: float | None
    high: float | None
    source: str
    scope: str
    kind: Kind
    throttled: ThrottleState
    run_id: str
    started_at_utc: str


def list_figures(report: Report) -> list[FigureRow]:
    """Lists every figure of a report, with all that must be said beside it."""
    figures = [figure for run in report.runs for figure in _figures_of_run(run)]
    return figures + [figure for subject in report.subjects for figure in _figures_of_subject(subject)]


def encode_csv(report: Report) -> str:
    """Encodes the figures, one per line; numbers are exact."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FigureRow.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(figure) for figure in list_figures(report))
    return stream.getvalue()


def encode_json(report: Report) -> str:
    """Encodes the report as one JSON object."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def format_runs(path: str, runs: Sequence[tuple[RunRecord, Extent | None]]) -> str:
    """Lists a store's runs, one per line."""
    lines = [path]
    for run, extent in runs:
        length = (
            "nothing recorded"
            if extent is None
            else f"{format_duration(extent.end_s - extent.start_s)}, {extent.rows} intervals"
        )
        lines.append(f"  {run.run_id[:12]:<13}{run.started_at_utc:<27}{run.profile:<18}{run.runtime:<12}{length}")
    return "\n".join(lines)


_COUNTED: dict[str, Any] = {"source": "", "scope": "", "kind": "measured"}
"""The origin of what the program counts itself."""


def _origin(power: PowerOrigin) -> dict[str, Any]:
    return {"source": power.source, "scope": power.scope, "kind": name_kind(power.is_estimate)}


def _figures_of_run(run: RunReport) -> Iterator[FigureRow]:
    def row(name: str, value: float, low: float | None = None, high: float | None = None, **origin: Any) -> FigureRow:
        return FigureRow(
            of="run",
            profile=run.run.profile,
            board=run.run.board,
            model=run.run.model,
            runtime=run.run.runtime,
            threads=run.run.threads,
            name=name,
            value=value,
            low=low,
            high=high,
            throttled=run.throttling.state,
            run_id=run.run.run_id,
            started_at_utc=run.run.started_at_utc,
            **(_COUNTED | origin),
        )

    yield row("recorded_s", run.recorded_s)
    yield row("frames", run.frames)
    yield row("dropped", run.dropped)
    yield row("fps", run.fps, run.least_fps, run.most_fps)
    for name, band in run.latency_s.items():
        yield row(f"latency_{name}_s", band.middle, band.least, band.most)
    if run.temperature_c:
        low, mean, high = run.temperature_c
        yield row("temperature_c", mean, low, high)
    for power in run.power:
        origin = _origin(power)
        yield row("power_w", power.power_w, power.least_w, power.most_w, **origin)
        yield row("energy_j", power.energy_j, **origin)
        yield row("power_covered_s", power.covered_s, **origin)
        if power.energy_per_inference_j is not None:
            yield row("energy_per_inference_j", power.energy_per_inference_j, **origin)
        if power.fps_per_w is not None:
            yield row("fps_per_w", power.fps_per_w, **origin)


def _figures_of_subject(subject: Subject) -> Iterator[FigureRow]:
    def row(name: str, figure: Range, **origin: Any) -> FigureRow:
        return FigureRow(
            of="bench" if subject.method == "bench" else "together",
            profile=subject.profile,
            board=subject.board,
            model=subject.model,
            runtime=subject.runtime,
            threads=subject.threads,
            name=name,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            throttled=subject.throttling.state,
            run_id=" ".join(subject.of),
            started_at_utc="",
            **(_COUNTED | origin),
        )

    if subject.fps:
        yield row("fps", subject.fps)
    if subject.latency_p50_s:
        yield row("latency_p50_s", subject.latency_p50_s)
    for power in subject.power:
        origin = _origin(power)
        for name in ("power_w", "energy_per_inference_j", "fps_per_w", "net_energy_per_inference_j"):
            if (figure := getattr(power, name)) is not None:
                yield row(name, figure, **origin)
