"""What is demanded of the record of a power that is known: functions of plain data, which can be tested without
an emulator."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

ENERGY_TOLERANCE = 0.01

# What the profiles of these tests ask for.
SAMPLE_RATE_HZ = 10.0

# Time that a meter may miss at each end of the run and of a gap: from the last sample to the end, and from there to the first.
MISSED_EACH_S = 0.5

# By which the time between two samples differs from row to row, where nothing is late.
JITTER_S = 0.15

# A row that overlaps a change by one sample is left out.
SETTLE_NS = 600_000_000


class PowerRow(NamedTuple):
    """One interval of the telemetry."""

    end_ns: int
    duration_s: float
    power_w: float | None
    energy_j: float | None
    covered_s: float | None
    source: str | None
    scope: str | None
    is_estimate: int | None

    @property
    def begin_ns(self) -> float:
        return self.end_ns - self.duration_s * 1e9


class Gap(msgspec.Struct, frozen=True):
    """A time without the meter; see ``programs/power.py``."""

    kind: str
    from_ns: int
    until_ns: int
    back_ns: int


class Curve(msgspec.Struct, frozen=True):
    """Power as it was set: moments, and the watts from then on."""

    steps: tuple[tuple[int, float], ...]

    def at(self, moment_ns: float) -> float:
        """Watts at a moment."""
        return [power_w for set_ns, power_w in self.steps if set_ns <= moment_ns][-1]

    def integrate(self, from_ns: float, until_ns: float) -> float:
        """Joules from one moment to another."""
        changes = [moment_ns for moment_ns, _ in self.steps if from_ns < moment_ns < until_ns]
        moments = [from_ns, *changes, until_ns]
        return sum(self.at(a) * (b - a) / 1e9 for a, b in itertools.pairwise(moments))

    def levels(self, from_ns: float, until_ns: float) -> list[float]:
        """Watts that were set from one moment to another."""
        begin_w = self.at(max(from_ns, self.steps[0][0]))
        return [begin_w, *(power_w for moment_ns, power_w in self.steps if from_ns < moment_ns <= until_ns)]

    def blur(self, sample_rate_hz: float) -> float:
        """Joules by which samples of a lower rate than `SAMPLE_RATE_HZ` may miss its steps: half a period each."""
        late_s = max(0.0, 1.0 / sample_rate_hz - 1.0 / SAMPLE_RATE_HZ)
        return sum(abs(after - before) for (_, before), (_, after) in itertools.pairwise(self.steps)) * late_s / 2


class Late(NamedTuple):
    """Time that a row lacks, or has too much of, and the least and the most that the curve had around it."""

    missed_s: float
    least_w: float
    most_w: float


class Expected(NamedTuple):
    """Energy and time of a run without its gaps."""

    energy_j: float
    duration_s: float


def read_power(path: Path) -> list[PowerRow]:
    """Reads the intervals of a telemetry file that holds one run."""
    columns = "timestamp_ns, duration_s, power_w, energy_j, power_covered_s, power_source, power_scope, power_is_estimate"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM run").fetchone() == (1,)
        found = connection.execute(f"SELECT {columns} FROM interval ORDER BY timestamp_ns").fetchall()
    return [PowerRow._make(values) for values in found]


def read_meters(path: Path) -> list[dict[str, Any]]:
    """Reads the last word of each meter, the headline's first."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM meter ORDER BY place")]


def expect(rows: Sequence[PowerRow], curve: Curve, gaps: Sequence[Gap]) -> Expected:
    """Integrates a curve over a run, without its gaps."""
    moments = [rows[0].begin_ns, *(moment for gap in gaps for moment in (gap.from_ns, gap.back_ns)), rows[-1].end_ns]
    spans = list(zip(moments[::2], moments[1::2], strict=True))
    energy_j = sum(curve.integrate(*span) for span in spans)
    return Expected(energy_j, sum(until_ns - from_ns for from_ns, until_ns in spans) / 1e9)


