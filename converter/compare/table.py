"""The comparison on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from converter.compare.claims import format_verdict
from converter.compare.records import ArtefactFigures, Comparison
from converter.exporters import load_exporter, runtime_title
from converter.work.machine import format_machine

_LEAST_WIDTH = 128
"""Where there is no terminal, or a narrow one: a line of a table stays a line."""


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Prints tables, claims and notes."""
    console = Console(file=console.file, width=max(console.width, _LEAST_WIDTH), highlight=False, markup=False)
    console.print(format_machine(comparison.machine), soft_wrap=True)
    for table in _make_tables(comparison):
        console.print()
        console.print(table)
    failures = [
        f"{row.network}, {runtime_title(one.runtime)}: {one.failure}"
        for row in comparison.rows
        for one in row.artefacts
        if one.failure
    ]
    for lines in (failures, [format_verdict(verdict) for verdict in comparison.verdicts], comparison.notes):
        if lines:
            console.print()
        for line in lines:
            console.print(line, soft_wrap=True)


def _make_tables(comparison: Comparison) -> list[Table]:
    tables = [_sizes(comparison), _latencies(comparison)]
    if any(one.arm_instructions for row in comparison.rows for one in row.artefacts):
        tables.append(_instructions(comparison))
    return tables


def _make_table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _sizes(comparison: Comparison) -> Table:
    sizes = [f"{load_exporter(runtime).suffix} int8" for runtime in comparison.runtimes]
    table = _make_table("network", "parameters", "MACs", *sizes, "ImageNet top-1, published", "top-5")
    for row in comparison.rows:
        sizes = [_format(row.artefact(runtime).size_bytes, 1e-6, ".2f", " MB") for runtime in comparison.runtimes]
        top1, top5 = (row.published.top1, row.published.top5) if row.published else (None, None)
        table.add_row(
            row.network,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.macs / 1e6:.1f} M",
            *sizes,
            _format(top1, 100, ".1f", " %"),
            _format(top5, 100, ".1f", " %"),
        )
    return table


def _latencies(comparison: Comparison) -> Table:
    headings = []
    for runtime in comparison.runtimes:
        headings += [f"{runtime_title(runtime)}, ms", "p10–p90", f"of {comparison.reference}"]
    table = _make_table("latency", *headings)
    for row in comparison.rows:
        cells = []
        for runtime in comparison.runtimes:
            cells += _latency_cells(row.artefact(runtime))
        table.add_row(row.network, *cells)
    return table


def _latency_cells(one: ArtefactFigures) -> list[str]:
    if one.timing is None:
        return ["failed" if one.failure else "–", "–", "–"]
    latency_s, ratio = one.timing.latency_s, one.timing.ratio
    return [
        f"{latency_s.p50 * 1e3:.2f}",
        f"{latency_s.p10 * 1e3:.2f}–{latency_s.p90 * 1e3:.2f}",
        "–" if ratio is None else f"{ratio.p50:.2f}x",
    ]


def _instructions(comparison: Comparison) -> Table:
    cpus = sorted({cpu for row in comparison.rows for one in row.artefacts for cpu in one.arm_instructions})
    columns = [(runtime, cpu) for runtime in comparison.runtimes for cpu in cpus]
    table = _make_table("million ARM instructions", *(f"{runtime_title(runtime)}, {cpu}" for runtime, cpu in columns))
    for row in comparison.rows:
        counts = [row.artefact(runtime).arm_instructions.get(cpu) for runtime, cpu in columns]
        table.add_row(row.network, *(_format(count, 1e-6, ".1f") for count in counts))
    return table


def _format(value: float | None, factor: float, spec: str, unit: str = "") -> str:
    return "–" if value is None else f"{value * factor:{spec}}{unit}"
