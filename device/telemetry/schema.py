"""The telemetry store's tables, and how those of an older schema become these.

References:
    https://sqlite.org/stricttables.html, https://sqlite.org/withoutrowid.html
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from device.core.errors import SinkError
from device.protocols import InterruptionRecord, IntervalRecord, MeterRecord, Percentiles, RunRecord, SourceIntervalRecord

STORE_SCHEMA = 3
"""Raised with every change of the tables. A store of an older number is brought up to this one, and keeps its rows."""

_TABLES_OF_3 = """
CREATE TABLE source_interval (
    run_id TEXT NOT NULL REFERENCES run, timestamp_ns INTEGER NOT NULL, source TEXT NOT NULL,
    frames INTEGER NOT NULL, dropped INTEGER NOT NULL, bad_frames INTEGER NOT NULL, fps REAL NOT NULL,
    latency_p50_s REAL, latency_p90_s REAL, latency_p99_s REAL, capture_s REAL, is_interrupted INTEGER NOT NULL,
    PRIMARY KEY (run_id, timestamp_ns, source)
) STRICT, WITHOUT ROWID;
CREATE TABLE interruption (
    run_id TEXT NOT NULL REFERENCES run, source TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    started_ns INTEGER NOT NULL, wall_time_s REAL NOT NULL, duration_s REAL, attempts INTEGER NOT NULL,
    is_over INTEGER NOT NULL,
    PRIMARY KEY (run_id, source, started_ns, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE meter (
    run_id TEXT NOT NULL REFERENCES run, place INTEGER NOT NULL, source TEXT NOT NULL, scope TEXT NOT NULL,
    is_estimate INTEGER NOT NULL, resolution_w REAL, power_w REAL, energy_j REAL, covered_s REAL NOT NULL,
    sample_rate_hz REAL, samples INTEGER NOT NULL, failed INTEGER NOT NULL, error TEXT, sampler_cpu_s REAL NOT NULL,
    PRIMARY KEY (run_id, place)
) STRICT, WITHOUT ROWID;
"""

_TABLES = (
    """
CREATE TABLE IF NOT EXISTS run (
    run_id TEXT PRIMARY KEY, started_at_utc TEXT NOT NULL, profile TEXT NOT NULL, model TEXT NOT NULL, weights TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL, runtime TEXT NOT NULL, runtime_version TEXT NOT NULL, threads INTEGER NOT NULL,
    source TEXT NOT NULL, board TEXT NOT NULL, machine TEXT NOT NULL, kernel TEXT NOT NULL, python TEXT NOT NULL,
    governor TEXT, version TEXT NOT NULL, unknown_below REAL
) STRICT;
CREATE TABLE IF NOT EXISTS interval (
    run_id TEXT NOT NULL REFERENCES run, timestamp_ns INTEGER NOT NULL, wall_time_s REAL NOT NULL, duration_s REAL NOT NULL,
    frames INTEGER NOT NULL, dropped INTEGER NOT NULL, fps REAL NOT NULL,
    latency_p50_s REAL, latency_p90_s REAL, latency_p99_s REAL,
    capture_s REAL, preprocess_s REAL, inference_s REAL, postprocess_s REAL,
    power_w REAL, energy_j REAL, power_source TEXT, power_scope TEXT, power_is_estimate INTEGER,
    temperature_c REAL, frequency_hz REAL, throttled TEXT, rss_bytes INTEGER NOT NULL, unknown INTEGER,
    wall_is_synchronised INTEGER, heat_limit_fps REAL, power_covered_s REAL,
    PRIMARY KEY (run_id, timestamp_ns)
) STRICT, WITHOUT ROWID;
"""
    + _TABLES_OF_3
)

_UPGRADES = {
    1: "ALTER TABLE run ADD COLUMN unknown_below REAL; ALTER TABLE interval ADD COLUMN unknown INTEGER;",
    2: _TABLES_OF_3 + "ALTER TABLE interval ADD COLUMN wall_is_synchronised INTEGER;"
    "ALTER TABLE interval ADD COLUMN heat_limit_fps REAL; ALTER TABLE interval ADD COLUMN power_covered_s REAL;",
}
"""Schema -> what makes a store of it one of the next. Rows from before have NULL in what is new: nobody counted."""

Row = IntervalRecord | SourceIntervalRecord | InterruptionRecord | MeterRecord
"""What has a table of its own, beside `RunRecord`."""

_TABLE_OF: dict[type, str] = {
    RunRecord: "run",
    IntervalRecord: "interval",
    SourceIntervalRecord: "source_interval",
    InterruptionRecord: "interruption",
    MeterRecord: "meter",
}


def prepare_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables, or brings those of an older schema up to this one: wholly or not at all.

    Raises:
        SinkError: ``schema`` where the store is of a newer schema.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == STORE_SCHEMA:
        return
    if found and found not in _UPGRADES:
        raise SinkError(
            f"telemetry {path}",
            f"has schema {found}",
            expected=f"{STORE_SCHEMA} or older",
            remedy="name another file with --telemetry",
            reason="schema",
        )
    steps = "".join(_UPGRADES[schema] for schema in range(found, STORE_SCHEMA)) if found else _TABLES
    connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version={STORE_SCHEMA}; COMMIT;")


def insert(connection: sqlite3.Connection, run_id: str, record: RunRecord | Row) -> None:
    """Writes a record's row, in place of one with the same key."""
    row = {**_columns(record), "run_id": run_id}
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    table = _TABLE_OF[type(record)]
    connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", row)  # noqa: S608  # names are ours


def _columns(record: RunRecord | Row) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    if "latency_s" in row:
        latency: Percentiles | None = row.pop("latency_s")
        for name in ("p50", "p90", "p99"):
            row[f"latency_{name}_s"] = getattr(latency, name) if latency else None
    return row
