"""Keeps the telemetry store small: rows grow coarser with age, and the oldest go when it would grow too large.

A merged row is the end of its minute or hour. Counts and energy add up; power, rate and stage times are means over the rows,
weighted by the time that a meter covered, by time, or by frames. Latency's p50 is the mean of the rows' p50, weighted by
frames; p90, p99, temperature and memory are the largest that a row had: percentiles can't be merged, so these are upper
bounds; the lowest rate that the limit on heat held to is the whole row's. Power figures of different sources, and measured
and estimated ones, are never merged: they stay rows of their own, as does time without a figure, and time of which nobody
could tell whether the board was throttled.

Age is known only where the wall clock was synchronised at some time of the run, and is so now. Rows whose age nobody knows
go by size alone.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from device.contract import Telemetry

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400

_FOREVER_NS = (1 << 63) - 1


class Limits(NamedTuple):
    """Ages in seconds, and size in bytes; see `device.contract.profile.Telemetry`."""

    fine_s: float
    minutes_s: float
    hours_s: float
    size_bytes: float

    @classmethod
    def of(cls, settings: Telemetry) -> Limits:
        """Of a profile."""
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


def _time_mean(column: str) -> str:
    return f"sum({column} * duration_s) / sum(CASE WHEN {column} IS NOT NULL THEN duration_s END)"


def _frame_mean(column: str) -> str:
    return f"sum({column} * frames) / sum(CASE WHEN {column} IS NOT NULL THEN frames END) AS {column}"


_LATENCY = f"{_frame_mean('latency_p50_s')}, max(latency_p90_s) AS latency_p90_s, max(latency_p99_s) AS latency_p99_s"

_INTERVAL = ", ".join(
    (
        "run_id",
        "max(timestamp_ns) AS timestamp_ns",
        "max(wall_time_s) AS wall_time_s",
        "sum(duration_s) AS duration_s",
        "sum(frames) AS frames",
        "sum(dropped) AS dropped",
        "sum(frames) / sum(duration_s) AS fps",
        _LATENCY,
        *(_frame_mean(stage) for stage in ("capture_s", "preprocess_s", "inference_s", "postprocess_s")),
        f"ifnull(sum(power_w * power_covered_s) / sum(power_covered_s), {_time_mean('power_w')}) AS power_w",
        "sum(energy_j) AS energy_j",
        "sum(power_covered_s) AS power_covered_s",
        "power_source",
        "power_scope",
        "power_is_estimate",
        "max(temperature_c) AS temperature_c",
        f"{_time_mean('frequency_hz')} AS frequency_hz",
        "union_of_words(throttled) AS throttled",
        "max(rss_bytes) AS rss_bytes",
        "sum(unknown) AS unknown",
        "min(wall_is_synchronised) AS wall_is_synchronised",
        "min(heat_limit_fps) AS heat_limit_fps",
    )
)
_INTERVAL_KEY = "run_id, timestamp_ns / {span_ns}, power_source, power_scope, power_is_estimate, throttled IS NULL"

# A source's row has no length: those of the intervals, which tell of the same time and are merged after it, have.
_SOURCE_LENGTH_S = (
    "(SELECT sum(i.duration_s) FROM interval AS i WHERE i.run_id = :run AND i.timestamp_ns"
    " BETWEEN source_interval.timestamp_ns / {span_ns} * {span_ns}"
    " AND min(:until, source_interval.timestamp_ns / {span_ns} * {span_ns} + {span_ns} - 1))"
)

_SOURCE = ", ".join(
    (
        "run_id",
        "max(timestamp_ns) AS timestamp_ns",
        "source",
        "sum(frames) AS frames",
        "sum(dropped) AS dropped",
        "sum(bad_frames) AS bad_frames",
        # Rows whose intervals are lost are taken for equally long: nothing tells of their length.
        f"ifnull(sum(frames) / {_SOURCE_LENGTH_S}, avg(fps)) AS fps",
        _LATENCY,
        _frame_mean("capture_s"),
        "max(is_interrupted) AS is_interrupted",
    )
)
_SOURCE_KEY = "run_id, timestamp_ns / {span_ns}, source"

_MOMENTS = {"interval": "timestamp_ns", "source_interval": "timestamp_ns", "interruption": "started_ns"}
"""Table -> the column by which its rows grow old."""


def thin_out(connection: sqlite3.Connection, limits: Limits, now_s: float | None) -> None:
    """Merges and drops what is due, in one transaction a step.

    Args:
        connection: to a store.
        limits: of the profile.
        now_s: seconds since 1970; None where the wall clock isn't synchronised, so that no age is known.
    """
    connection.create_aggregate("union_of_words", 1, _Words)  # type: ignore[arg-type]  # its finalize may give None
    if now_s is not None:
        _merge_older(connection, now_s - limits.fine_s, MINUTE_S)
        _merge_older(connection, now_s - limits.minutes_s, HOUR_S)
        _drop_older(connection, now_s - limits.hours_s)
    _keep_size(connection, limits.size_bytes)


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
            _merge(connection, "source_interval", _SOURCE, _SOURCE_KEY, run_id, until_ns, span_s)
            _merge(connection, "interval", _INTERVAL, _INTERVAL_KEY, run_id, until_ns, span_s)


def _merge(connection: sqlite3.Connection, table: str, columns: str, key: str, run_id: str, until_ns: int, span_s: int) -> None:
    """Merges the rows of each group of more than one; names are ours, values are bound."""
    same = f"m.identity = {_identity(table, key)}"
    span_ns = span_s * 10**9
    group, columns = key.format(span_ns=span_ns), columns.format(span_ns=span_ns)
    where = "run_id = :run AND timestamp_ns <= :until"
    values = {"run": run_id, "until": until_ns}
    names = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
    connection.execute("DROP TABLE IF EXISTS temp.merged")
    connection.execute(
        f"CREATE TEMP TABLE merged AS SELECT {columns}, min(timestamp_ns) AS first_ns, {_identity(table, key)} AS identity"  # noqa: S608
        f" FROM {table} WHERE {where} GROUP BY {group} HAVING count(*) > 1",
        values,
    )
    connection.execute(
        f"DELETE FROM {table} WHERE {where} AND EXISTS (SELECT 1 FROM temp.merged AS m WHERE {same}"  # noqa: S608
        f" AND {table}.timestamp_ns BETWEEN m.first_ns AND m.timestamp_ns)",
        values,
    )
    connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM temp.merged")  # noqa: S608
    connection.execute("DROP TABLE temp.merged")


def _identity(table: str, key: str) -> str:
    """One text for what a group has in common beside its time."""
    return " || '|' || ".join(f"ifnull({table}.{name}, '')" for name in key.split(", ")[2:])


def _drop_older(connection: sqlite3.Connection, wall_time_s: float) -> None:
    for run_id in _runs(connection):
        until_ns = _newest_before(connection, run_id, wall_time_s)
        if until_ns is not None:
            _drop(connection, run_id, until_ns)


def _drop(connection: sqlite3.Connection, run_id: str, until_ns: int) -> None:
    """Drops a run's rows up to a moment; and the run, when none is left but the newest run's."""
    with connection:
        for table, moment in _MOMENTS.items():
            connection.execute(f"DELETE FROM {table} WHERE run_id = ? AND {moment} <= ?", (run_id, until_ns))  # noqa: S608
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
