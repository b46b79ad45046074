"""How a record's field is kept: the telemetry table's columns, and how rows that grow old are merged, are derived from this.

A record's class says it once, beside each field::

    temperature_c: Annotated[float | None, Column(merge="max")]
    latency_s: Annotated[Percentiles | None, Columns(Column("latency_p50_s", part="p50", weight="frames"), ...)]

A field's name carries its unit, and so does the column's. A field that is added later must allow None, or its column NULL.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Merge = Literal["mean", "sum", "max", "min", "rate", "words", "group"]
"""What becomes of the values of several rows.

``mean``: weighted by ``Column.weight``; rows without a value have no share in it. ``rate``: the sum of ``frames`` by the time
of the rows. ``words``: every word of comma-separated lists, once; rows that have no list stay apart from those that have one.
``group``: rows whose values differ are not merged at all.
"""


class Column(NamedTuple):
    """One column of a record's table.

    Attributes:
        name: of the column; empty for the field's own.
        part: attribute of the field's value that is kept, where the field is a record itself.
        merge: see `Merge`.
        weight: name of the column that a mean is weighted by.
        is_nullable: NULL may stand in it although the field is never None: older rows had no such figure.
        after: name of the column that it follows in the table; empty for the order of the fields.
    """

    name: str = ""
    part: str = ""
    merge: Merge = "group"
    weight: str = ""
    is_nullable: bool = False
    after: str = ""


class Columns(tuple[Column, ...]):
    """The columns of a field that holds a record, by its parts."""

    def __new__(cls, *columns: Column) -> Columns:
        """Takes columns that each name their ``part``."""
        return super().__new__(cls, columns)
