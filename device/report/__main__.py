"""``python -m device.report FILE…``: shows what runs and benchmarks gave, over time and side by side.

Reads telemetry stores and results of ``python -m device.bench``; writes a page, pictures, CSV or JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from device import __version__
from device.bench.result import BenchResult, read_result
from device.core.durable import write_durably
from device.core.errors import BenchError, ReportError, ReportReason, exit_with_one_line, nearest
from device.protocols import RunRecord
from device.report import document, page, table
from device.report.subjects import Report, make_report
from device.report.summary import RunReport, summarise_run
from device.report.time_series import HEAT_LIMIT, TimeSeries
from device.telemetry.read import Extent, Store

DEFAULT_PAGE = Path("report.html")

BUCKETS = 400
"""The most of a time series: a page a thousand pixels wide shows no more."""

MOST_SERIES = 12
"""How many runs, the newest, are drawn over time: each adds some hundred kilobytes to the page."""

_SQLITE = b"SQLite format 3\x00"


class Selection(NamedTuple):
    """A file, and which of its runs: ``last``, the beginning of an id, or empty for all of them."""

    path: Path
    run: str


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.report",
        description="Shows what runs and benchmarks gave: rate, latency, power, temperature and throttling, over time and side "
        f"by side. Without --html, --png, --csv or --json it writes {DEFAULT_PAGE}.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a telemetry store, or a result of device.bench; FILE#last is a store's newest run, FILE#ID one of its runs",
    )
    parser.add_argument("--run", action="append", default=[], metavar="ID", help="only this run; the id's beginning is enough")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--png", type=Path, metavar="DIR", help="write each plot as a picture")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", action="store_true", help="print a line a figure")
    output.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    output.add_argument("--list", action="store_true", help="list the runs, and end")
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


def parse_file(text: str) -> Selection:
    """Splits ``FILE#RUN``, unless a file of that very name exists."""
    path, mark, run = text.rpartition("#")
    return Selection(Path(path), run) if mark and not Path(text).exists() else Selection(Path(text), "")


