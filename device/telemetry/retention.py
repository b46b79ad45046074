"""Keeps the telemetry store small: rows grow coarser with age, and the oldest go when it would grow too large.

A merged row is the end of its minute or hour. How each column is merged is declared beside the record's field, see
`device.protocols.columns`: counts and energy add up; power, rate and stage times are means over the rows, weighted by the time
that a meter covered, by time, or by frames; percentiles can't be merged, so p90 and p99 are upper bounds. Power figures of
different sources, and measured and estimated ones, are never merged: they stay rows of their own, as does time without a
figure, and time when the board could not tell whether it was throttled.

Age is known only where the wall clock was synchronised at some time of the run, and is now. Rows of unknown age are dropped
by size alone.
"""
# ruff: noqa: S608  # What is put into statements are names of ours; values are bound.

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from device.contract import Telemetry
from device.protocols import IntervalRecord, SourceIntervalRecord
from device.telemetry.schema import TABLES, Table, TableColumn

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400

_FOREVER_NS = (1 << 63) - 1


class Retention(NamedTuple):
    """How long rows are kept: ages in seconds, and size in bytes; see `device.contract.profile.Telemetry`."""

    fine_s: float
    minutes_s: float
    hours_s: float
    size_bytes: float

    @classmethod
    def of(cls, settings: Telemetry) -> Retention:
        """Converts a profile's settings."""
        return cls(
            settings.fine_kept_h * HOUR_S,
            settings.minutes_kept_d * DAY_S,
            settings.hours_kept_d * DAY_S,
            settings.max_size_mb * 1e6,
        )


class _Words:
    """SQL aggregate: every word of comma-separated lists, once; NULL where there was no list."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._is_known = False

    def step(self, text: str | None) -> None:
        if text is not None:
            self._is_known = True
            self._words.update(filter(None, text.split(",")))

    def finalize(self) -> str | None:
        return ",".join(sorted(self._words)) if self._is_known else None


_SOURCE_LENGTH_S = (
    "(SELECT sum(i.duration_s) FROM interval AS i WHERE i.run_id = :run AND i.timestamp_ns"
    " BETWEEN source_interval.timestamp_ns / {span_ns} * {span_ns}"
    " AND min(:until, source_interval.timestamp_ns / {span_ns} * {span_ns} + {span_ns} - 1))"
)
"""A source's row has no length: the intervals of the same time, which are merged after it, have."""


def _merged(table: Table, column: TableColumn) -> str:
    """SQL for what becomes of a column's values."""
    name = column.name
    if column.merge in ("sum", "max", "min"):
        return f"{column.merge}({name}) AS {name}"
    if column.merge == "mean":
        mean = _mean(name, column.weight)
        # Rows of older stores have no such weight: their length stands in for it.
        is_optional = any(other.name == column.weight and other.is_nullable for other in table.columns)
        return f"ifnull({mean}, {_mean(name, 'duration_s')}) AS {name}" if is_optional else f"{mean} AS {name}"
    if column.merge == "words":
        return f"union_of_words({name}) AS {name}"
    if column.merge == "rate" and any(other.name == "duration_s" for other in table.columns):
        return f"sum(frames) / sum(duration_s) AS {name}"
    if column.merge == "rate":
        # Rows whose intervals are lost are taken for equally long: nothing records their length.
        return f"ifnull(sum(frames) / {_SOURCE_LENGTH_S}, avg({name})) AS {name}"
    return name


def _mean(name: str, weight: str) -> str:
    return f"sum({name} * {weight}) / sum(CASE WHEN {name} IS NOT NULL THEN {weight} END)"


def _group(table: Table) -> list[str]:
    """SQL for what rows must have in common, beside their run and their time, to be merged."""
    same = [column.name for column in table.columns if column.merge == "group" and column.name != "run_id"]
    return same + [f"{column.name} IS NULL" for column in table.columns if column.merge == "words"]


_MOMENTS = {"interval": "timestamp_ns", "source_interval": "timestamp_ns", "interruption": "started_ns"}
"""Table -> the column by which its rows grow old."""


def thin_out(connection: sqlite3.Connection, kept: Retention, now_s: float | None) -> None:
    """Merges and drops what is due, in one transaction a step.

    Args:
        connection: to a store.
        kept: of the profile.
        now_s: seconds since 1970; None where the wall clock isn't synchronised, so that no age is known.
    """
    connection.create_aggregate("union_of_words", 1, _Words)  # type: ignore[arg-type]  # its finalize may give None
    if now_s is not None:
        _merge_older(connection, now_s - kept.fine_s, MINUTE_S)
        _merge_older(connection, now_s - kept.minutes_s, HOUR_S)
        _drop_older(connection, now_s - kept.hours_s)
    _keep_size(connection, kept.size_bytes)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Size of the pages that hold something: a store reuses those that were freed."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _runs(connection: sqlite3.Connection) -> list[str]:
    """Oldest first."""
    return [run_id for (run_id,) in connection.execute("SELECT run_id FROM run ORDER BY rowid")]


