"""The telemetry store: one SQLite file, many runs, a row an interval.

Write-ahead log and one transaction a flush: a power cut loses what was not flushed, and nothing else. Rows that can't be
written wait in memory, up to a bound, for a disk that has room again. A store that is damaged is set aside under another
name, and a new one is begun.

References:
    https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous: WAL with ``synchronous=NORMAL``.
    https://sqlite.org/pragma.html#pragma_quick_check
    https://sqlite.org/howtocorrupt.html: what a card that fails does to a database.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

from device.contract import Telemetry
from device.core.errors import SinkError
from device.protocols import RunRecord, SinkContext
from device.sinks.base import SinkPlugin
from device.telemetry.retention import Retention, thin_out
from device.telemetry.schema import Row, insert, prepare_tables

_HEADER = b"SQLite format 3\x00"
_SUFFIXES = (".sqlite", ".sqlite3", ".db")

THIN_OUT_INTERVAL_S = 3600.0

# Pages of the write-ahead log that are kept after a checkpoint, so that one long outage doesn't leave a large file.
_MAX_LOG_BYTES = 4 << 20


class TelemetryOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile may give it; how long rows are kept stands under ``telemetry:``."""

    path: Annotated[str, Meta(description="the SQLite file")]


class TelemetryStore(SinkPlugin):
    """A SQLite file with a row an interval, thinned out with age.

    Args:
        path: of the SQLite file; made, with its folder, at the first flush.
        settings: how long rows are kept.
        pending_limit: rows that may wait in memory while the disk is full; beyond it the oldest go.
        report: takes one line where a store was set aside; from the thread that flushes.
        wall_time_s: seconds since 1970, or None where the wall clock isn't synchronised.

    Raises:
        SinkError: ``permission`` where the path can't be a file, ``damaged`` where another kind of file lies there.
    """

    Options: ClassVar[type[msgspec.Struct]] = TelemetryOptions

    @classmethod
    def open(cls, options: TelemetryOptions, context: SinkContext) -> Self:
        """Checks the path; the file is made at the first flush."""
        clock = context.clock
        return cls(
            Path(options.path),
            settings=context.profile.telemetry,
            report=context.report,
            wall_time_s=lambda: clock.wall_time_s() if clock.wall_is_synchronised() else None,
        )

    def __init__(
        self,
        path: Path,
        *,
        settings: Telemetry | None = None,
        pending_limit: int = 7200,
        report: Callable[[str], None] = lambda _: None,
        wall_time_s: Callable[[], float | None] = time.time,
    ) -> None:
        self._path = path
        settings = settings or Telemetry()
        self.flush_interval_s = settings.flush_interval_s
        self._retention = Retention.of(settings)
        self._report = report
        self._wall_time_s = wall_time_s
        self._run: RunRecord | None = None
        self._run_is_stored = False
        self._pending: deque[Row] = deque(maxlen=pending_limit)
        self._connection: sqlite3.Connection | None = None
        self._is_checked = False
        self._thin_out_at_s = 0.0
        self.lost = 0
        _check_path(path)

    def write(self, event: RunRecord | Row) -> None:
        """Buffers a record."""
        if isinstance(event, RunRecord):
            self._run, self._run_is_stored = event, False
        else:
            self.lost += len(self._pending) == self._pending.maxlen
            self._pending.append(event)

    def flush(self) -> None:
        """Commits what is buffered in one transaction; once an hour, thins out what is old."""
        if self._run is None or (self._run_is_stored and not self._pending):
            return
        try:
            self._commit(self._run)
            self._thin_out_when_due()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self._disconnect()
            if _is_damage(error):
                self._set_aside(str(error))
                self._run_is_stored = False
            raise self._trouble(error) from error

    def close(self) -> None:
        """Closes the file, folding the write-ahead log into it. Doesn't flush."""
        self._disconnect()

    def _commit(self, run: RunRecord) -> None:
        connection = self._connect()
        with connection:
            if not self._run_is_stored:
                insert(connection, run.run_id, run)
            for record in self._pending:
                insert(connection, run.run_id, record)
        self._run_is_stored = True
        self._pending.clear()

    def _thin_out_when_due(self) -> None:
        now_s = time.monotonic()
        if now_s < self._thin_out_at_s:
            return
        self._thin_out_at_s = now_s + THIN_OUT_INTERVAL_S
        thin_out(self._connect(), self._retention, self._wall_time_s())

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._is_checked:
                self._check_whole()
            self._connection = _open(self._path)
        return self._connection

    def _check_whole(self) -> None:
        """Checks once whether an existing store is whole; sets it aside where it isn't."""
        self._is_checked = True
        if not self._path.exists():
            return
        try:
            connection = _open(self._path)
            try:
                verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            finally:
                connection.close()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not _is_damage(error):
                raise
            verdict = str(error)
        if verdict != "ok":
            self._set_aside(verdict)

    def _set_aside(self, why: str) -> None:
        name = _free_name(self._path)
        for suffix in ("-wal", "-shm", ""):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(name.with_name(name.name + suffix))
        self._report(
            f"telemetry {self._path}: is damaged ({' '.join(why.split())}); set aside as {name.name}, and a new one begun"
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _trouble(self, error: Exception) -> SinkError:
        code = getattr(error, "sqlite_errorcode", None)
        return SinkError(
            f"telemetry {self._path}",
            f"can't be written ({error}); {len(self._pending)} rows wait in memory",
            remedy="free some space, or name another place with --telemetry",
            reason="full" if code == sqlite3.SQLITE_FULL else "write",
        )


def _open(path: Path) -> sqlite3.Connection:
    # Made in whichever thread flushes, closed in whichever closes: never used from two at once.
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={_MAX_LOG_BYTES}")
        prepare_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_damage(error: Exception) -> bool:
    """True where the file itself is wrong, not the disk that it lies on."""
    if isinstance(error, UnicodeDecodeError):
        return True  # SQLite's own message quotes the damage
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    # A table or a column that should be there and isn't is damage too: prepare_tables has seen the schema's number.
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    return name


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
        if error.errno == errno.EROFS:
            return  # a worn card goes read-only: each flush reports it, and the run continues
        raise SinkError(
            where, error.strerror or str(error), expected="a file that can be written", reason="permission"
        ) from error
    # A file with a store's name is a store, however damaged; any other file may be precious to someone.
    if header and header != _HEADER and path.suffix not in _SUFFIXES:
        raise SinkError(
            where, "exists and is no telemetry store", remedy="name another file; this one was left as it is", reason="damaged"
        )
