"""Telemetry stores with runs of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from device.protocols import InterruptionRecord, IntervalRecord, MeterRecord, RunRecord, SourceIntervalRecord
from device.sinks.telemetry import TelemetryStore
from tests.unit import records
from tests.unit.records import interval, run_record

Row = IntervalRecord | SourceIntervalRecord | InterruptionRecord | MeterRecord

SECOND_NS = 1_000_000_000

MEASURED: dict[str, Any] = {"power_source": "ina219 (hwmon)", "power_scope": "board", "power_is_estimate": False}
ESTIMATED: dict[str, Any] = {"power_source": "estimate", "power_scope": "board", "power_is_estimate": True}


def run(run_id: str = "run-1", **changes: Any) -> RunRecord:
    """A run of that id."""
    return msgspec.structs.replace(run_record(), run_id=run_id, **changes)


def power(power_w: float, covered_s: float = 1.0, **kind: Any) -> dict[str, Any]:
    """An interval's power, of which the meter covered so much."""
    return {"power_w": power_w, "energy_j": power_w * covered_s, "power_covered_s": covered_s, **(kind or MEASURED)}


def second(number: int, **changes: Any) -> IntervalRecord:
    """The interval that ends that many seconds after the monotonic clock's zero."""
    return interval(number * SECOND_NS, **changes)


def interruption(
    started_s: float, duration_s: float | None, source: str = "v4l2:0", reason: str = "stalled"
) -> InterruptionRecord:
    """A source's interruption."""
    times = {"started_ns": round(started_s * SECOND_NS), "duration_s": duration_s, "is_over": duration_s is not None}
    return records.interruption(source, reason, attempts=1, **times)


def meter(place: int, power_w: float | None, covered_s: float = 10.0, **changes: Any) -> MeterRecord:
    """What a plug gave over a run."""
    values: dict[str, Any] = {
        "source": "shelly",
        "scope": "wall",
        "resolution_w": 0.1,
        "power_w": power_w,
        "energy_j": None if power_w is None else power_w * covered_s,
        "covered_s": covered_s if power_w is not None else 0.0,
        "sample_rate_hz": 1.0,
        "samples": 10 if power_w is not None else 0,
        "sampler_cpu_s": 0.02,
    }
    return records.meter(place, **(values | changes))


def write_store(path: Path, *runs: tuple[RunRecord, Iterable[Row]]) -> Path:
    """Writes a store through the store itself."""
    for record, rows in runs:
        with TelemetryStore(path, pending_limit=1_000_000) as store:
            store.write(record)
            for row in rows:
                store.write(row)
            store.flush()
    return path
