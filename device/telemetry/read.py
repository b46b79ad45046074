"""Reads telemetry stores: runs, their sums, and time series of bounded length, whatever the store's size.

SQLite does the sums, so the result grows with the number of buckets, not of rows. A store is never changed, and may be in use.

A row is an interval: it describes the time that ends at its timestamp and lasts for its duration. A time that no row covers is
a gap: nothing is known of it, and no value stands for it.

References:
    https://sqlite.org/uri.html for ``mode=ro`` and ``immutable``; https://sqlite.org/wal.html, "Read-Only Databases".
"""
# ruff: noqa: S608  # Only names of our own are put into queries; values are bound.

from __future__ import annotations

import itertools
import os
import sqlite3
import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from device.core.errors import ReportError
from device.core.resources import Resource
from device.protocols import MeterRecord, PowerOrigin, RunRecord
from device.telemetry.schema import STORE_SCHEMA

GAP_SHARE = 0.01
GAP_S = 0.001
"""Rows follow each other if less than this share of a row's duration, plus this time, lies between them: rounding."""

_RECENT_GAPS = 64

_T = TypeVar("_T", bound=msgspec.Struct)

_TABLES = ("run", "interval", "source_interval", "interruption", "meter")

_ENERGY = "coalesce(energy_j, power_w * duration_s)"
# The energy of a row belongs to the part of it that the meter covered. Older rows don't say which part; it follows from power.
_COVERED_BEFORE_3 = f"(CASE WHEN power_w > 0 THEN {_ENERGY} / power_w ELSE duration_s END)"
_COVERED = f"coalesce(power_covered_s, {_COVERED_BEFORE_3})"
_IS_LIMITED = "heat_limit_fps IS NOT NULL"
_HAS_POWER = "power_w IS NOT NULL"
_IS_MARKED = "power_source IS NOT NULL AND power_scope IS NOT NULL AND power_is_estimate IS NOT NULL"


class Extent(msgspec.Struct, frozen=True):
    """The monotonic times at which a run's rows begin and end, and how many rows there are."""

    start_s: float
    end_s: float
    rows: int


class Sums(msgspec.Struct, frozen=True):
    """Sums of all rows of a run. Least and most are those of the rows; None where no row has the figure."""

    recorded_s: float
    frames: int
    dropped: int
    unknown: int | None
    least_fps: float
    most_fps: float
    least_temperature_c: float | None
    most_temperature_c: float | None
    mean_temperature_c: float | None
    least_frequency_hz: float | None
    most_frequency_hz: float | None
    most_rss_bytes: int
    unmarked_power_rows: int
    heat_limited_s: float | None


class PowerSums(PowerOrigin, frozen=True, kw_only=True):
    """Sums of those rows of a run that have power of one origin.

    Attributes:
        covered_s: time that the energy belongs to.
        frames: inferences of that time: each row's rate times its covered part.
        least_w: of the rows.
        most_w: of the rows.
    """

    energy_j: float
    covered_s: float
    frames: float
    least_w: float
    most_w: float


class Band(msgspec.Struct, frozen=True):
    """The values of one figure over several rows.

    Attributes:
        least: of the rows.
        middle: the rows' median where the figure is a percentile, else their mean. Written as ``median``: only percentiles are.
        most: of the rows.
    """

    least: float
    middle: float = msgspec.field(name="median")
    most: float


class Bucket(msgspec.Struct, frozen=True):
    """A point of a time series: one row, or the rows of one span of time.

    Attributes:
        start_s: monotonic.
        end_s: monotonic.
        rows: how many it stands for.
        fps: frames by recorded time, and the least and greatest of the rows.
        latency_s: percentile -> its band.
        temperature_c: the mean is weighted by the rows' durations.
        frequency_hz: the mean is weighted by the rows' durations.
    """

    start_s: float
    end_s: float
    rows: int
    fps: Band
    latency_s: dict[str, Band]
    temperature_c: Band | None
    frequency_hz: Band | None


class PowerBucket(msgspec.Struct, frozen=True):
    """The power of one source in one `Bucket`."""

    start_s: float
    end_s: float
    power_w: Band


class Span(msgspec.Struct, frozen=True):
    """A span of monotonic time."""

    start_s: float
    end_s: float


class Interruptions(msgspec.Struct, frozen=True):
    """How often and for how long one source was interrupted for one reason."""

    source: str
    reason: str
    count: int
    total_s: float
    longest_s: float


class SourceSums(msgspec.Struct, frozen=True):
    """What one source gave over a run."""

    source: str
    frames: int
    dropped: int
    bad_frames: int