def is_store(path: Path) -> bool:
    """Tells a telemetry store from a benchmark's result, by its content.

    Raises:
        ReportError: it is neither, or can't be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ReportError(
            str(path),
            error.strerror or str(error),
            expected="a telemetry store (SQLite), or a result of device.bench (JSON)",
            reason="missing" if missing else "permission",
        ) from error
    if head == _SQLITE or head.lstrip()[:1] == b"{":
        return head == _SQLITE
    raise ReportError(
        str(path),
        "is neither" if head else "is empty",
        expected="a telemetry store (SQLite), or a result of device.bench (JSON)",
        reason="damaged",
    )


def choose_runs(path: Path, runs: Sequence[RunRecord], wanted: str) -> list[RunRecord]:
    """Chooses runs of a store.

    Args:
        path: of the store.
        runs: of the store, oldest first.
        wanted: ``last``, the beginning of an id, or empty for all.

    Raises:
        ReportError: ``unknown_run``, or ``ambiguous``.
    """
    if not wanted:
        return list(runs)
    if wanted == "last":
        return list(runs[-1:])
    found = [run for run in runs if run.run_id.startswith(wanted)]
    if not found:
        names = nearest(wanted, [run.run_id[:12] for run in runs])
        raise ReportError(
            f"{path}#{wanted}", "is no run of it", expected=names, remedy="--list shows them", reason="unknown_run"
        )
    if len(found) > 1:
        raise ReportError(
            f"{path}#{wanted}", f"is the beginning of {len(found)} runs", remedy="name more of the id", reason="ambiguous"
        )
    return found


def read_series(store: Store, run: RunReport, extent: Extent) -> TimeSeries:
    """Reads the time series of a run."""
    run_id = run.run.run_id
    near_s = (extent.end_s - extent.start_s) / BUCKETS / 2
    slowed = {flag: store.read_throttled(run_id, flag, near_s) for flag in run.throttling.flags}
    slowed[HEAT_LIMIT] = store.read_heat_limited(run_id, near_s)
    return TimeSeries(
        extent=extent,
        buckets=store.read_buckets(run_id, extent, BUCKETS),
        power=[(power, store.read_power_buckets(run_id, extent, BUCKETS, power.origin)) for power in run.power],
        gaps=store.read_gaps(run_id, near_s)[0],
        interrupted=store.read_interrupted(run_id, extent, near_s),
        slowed={flag: spans for flag, spans in slowed.items() if spans},
    )


def read_bench(path: Path, run: str) -> BenchResult:
    """Reads a benchmark's result.

    Args:
        path: of it.
        run: the run asked for; a benchmark has none, so anything but an empty string is an error.

    Raises:
        ReportError: ``unknown_run``, ``missing`` or ``damaged``.
    """
    if run:
        raise ReportError(
            f"{path}#{run}", "is a benchmark, which has no runs", remedy=f"name it alone: {path}", reason="unknown_run"
        )
    try:
        return read_result(path)
    except BenchError as error:
        reason: ReportReason = "missing" if error.reason == "missing" else "damaged"
        raise ReportError(
            error.where, error.found, expected="a result of device.bench", remedy=error.remedy, reason=reason
        ) from error


def read_all(wanted: Sequence[Selection], only: Sequence[str], *, with_series: bool) -> tuple[Report, dict[str, TimeSeries]]:
    """Reads every file and sets its runs and benchmarks side by side.

    Args:
        wanted: files, and runs of them.
        only: beginnings of run ids; empty for all.
        with_series: read time series too.

    Raises:
        ReportError: a file that can't be read, a run that isn't there, or nothing to report.
    """
    runs: list[RunReport] = []
    benches: list[tuple[Path, BenchResult]] = []
    empty: list[str] = []
    series: dict[str, TimeSeries] = {}
    seen: set[str] = set()
    for path, name in wanted:
        if not is_store(path):
            benches.append((path, read_bench(path, name)))
            continue
        with Store(path) as store:
            for run in choose_runs(path, store.list_runs(), name):
                extent = store.find_extent(run.run_id)
                if run.run_id in seen or (only and not run.run_id.startswith(tuple(only))):
                    continue
                seen.add(run.run_id)
                if extent is None:
                    empty.append(run.run_id)
                    continue
                runs.append(summarise_run(store, run, extent))
                if with_series:
                    series[run.run_id] = read_series(store, runs[-1], extent)
                    _forget_oldest(runs, series)
    _check_found(only, seen)
    if not runs and not benches:
        raise ReportError(
            ", ".join(str(one.path) for one in wanted),
            f"no run has an interval ({len(empty)} runs)" if empty else "no run is there",
            expected="a run that lasted for at least one interval",
            reason="empty",
        )
    return make_report(runs, benches, empty), series


def _forget_oldest(runs: Sequence[RunReport], series: dict[str, TimeSeries]) -> None:
    if len(series) > MOST_SERIES:
        drawn = [run for run in runs if run.run.run_id in series]
        del series[min(drawn, key=lambda run: run.run.started_at_utc).run.run_id]


def _check_found(only: Sequence[str], seen: set[str]) -> None:
    for prefix in only:
        count = sum(run_id.startswith(prefix) for run_id in seen)
        _require_found(prefix, count)
        if count > 1:
            raise ReportError(
                f"--run {prefix}", f"is the beginning of {count} runs", remedy="name more of the id", reason="ambiguous"
            )


def _require_found(prefix: str, count: int) -> None:
    if count == 0:
        raise ReportError(f"--run {prefix}", "no such run in these files", remedy="--list shows them", reason="unknown_run")


def list_files(wanted: Sequence[Selection], only: Sequence[str] = ()) -> str:
    """Lists runs and benchmarks.

    Args:
        wanted: files, and runs of them.
        only: beginnings of run ids; empty for all. Unlike in `read_all`, several runs may match: the list tells them apart.

    Raises:
        ReportError: see `read_all`; runs without intervals are listed too.
    """
    parts = []
    seen: set[str] = set()
    for path, name in wanted:
        if not is_store(path):
            bench = read_bench(path, name)
            parts.append(f"{path}\n  benchmark of {bench.started_at_utc}: {len(bench.choices)} choices")
            continue
        with Store(path) as store:
            chosen = choose_runs(path, store.list_runs(), name)
            runs = [run for run in chosen if not only or run.run_id.startswith(tuple(only))]
            seen.update(run.run_id for run in runs)
            parts.append(table.format_runs(str(path), [(run, store.find_extent(run.run_id)) for run in runs]))
    for prefix in only:
        _require_found(prefix, sum(run_id.startswith(prefix) for run_id in seen))
    return "\n".join(parts)


def write(path: Path, content: bytes) -> None:
    """Writes a file atomically, and its folder if need be.

    Raises:
        ReportError: ``write``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)
    except OSError as error:
        raise ReportError(str(path), f"can't be written ({error.strerror or error})", reason="write") from error


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and writes the report."""
    flags = build_parser().parse_args(arguments)
    wanted = [parse_file(text) for text in flags.files]
    if flags.list:
        print(list_files(wanted, flags.run))
        return 0
    html = flags.html or (None if flags.png or flags.csv or flags.json else DEFAULT_PAGE)
    is_drawn = bool(html or flags.png)
    if is_drawn:
        document.check_dependencies()
    report, series = read_all(wanted, flags.run, with_series=is_drawn)
    if html:
        write(html, page.render(report, series).encode())
    if flags.png:
        for name, content in page.draw_pictures(report, series):
            write(flags.png / name, content)
    if flags.csv or flags.json:
        print(table.encode_csv(report) if flags.csv else table.encode_json(report), end="")
    else:
        print(html or flags.png)
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
