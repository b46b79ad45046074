"""The telemetry store: one SQLite file, many runs, a row an interval.

Write-ahead log and one transaction a flush: a power cut loses what was not flushed, and nothing else. Rows that can't be
written wait in memory, up to a bound, for a disk that has room again.

References:
    https://sqlite.org/wal.html and https://sqlite.org/pragma.html#pragma_synchronous for WAL with ``synchronous=NORMAL``.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from device.errors import SinkError
from device.protocols import InterruptionRecord, IntervalRecord, Percentiles, Record, RunRecord, SourceIntervalRecord
from device.resources import Resource

STORE_SCHEMA = 3
"""Raised with every change of the tables. A store of an older number is brought up to this one, and keeps its rows."""
_HEADER = b"SQLite format 3\x00"

_CAMERA_TABLES = """
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
    PRIMARY KEY (run_id, timestamp_ns)
) STRICT, WITHOUT ROWID;
"""
    + _CAMERA_TABLES
)

_UPGRADES = {
    1: "ALTER TABLE run ADD COLUMN unknown_below REAL; ALTER TABLE interval ADD COLUMN unknown INTEGER;",
    2: _CAMERA_TABLES,
}
"""Schema -> what makes a store of it one of the next. Rows from before have NULL in what is new: nobody counted."""


_Row = IntervalRecord | SourceIntervalRecord | InterruptionRecord
_TABLE_OF: dict[type, str] = {
    IntervalRecord: "interval",
    SourceIntervalRecord: "source_interval",
    InterruptionRecord: "interruption",
}


class TelemetryStore(Resource):
    """Keeps every record but predictions.

    Args:
        path: of the SQLite file; made, with its folder, at the first flush.
        pending_limit: rows that may wait in memory while the disk is full; beyond it the oldest go.

    Raises:
        SinkError: ``permission`` where the path can't be a file, ``damaged`` where another kind of file lies there.
    """

    def __init__(self, path: Path, *, pending_limit: int = 7200) -> None:
        self._path = path
        self._run: RunRecord | None = None
        self._run_is_stored = False
        self._pending: deque[_Row] = deque(maxlen=pending_limit)
        self._connection: sqlite3.Connection | None = None
        self.lost = 0
        _check_path(path)

    def write(self, record: Record) -> None:
        """Buffers a record."""
        if isinstance(record, RunRecord):
            self._run, self._run_is_stored = record, False
        elif isinstance(record, _Row):
            self.lost += len(self._pending) == self._pending.maxlen
            self._pending.append(record)

    def flush(self) -> None:
        """Commits what is buffered in one transaction."""
        if self._run is None or (self._run_is_stored and not self._pending):
            return
        try:
            connection = self._connect()
            with connection:
                if not self._run_is_stored:
                    _insert(connection, "run", msgspec.structs.asdict(self._run))
                for record in self._pending:
                    _insert(connection, _TABLE_OF[type(record)], _row(self._run.run_id, record))
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            code = getattr(error, "sqlite_errorcode", None)
            raise SinkError(
                f"telemetry {self._path}",
                f"can't be written ({error}); {len(self._pending)} rows wait in memory",
                remedy="free some space, or name another place with --telemetry",
                reason="full" if code == sqlite3.SQLITE_FULL else "write",
            ) from error
        self._run_is_stored = True
        self._pending.clear()

    def close(self) -> None:
        """Closes the file, folding the write-ahead log into it. Doesn't flush."""
        self._disconnect()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Made in whichever thread flushes, closed in whichever closes: never used from two at once.
            connection = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                _prepare_tables(connection, self._path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _check_path(path: Path) -> None:
    where = f"telemetry {path}"
    if path.is_dir():
        raise SinkError(where, "is a folder", expected="a file", reason="permission")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise SinkError(where, f"{parent} is no folder", expected="a file in a folder", reason="permission")
    if not path.exists():
        return
    try:
        with path.open("r+b") as file:
            header = file.read(len(_HEADER))
    except OSError as error:
        raise SinkError(
            where, error.strerror or str(error), expected="a file that can be written", reason="permission"
        ) from error
    if header and header != _HEADER:
        raise SinkError(
            where, "exists and is no telemetry store", remedy="name another file; this one was left as it is", reason="damaged"
        )


def _prepare_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables, or brings those of an older schema up to this one: wholly or not at all."""
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


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", row)  # noqa: S608  # names are ours


def _row(run_id: str, record: _Row) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    if "latency_s" in row:
        latency: Percentiles | None = row.pop("latency_s")
        for name in ("p50", "p90", "p99"):
            row[f"latency_{name}_s"] = getattr(latency, name) if latency else None
    return {"run_id": run_id, **row}
