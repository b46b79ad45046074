"""The telemetry store's tables, made from what the records declare beside their fields, see `device.protocols.columns`.

A record that gains a field gains a column, which must allow NULL: a fresh store is made with it, and an existing one gets it
when it is opened next; rows from before have NULL there, and programs from before leave it NULL. A store that lacks any other
column is damaged.

References:
    https://sqlite.org/stricttables.html, https://sqlite.org/withoutrowid.html
"""
# ruff: noqa: S608  # What is put into statements are names of ours; values are bound.

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from device.core.errors import SinkError
from device.protocols import InterruptionRecord, IntervalRecord, MeterRecord, RunRecord, SourceIntervalRecord
from device.protocols.columns import Column, Columns, Merge

STORE_SCHEMA = 3
"""Raised when tables change in another way than by a new column."""

Row = IntervalRecord | SourceIntervalRecord | InterruptionRecord | MeterRecord
"""What has a table of its own, beside `RunRecord`."""

_TYPES = {int: "INTEGER", bool: "INTEGER", float: "REAL", str: "TEXT"}


class TableColumn(NamedTuple):
    """A column as SQLite has it.

    Attributes:
        name: of the column.
        path: attributes that lead from the record to the value.
        sql_type: ``INTEGER``, ``REAL``, ``TEXT``.
        is_nullable: NULL may stand in it.
        merge: see `device.protocols.columns.Merge`.
        weight: the column that a mean is weighted by.
    """

    name: str
    path: tuple[str, ...]
    sql_type: str
    is_nullable: bool
    merge: Merge
    weight: str


class Table(NamedTuple):
    """A record's table.

    Attributes:
        name: of the table.
        key: names of the columns that tell its rows apart.
        columns: in order; ``run_id`` is among them.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[TableColumn, ...]

    def definition(self) -> str:
        """The ``CREATE TABLE`` statement."""
        lines = [self._define(column) for column in self.columns]
        is_run = self.name == "run"
        if not is_run:
            lines.append(f"PRIMARY KEY ({', '.join(self.key)})")
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({', '.join(lines)}) STRICT{'' if is_run else ', WITHOUT ROWID'};"

    def _define(self, column: TableColumn) -> str:
        if column.name == "run_id":
            return "run_id TEXT PRIMARY KEY" if self.name == "run" else "run_id TEXT NOT NULL REFERENCES run"
        return f"{column.name} {column.sql_type}{'' if column.is_nullable else ' NOT NULL'}"


def _read_table(name: str, record: type, *key: str) -> Table:
    hints = get_type_hints(record, include_extras=True)
    declared = [pair for field, hint in hints.items() for pair in _read_field(field, hint)]
    if "run_id" not in hints:
        declared.insert(0, (TableColumn("run_id", (), "TEXT", False, "group", ""), Column()))
    columns = [column for column, how in declared if not how.after]
    for column, how in declared:
        if how.after:
            columns.insert([other.name for other in columns].index(how.after) + 1, column)
    return Table(name, key, tuple(columns))


def _read_field(field: str, hint: Any) -> list[tuple[TableColumn, Column]]:
    """The columns of a field, each with how it was declared."""
    kind, is_optional, how = _resolve(hint)
    if not isinstance(how, Columns):
        return [(_make_column(how.name or field, (field,), kind, is_optional, how), how)]
    parts = get_type_hints(kind, include_extras=True)
    return [(_make_column(one.name, (field, one.part), _resolve(parts[one.part])[0], is_optional, one), one) for one in how]


def _make_column(name: str, path: tuple[str, ...], kind: Any, is_optional: bool, how: Column) -> TableColumn:
    return TableColumn(name, path, _TYPES[kind], is_optional or how.is_nullable, how.merge, how.weight)


def _resolve(hint: Any) -> tuple[Any, bool, Column | Columns]:
    """A field's type without None, whether it may be None, and how it is kept."""
    how: Column | Columns = Column()
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        how = next((note for note in notes if isinstance(note, Column | Columns)), how)
    arms = [arm for arm in get_args(hint) if arm is not NoneType] if NoneType in get_args(hint) else []
    kind = arms[0] if arms else hint
    if get_origin(kind) is Literal:
        kind = str
    return kind, bool(arms), how


TABLES: dict[type, Table] = {
    RunRecord: _read_table("run", RunRecord, "run_id"),
    IntervalRecord: _read_table("interval", IntervalRecord, "run_id", "timestamp_ns"),
    SourceIntervalRecord: _read_table("source_interval", SourceIntervalRecord, "run_id", "timestamp_ns", "source"),
    InterruptionRecord: _read_table("interruption", InterruptionRecord, "run_id", "source", "started_ns", "reason"),
    MeterRecord: _read_table("meter", MeterRecord, "run_id", "place"),
}
"""Record -> its table."""


def prepare_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables, or gives those that are there the columns that they lack: wholly or not at all.

    Raises:
        SinkError: ``schema`` where the store is of another schema.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, STORE_SCHEMA):
        raise SinkError(
            f"telemetry {path}",
            f"has schema {found}",
            expected=f"{STORE_SCHEMA}",
            remedy="name another file with --telemetry",
            reason="schema",
        )
    steps = [step for table in TABLES.values() for step in _missing_columns(connection, table)] if found else []
    if not found:
        steps = [table.definition() for table in TABLES.values()]
    if steps:
        connection.executescript(f"BEGIN IMMEDIATE; {' '.join(steps)} PRAGMA user_version={STORE_SCHEMA}; COMMIT;")


def _missing_columns(connection: sqlite3.Connection, table: Table) -> list[str]:
    # Compared by SQLite: the names in a damaged store may be no text that Python can decode.
    query = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name = ?)"
    return [
        f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.sql_type};"
        for column in table.columns
        if column.is_nullable and connection.execute(query, (table.name, column.name)).fetchone() == (0,)
    ]


def insert(connection: sqlite3.Connection, run_id: str, record: RunRecord | Row) -> None:
    """Writes a record's row, in place of one with the same key."""
    table = TABLES[type(record)]
    names = ", ".join(column.name for column in table.columns)
    values = [_value(record, column.path) if column.path else run_id for column in table.columns]
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO {table.name} ({names}) VALUES ({marks})", values)


def _value(record: Any, path: tuple[str, ...]) -> Any:
    value = record
    for name in path:
        if value is None:
            return None
        value = getattr(value, name)
    return value