def _newest_before(connection: sqlite3.Connection, run_id: str, wall_time_s: float) -> int | None:
    """The moment in a run, by its own clock, up to which everything is older."""
    found = connection.execute(
        "SELECT max(timestamp_ns) FROM interval WHERE run_id = ? AND wall_is_synchronised AND wall_time_s < ?",
        (run_id, wall_time_s),
    ).fetchone()[0]
    return None if found is None else int(found)


def _merge_older(connection: sqlite3.Connection, wall_time_s: float, span_s: int) -> None:
    for run_id in _runs(connection):
        until_ns = _newest_before(connection, run_id, wall_time_s)
        if until_ns is None:
            continue
        with connection:
            _merge(connection, TABLES[SourceIntervalRecord], run_id, until_ns, span_s)
            _merge(connection, TABLES[IntervalRecord], run_id, until_ns, span_s)


def _merge(connection: sqlite3.Connection, table: Table, run_id: str, until_ns: int, span_s: int) -> None:
    """Merges the rows of each group of more than one; names are ours, values are bound."""
    name, span_ns, group = table.name, span_s * 10**9, _group(table)
    names = ", ".join(column.name for column in table.columns)
    merged = ", ".join(_merged(table, column) for column in table.columns).format(span_ns=span_ns)
    # One text for what a group has in common.
    identity = " || '|' || ".join(f"ifnull({name}.{part}, '')" for part in group)
    where = "run_id = :run AND timestamp_ns <= :until"
    values = {"run": run_id, "until": until_ns}
    connection.execute("DROP TABLE IF EXISTS temp.merged")
    connection.execute(
        f"CREATE TEMP TABLE merged AS SELECT {merged}, min(timestamp_ns) AS first_ns, {identity} AS identity"
        f" FROM {name} WHERE {where} GROUP BY timestamp_ns / {span_ns}, {', '.join(group)} HAVING count(*) > 1",
        values,
    )
    connection.execute(
        f"DELETE FROM {name} WHERE {where} AND EXISTS (SELECT 1 FROM temp.merged AS m WHERE m.identity = {identity}"
        f" AND {name}.timestamp_ns BETWEEN m.first_ns AND m.timestamp_ns)",
        values,
    )
    connection.execute(f"INSERT INTO {name} ({names}) SELECT {names} FROM temp.merged")
    connection.execute("DROP TABLE temp.merged")


def _drop_older(connection: sqlite3.Connection, wall_time_s: float) -> None:
    for run_id in _runs(connection):
        until_ns = _newest_before(connection, run_id, wall_time_s)
        if until_ns is not None:
            _drop(connection, run_id, until_ns)


def _drop(connection: sqlite3.Connection, run_id: str, until_ns: int) -> None:
    """Drops a run's rows up to a moment; and the run, when none is left but the newest run's."""
    with connection:
        for table, moment in _MOMENTS.items():
            connection.execute(f"DELETE FROM {table} WHERE run_id = ? AND {moment} <= ?", (run_id, until_ns))
        connection.execute(
            "DELETE FROM meter WHERE run_id = ?1 AND run_id <> (SELECT run_id FROM run ORDER BY rowid DESC LIMIT 1)"
            " AND NOT EXISTS (SELECT 1 FROM interval WHERE run_id = ?1)",
            (run_id,),
        )
        connection.execute(
            "DELETE FROM run WHERE run_id = ?1 AND rowid < (SELECT max(rowid) FROM run)"
            " AND NOT EXISTS (SELECT 1 FROM interval WHERE run_id = ?1)",
            (run_id,),
        )


def _keep_size(connection: sqlite3.Connection, size_bytes: float) -> None:
    while used_bytes(connection) > size_bytes:
        oldest = connection.execute(
            "SELECT run.run_id, min(timestamp_ns), max(timestamp_ns), run.rowid = (SELECT max(rowid) FROM run)"
            " FROM run LEFT JOIN interval USING (run_id) GROUP BY run.run_id ORDER BY run.rowid LIMIT 1"
        ).fetchone()
        if oldest is None:
            return
        run_id, first_ns, last_ns, is_newest = oldest
        if first_ns is None:
            if is_newest:
                return
            # It ended before its first interval did; what else it left goes as a whole.
            _drop(connection, run_id, _FOREVER_NS)
            continue
        # A tenth at a time: of a store that is one long run, the newest rows must stay.
        _drop(connection, run_id, first_ns + max(1, (last_ns - first_ns) // 10))