class Store(Resource):
    """A telemetry store, open for reading.

    Args:
        path: of the SQLite file.

    Raises:
        ReportError: ``missing``, ``permission``, ``damaged`` where it is no store, ``schema`` where it is too new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ReportError(
                str(path), "is no file", expected="a telemetry store (SQLite) or a bench result", reason="missing"
            )
        self._log = path.with_name(f"{path.name}-wal")
        # Without a log nobody writes. Reading the file as it is then makes no files beside it, which could lock a daemon out.
        self._is_at_rest = not self._log.exists()
        self._connection = self._connect()
        self._columns = {table: self._list_columns(table) for table in _TABLES}
        self._covered = _COVERED if "power_covered_s" in self._columns["interval"] else _COVERED_BEFORE_3
        self._knows_heat_limit = "heat_limit_fps" in self._columns["interval"]

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()
        if error is None and self._is_at_rest and self._log.exists() and self._log.stat().st_size:
            raise ReportError(str(self.path), "was opened for writing while it was read", remedy="run it again", reason="busy")

    # --- what there is ------------------------------------------------------------------------------------------------

    def list_runs(self) -> list[RunRecord]:
        """Lists the runs in the order in which they were started."""
        # An older store may lack columns: of its runs, those figures are unknown.
        names = (name if name in self._columns["run"] else f"NULL AS {name}" for name in RunRecord.__struct_fields__)
        rows = self._query(f"SELECT {', '.join(names)} FROM run ORDER BY started_at_utc, rowid")
        return [self._as(RunRecord, row) for row in rows]

    def find_extent(self, run_id: str) -> Extent | None:
        """Finds when a run's rows begin and end; None where it has no rows."""
        row = self._one(
            "SELECT min(timestamp_ns / 1e9 - duration_s) AS start_s, max(timestamp_ns) / 1e9 AS end_s, count(*) AS rows"
            " FROM interval WHERE run_id = :run",
            run=run_id,
        )
        return self._as(Extent, row) if row["rows"] else None

    # --- sums ---------------------------------------------------------------------------------------------------------

    def sum_up(self, run_id: str) -> Sums:
        """Sums up all rows of a run, which must have some."""
        unknown = "sum(unknown)" if "unknown" in self._columns["interval"] else "NULL"
        limited = f"total(CASE WHEN {_IS_LIMITED} THEN duration_s END)" if self._knows_heat_limit else "NULL"
        row = self._one(
            f"""
            SELECT sum(duration_s) AS recorded_s, sum(frames) AS frames, sum(dropped) AS dropped, {unknown} AS unknown,
                min(fps) AS least_fps, max(fps) AS most_fps,
                min(temperature_c) AS least_temperature_c, max(temperature_c) AS most_temperature_c,
                sum(temperature_c * duration_s) / sum(CASE WHEN temperature_c IS NOT NULL THEN duration_s END)
                    AS mean_temperature_c,
                min(frequency_hz) AS least_frequency_hz, max(frequency_hz) AS most_frequency_hz,
                max(rss_bytes) AS most_rss_bytes,
                sum({_HAS_POWER} AND NOT ({_IS_MARKED})) AS unmarked_power_rows, {limited} AS heat_limited_s
            FROM interval WHERE run_id = :run
            """,
            run=run_id,
        )
        return self._as(Sums, row)

    def sum_power(self, run_id: str) -> list[PowerSums]:
        """Sums up power by its origin. Rows that don't say where their power comes from are left out."""
        rows = self._query(
            f"""
            SELECT power_source AS source, power_scope AS scope, power_is_estimate AS is_estimate, sum({_ENERGY}) AS energy_j,
                sum({self._covered}) AS covered_s, sum(fps * {self._covered}) AS frames,
                min(power_w) AS least_w, max(power_w) AS most_w
            FROM interval WHERE run_id = :run AND {_HAS_POWER} AND {_IS_MARKED}
            GROUP BY 1, 2, 3 ORDER BY covered_s DESC
            """,
            run=run_id,
        )
        return [self._as(PowerSums, row) for row in rows]

    def find_band(self, run_id: str, column: str) -> Band | None:
        """Finds the least, the median and the greatest of a run's rows; for an even number of rows, the lower median."""
        condition = f"run_id = :run AND {column} IS NOT NULL"
        row = self._one(
            f"SELECT min({column}) AS least, max({column}) AS most, count(*) AS rows FROM interval WHERE {condition}",
            run=run_id,
        )
        if not row["rows"]:
            return None
        # Not by LIMIT and OFFSET: with those, SQLite keeps half of the rows in a tree and takes five times as long.
        ordered = self._query(f"SELECT {column} AS value FROM interval WHERE {condition} ORDER BY value", run=run_id)
        median = next(itertools.islice(ordered, (row["rows"] - 1) // 2, None))
        return Band(row["least"], median["value"], row["most"])

    def sum_throttling(self, run_id: str) -> dict[str | None, float]:
        """Sums up durations by flags, joined by commas: None where the board could not tell, ``""`` where none held."""
        rows = self._query(
            "SELECT throttled, sum(duration_s) AS total_s FROM interval WHERE run_id = :run GROUP BY 1 ORDER BY 1", run=run_id
        )
        return {row["throttled"]: row["total_s"] for row in rows}

    def sum_sources(self, run_id: str) -> list[SourceSums]:
        """Sums up frames by source; empty where the store is older than that table."""
        if not self._columns["source_interval"]:
            return []
        rows = self._query(
            """
            SELECT source, sum(frames) AS frames, sum(dropped) AS dropped, sum(bad_frames) AS bad_frames
            FROM source_interval WHERE run_id = :run GROUP BY source ORDER BY source
            """,
            run=run_id,
        )
        return [self._as(SourceSums, row) for row in rows]

    def sum_interruptions(self, run_id: str, end_s: float) -> list[Interruptions]:
        """Sums up interruptions by source and reason; one that has no end lasts to ``end_s``."""
        if not self._columns["interruption"]:
            return []
        rows = self._query(
            """
            SELECT source, reason, count(*) AS count, sum(length_s) AS total_s, max(length_s) AS longest_s
            FROM (SELECT *, coalesce(duration_s, max(0, :end_s - started_ns / 1e9)) AS length_s FROM interruption
                WHERE run_id = :run)
            GROUP BY 1, 2 ORDER BY total_s DESC, 1, 2
            """,
            run=run_id,
            end_s=end_s,
        )
        return [self._as(Interruptions, row) for row in rows]

    def list_meters(self, run_id: str) -> list[MeterRecord]:
        """Lists what each meter of a run gave, the headline's first; empty where the store is older than that table."""
        if not self._columns["meter"]:
            return []
        names = ", ".join(MeterRecord.__struct_fields__)
        rows = self._query(f"SELECT {names} FROM meter WHERE run_id = :run ORDER BY place", run=run_id)
        return [self._as(MeterRecord, row) for row in rows]

    # --- over time ----------------------------------------------------------------------------------------------------

    def read_buckets(self, run_id: str, extent: Extent, most: int) -> list[Bucket]:
        """Reads a run over time in at most ``most`` buckets: one per row, if there are no more rows than that."""
        place = _place(extent, most)
        medians = self._read_medians(run_id, place, extent, most)
        rows = self._query(
            f"""
            SELECT {place} AS place, min(timestamp_ns / 1e9 - duration_s) AS start_s, max(timestamp_ns) / 1e9 AS end_s,
                count(*) AS rows,
                min(fps) AS least_fps, sum(frames) / sum(duration_s) AS mean_fps, max(fps) AS most_fps,
                {_BANDS}
            FROM interval WHERE run_id = :run GROUP BY 1 ORDER BY 1
            """,
            **_times(run_id, extent, most),
        )
        return [_bucket(row, medians) for row in rows]

    def read_power_buckets(self, run_id: str, extent: Extent, most: int, origin: PowerOrigin) -> list[PowerBucket]:
        """Reads the power of one origin over time; where it has no figure there is no bucket."""
        rows = self._query(
            f"""
            SELECT min(timestamp_ns / 1e9 - duration_s) AS start_s, max(timestamp_ns) / 1e9 AS end_s,
                min(power_w) AS least, sum({_ENERGY}) / sum({self._covered}) AS mean, max(power_w) AS most
            FROM interval WHERE run_id = :run AND {_HAS_POWER}
                AND power_source = :source AND power_scope = :scope AND power_is_estimate = :is_estimate
            GROUP BY {_place(extent, most)} ORDER BY 1
            """,
            **_times(run_id, extent, most),
            **msgspec.structs.asdict(origin),
        )
        return [PowerBucket(row["start_s"], row["end_s"], Band(row["least"], row["mean"], row["most"])) for row in rows]

    def read_gaps(self, run_id: str, near_s: float) -> tuple[list[Span], int, float]:
        """Reads the times between rows that no row covers.

        Args:
            run_id: of the run.
            near_s: gaps this close to each other become one span; the count and the duration are of the real ones.

        Returns:
            Spans in order, how many gaps there are, and their total duration.
        """
        rows = self._query(
            """
            SELECT * FROM (
                SELECT timestamp_ns / 1e9 - duration_s AS start_s, duration_s,
                    lag(timestamp_ns) OVER (ORDER BY timestamp_ns) / 1e9 AS before_s
                FROM interval WHERE run_id = :run)
            WHERE abs(start_s - before_s) > :share * duration_s + :least_s
            """,
            run=run_id,
            share=GAP_SHARE,
            least_s=GAP_S,
        )
        return _merge(_gaps(rows), near_s)

    def read_throttled(self, run_id: str, flag: str, near_s: float) -> list[Span]:
        """Reads when a flag held; spans closer than ``near_s`` become one."""
        condition = "instr(',' || throttled || ',', ',' || :flag || ',')"
        return self._read_intervals(condition, near_s, run=run_id, flag=flag)

    def read_heat_limited(self, run_id: str, near_s: float) -> list[Span]:
        """Reads when the profile's limit on heat held the daemon to a lower rate; spans closer than ``near_s`` become one."""
        if not self._knows_heat_limit:
            return []
        return self._read_intervals(_IS_LIMITED, near_s, run=run_id)

    def read_interrupted(self, run_id: str, extent: Extent, near_s: float) -> list[Span]:
        """Reads when any source gave no good frames; spans closer than ``near_s`` become one."""
        if not self._columns["interruption"]:
            return []
        rows = self._query(
            """
            SELECT started_ns / 1e9 AS start_s, started_ns / 1e9 + duration_s AS end_s FROM interruption
            WHERE run_id = :run ORDER BY started_ns
            """,
            run=run_id,
        )
        spans = (Span(row["start_s"], extent.end_s if row["end_s"] is None else row["end_s"]) for row in rows)
        return _merge(spans, near_s)[0]

    # --- SQLite -------------------------------------------------------------------------------------------------------

    def _read_intervals(self, condition: str, near_s: float, **values: object) -> list[Span]:
        rows = self._query(
            f"""
            SELECT timestamp_ns / 1e9 - duration_s AS start_s, timestamp_ns / 1e9 AS end_s FROM interval
            WHERE run_id = :run AND {condition} ORDER BY timestamp_ns
            """,
            **values,
        )
        return _merge((Span(row["start_s"], row["end_s"]) for row in rows), near_s)[0]

    def _read_medians(self, run_id: str, place: str, extent: Extent, most: int) -> dict[int, dict[str, float]]:
        """Bucket's place -> percentile -> the rows' lower median. SQLite has no median; memory holds one bucket's rows."""
        rows = self._query(
            f"""
            SELECT {place} AS place, latency_p50_s AS p50, latency_p90_s AS p90, latency_p99_s AS p99
            FROM interval WHERE run_id = :run ORDER BY timestamp_ns
            """,
            **_times(run_id, extent, most),
        )
        medians = {}
        for at, group in itertools.groupby(rows, key=lambda row: row["place"]):
            members = list(group)
            values = {name: [row[name] for row in members if row[name] is not None] for name in _PERCENTILES}
            medians[at] = {name: statistics.median_low(found) for name, found in values.items() if found}
        return medians

    def _connect(self) -> sqlite3.Connection:
        mode = "immutable=1" if self._is_at_rest else "mode=ro"
        try:
            # Absolute, with everything quoted that means something in a URI.
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?{mode}", uri=True, timeout=5.0)
        except sqlite3.Error as error:
            raise _refuse(self.path, error) from error
        connection.row_factory = sqlite3.Row
        try:
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
        except (sqlite3.Error, UnicodeDecodeError) as error:
            connection.close()
            raise _refuse(self.path, error) from error
        if not {"run", "interval"} <= tables:
            connection.close()
            raise ReportError(str(self.path), "has no runs", expected="a telemetry store", reason="damaged")
        if not 1 <= schema <= STORE_SCHEMA:
            connection.close()
            raise ReportError(
                str(self.path),
                f"has schema {schema}",
                expected=f"{STORE_SCHEMA} or older",
                remedy="use the ghostwatt that wrote it, or a newer one",
                reason="schema",
            )
        return connection

    def _list_columns(self, table: str) -> set[str]:
        return {row["name"] for row in self._query(f"PRAGMA table_info({table})")}

    def _one(self, query: str, **values: object) -> sqlite3.Row:
        return next(self._query(query, **values))

    def _query(self, query: str, **values: object) -> Iterator[sqlite3.Row]:
        try:
            # Not `yield from`, which closes the cursor of a query that is left early: the store may be closed by then.
            for row in self._connection.execute(query, values):  # noqa: UP028
                yield row
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _refuse(self.path, error) from error

    def _as(self, kind: type[_T], row: sqlite3.Row) -> _T:
        """Converts a row. The schema admits no other types, but a worn card may have any."""
        try:
            return msgspec.convert(dict(row), kind, strict=False)
        except msgspec.ValidationError as error:
            raise _refuse(self.path, error) from error


_PERCENTILES = ("p50", "p90", "p99")

_BANDS = ",\n".join(
    [
        *(f"min(latency_{name}_s) AS least_{name}, max(latency_{name}_s) AS most_{name}" for name in _PERCENTILES),
        *(
            f"min({column}) AS least_{column}, max({column}) AS most_{column},"
            f" sum({column} * duration_s) / sum(CASE WHEN {column} IS NOT NULL THEN duration_s END) AS mean_{column}"
            for column in ("temperature_c", "frequency_hz")
        ),
    ]
)


def _place(extent: Extent, most: int) -> str:
    """SQL for the bucket that a row belongs to: by its end, so that buckets are in order of time."""
    if extent.rows <= most:
        return "timestamp_ns"
    return "min(:buckets - 1, CAST(:buckets * (timestamp_ns / 1e9 - :start_s) / :length_s AS INTEGER))"


def _times(run_id: str, extent: Extent, most: int) -> dict[str, object]:
    if extent.rows <= most:
        return {"run": run_id}
    return {"run": run_id, "buckets": most, "start_s": extent.start_s, "length_s": extent.end_s - extent.start_s}


def _bucket(row: sqlite3.Row, medians: dict[int, dict[str, float]]) -> Bucket:
    return Bucket(
        start_s=row["start_s"],
        end_s=row["end_s"],
        rows=row["rows"],
        fps=Band(row["least_fps"], row["mean_fps"], row["most_fps"]),
        latency_s={
            name: Band(row[f"least_{name}"], median, row[f"most_{name}"]) for name, median in medians[row["place"]].items()
        },
        temperature_c=_band(row, "temperature_c"),
        frequency_hz=_band(row, "frequency_hz"),
    )


def _band(row: sqlite3.Row, column: str) -> Band | None:
    mean = row[f"mean_{column}"]
    return None if mean is None else Band(row[f"least_{column}"], mean, row[f"most_{column}"])


def _gaps(steps: Iterator[sqlite3.Row]) -> Iterator[Span]:
    """Finds gaps from rows that don't follow each other: ``start_s`` is a row's start, ``before_s`` the end of the row before.

    Rows that were thinned out with age may overlap: the intervals of a minute that have power are one row, and those without
    are another. What looks like a gap before the first is covered by the second, whose duration is right but not its start.
    """
    # Only the last few are kept: rows that overlap lie within one hour.
    recent: deque[Span] = deque()
    for step in steps:
        start_s, before_s = step["start_s"], step["before_s"]
        if start_s > before_s:
            recent.append(Span(before_s, start_s))
        covered_s = before_s - start_s
        while covered_s > 0 and recent:
            gap = recent.pop()
            length_s = gap.end_s - gap.start_s
            if length_s > covered_s + _tolerance_s(step["duration_s"]):
                recent.append(Span(gap.start_s, gap.end_s - covered_s))
            covered_s -= length_s
        if len(recent) > _RECENT_GAPS:
            yield recent.popleft()
    yield from recent


def _tolerance_s(duration_s: float) -> float:
    return GAP_SHARE * duration_s + GAP_S


def _merge(spans: Iterable[Span], near_s: float) -> tuple[list[Span], int, float]:
    """Joins spans, in order of their start, that overlap or are close; also counts them and sums up their durations."""
    merged: list[Span] = []
    count, total_s = 0, 0.0
    for span in spans:
        count += 1
        total_s += span.end_s - span.start_s
        if merged and span.start_s - merged[-1].end_s <= near_s:
            merged[-1] = Span(merged[-1].start_s, max(merged[-1].end_s, span.end_s))
        else:
            merged.append(span)
    return merged, count, total_s


def _refuse(path: Path, error: Exception) -> ReportError:
    """Makes one line of an error of SQLite's, of its message that isn't even text, or of a row with wrong types."""
    if not os.access(path, os.R_OK) or getattr(error, "sqlite_errorname", "") == "SQLITE_CANTOPEN":
        return ReportError(
            str(path),
            f"can't be opened ({error})",
            remedy=f"run it as a user who may read it, or copy it together with {path.name}-wal",
            reason="permission",
        )
    return ReportError(
        str(path), f"can't be read ({error})", expected="a telemetry store (SQLite)", remedy="name another", reason="damaged"
    )