def find_late(rows: Sequence[PowerRow], curve: Curve, gaps: Sequence[Gap]) -> list[Late]:
    """Finds the rows of which the meter covered clearly more or less than their length: on a busy machine the sampler is late.

    Time between two samples counts to the row in which it ends, or is lost where it is too long.
    """
    found = []
    for row in rows:
        away_ns = sum(max(0.0, min(row.end_ns, gap.back_ns) - max(row.begin_ns, gap.from_ns)) for gap in gaps)
        missed_s = row.duration_s - away_ns / 1e9 - (row.covered_s or 0.0)
        if abs(missed_s) > JITTER_S:
            levels = curve.levels(row.begin_ns - SETTLE_NS, row.end_ns)
            found.append(Late(missed_s, min(levels), max(levels)))
    return found


def check_energy(
    energy_j: float,
    covered_s: float,
    expected: Expected,
    *,
    edge_w: float,
    ends: int,
    late: Sequence[Late] = (),
    slack_j: float = 0.0,
) -> float:
    """Demands that an energy is the curve's integral over the time that was covered.

    Args:
        energy_j: as recorded.
        covered_s: as recorded.
        expected: of the whole time.
        edge_w: the power at every end; what a meter misses there is not missing elsewhere.
        ends: of the run and of its gaps.
        late: time that is missing, or counted twice, elsewhere.
        slack_j: by how much more the energy may differ.

    Returns:
        By which share it differs.

    Raises:
        AssertionError: by more than `ENERGY_TOLERANCE`, or more time is missing than ends and late samples explain.
    """
    missed_s = expected.duration_s - covered_s - sum(one.missed_s for one in late)
    # The sampler begins before the first row does; nothing else may be covered that wasn't there.
    assert -MISSED_EACH_S <= missed_s <= MISSED_EACH_S * ends, f"{covered_s:.2f} s covered of {expected.duration_s:.2f} s"
    assert covered_s >= expected.duration_s / 2, f"no more than {covered_s:.2f} s covered of {expected.duration_s:.2f} s"
    at_ends_j = expected.energy_j - edge_w * missed_s
    bounds = [sorted((one.missed_s * one.least_w, one.missed_s * one.most_w)) for one in late]
    low_j = at_ends_j - sum(most for _, most in bounds) - slack_j
    high_j = at_ends_j - sum(least for least, _ in bounds) + slack_j
    wanted_j = min(max(energy_j, low_j), high_j)
    error = energy_j / wanted_j - 1.0
    wanted = f"{low_j:.2f} to {high_j:.2f} J"
    assert abs(error) <= ENERGY_TOLERANCE, f"{energy_j:.2f} J recorded, the curve has {wanted} ({error:+.2%})"
    return error


def check_gap(rows: Sequence[PowerRow], gap: Gap) -> int:
    """Demands that the rows inside a gap have no power: no zero, no old value, and no source either.

    Returns:
        How many rows lie in it.

    Raises:
        AssertionError: one has, or none lies in it.
    """
    inside = [row for row in rows if row.begin_ns >= gap.from_ns + SETTLE_NS and row.end_ns <= gap.until_ns]
    assert inside, f"no row lies in the gap ({gap.kind})"
    for row in inside:
        assert row[2:] == (None,) * 6, f"a row in the gap ({gap.kind}) says {row}"
    return len(inside)


def check_rows_follow(rows: Sequence[PowerRow], curve: Curve, gaps: Sequence[Gap], source: str, step_w: float) -> int:
    """Demands that each row wholly inside a time of steady power, and outside the gaps, shows it, measured by the source.

    Returns:
        How many do.

    Raises:
        AssertionError: one doesn't.
    """
    seen = 0
    for row in rows:
        away = any(gap.from_ns < row.end_ns and row.begin_ns < gap.back_ns + SETTLE_NS for gap in gaps)
        if away or not _is_steady(curve, row.begin_ns - SETTLE_NS, row.end_ns):
            continue
        power_w = curve.at(row.end_ns)
        assert (row.source, row.is_estimate) == (source, 0), f"{row}"
        assert row.power_w is not None
        assert abs(row.power_w - power_w) <= step_w, f"{row.power_w} W logged where {power_w} W was set"
        seen += 1
    return seen


def _is_steady(curve: Curve, from_ns: float, until_ns: float) -> bool:
    if from_ns < curve.steps[0][0]:
        return False
    watts = {power_w for moment_ns, power_w in curve.steps if from_ns <= moment_ns <= until_ns}
    return watts <= {curve.at(from_ns)}
