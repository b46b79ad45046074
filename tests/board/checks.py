"""What is demanded of a booted board's records: functions of plain data, which can be tested without an emulator."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

# The sampler runs at the profile's rate and a row is a mean: a row that overlaps a change by one sample is left out.
SETTLE_NS = 500_000_000
POWER_TOLERANCE = 0.01


class Row(NamedTuple):
    """One interval of the telemetry."""

    end_ns: int
    duration_s: float
    frames: int
    power_w: float | None
    power_source: str | None
    is_estimate: bool | None


class Held(NamedTuple):
    """A time in which the sensor's register held one value."""

    power_w: float
    from_ns: int
    until_ns: int


def read_rows(path: Path) -> list[Row]:
    """Reads the intervals of a telemetry file that holds one run."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        (runs,) = connection.execute("SELECT count(*) FROM run").fetchone()
        assert runs == 1, f"{runs} runs in {path.name}, expected 1"
        columns = "timestamp_ns, duration_s, frames, power_w, power_source, power_is_estimate"
        found = connection.execute(f"SELECT {columns} FROM interval ORDER BY timestamp_ns").fetchall()
    connection.close()
    return [Row._make((*values, None if flag is None else bool(flag))) for *values, flag in found]


def check_power_follows(rows: list[Row], held: list[Held], source: str) -> None:
    """Demands that every row wholly inside a held time shows its watts, measured by the sensor that was there.

    Raises:
        AssertionError: it doesn't, or a held time has no row.
    """
    for span in held:
        inside = [
            row for row in rows if row.end_ns <= span.until_ns and row.end_ns - row.duration_s * 1e9 >= span.from_ns + SETTLE_NS
        ]
        assert inside, f"no row of the telemetry lies inside the time with {span.power_w} W"
        for row in inside:
            assert row.power_source is not None, "a row names no source of its power"
            assert row.power_source.startswith(source), f"power comes from {row.power_source}, expected {source}"
            assert row.is_estimate is False, "power is marked as an estimate"
            assert row.power_w is not None, "a row has no power"
            error_w = abs(row.power_w - span.power_w)
            assert error_w <= POWER_TOLERANCE * span.power_w, f"{row.power_w} W logged, the register held {span.power_w} W"
