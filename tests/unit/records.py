"""Records with plausible values."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from device.protocols import (
    FrameDone,
    InterruptionRecord,
    IntervalRecord,
    MeterRecord,
    Percentiles,
    PowerFigure,
    Prediction,
    RunRecord,
    RunSummary,
    SourceIntervalRecord,
    StageSummary,
    StageTimes,
)

TIMES = StageTimes(0.001, 0.002, 0.005, 0.0001)
"""Of one frame."""


def run_record() -> RunRecord:
    """A run on a host."""
    return RunRecord(
        run_id="run-1",
        started_at_utc="2026-01-02T03:04:05+00:00",
        profile="host",
        model="ghostnet_100",
        weights="clothing",
        manifest_sha256="0" * 64,
        runtime="litert",
        runtime_version="ai-edge-litert 2.3.0",
        threads=1,
        source="images:photographs",
        board="x86-64",
        machine="x86_64",
        kernel="6.1",
        python="3.11",
        governor=None,
        version="0.1.0",
        unknown_below=None,
    )


_POWER_PARTS = {
    "power_covered_s": "covered_s",
    "power_source": "source",
    "power_scope": "scope",
    "power_is_estimate": "is_estimate",
}


def interval(timestamp_ns: int, **changes: Any) -> IntervalRecord:
    """A second at 100 FPS without a power figure; ``power_w`` and its like in ``changes`` give it one, whole or not."""
    power: dict[str, Any] = {
        "power_w": None,
        "energy_j": None,
        "power_covered_s": None,
        "power_source": None,
        "power_scope": None,
        "power_is_estimate": None,
    }
    power |= {name: changes.pop(name) for name in power.keys() & changes.keys()}
    parts = {_POWER_PARTS.get(name, name): value for name, value in power.items()}
    values: dict[str, Any] = {
        "timestamp_ns": timestamp_ns,
        "wall_time_s": 1e9,
        "duration_s": 1.0,
        "frames": 100,
        "dropped": 0,
        "unknown": 0,
        "fps": 100.0,
        "latency_s": Percentiles(0.01, 0.02, 0.03),
        "capture_s": 0.001,
        "preprocess_s": 0.001,
        "inference_s": 0.006,
        "postprocess_s": 0.0001,
        "power": None if power["power_w"] is None else PowerFigure(**parts),
        "temperature_c": 50.0,
        "frequency_hz": None,
        "throttled": None,
        "rss_bytes": 50_000_000,
        "wall_is_synchronised": False,
        "heat_limit_fps": None,
    }
    return IntervalRecord(**(values | changes))


def prediction(index: int, origin: str | None = None, *, is_unknown: bool = False, source: str = "images:x") -> Prediction:
    """A hat, probably."""
    return Prediction(
        source=source,
        origin=origin,
        index=index,
        timestamp_ns=index,
        latency_s=0.01,
        labels=("hat", "shoes"),
        scores=(0.75, 0.25),
        is_unknown=is_unknown,
    )


def frame(index: int, origin: str | None = None, *, is_unknown: bool = False, source: str = "images:x") -> FrameDone:
    """A hat that went through."""
    return FrameDone(prediction(index, origin, is_unknown=is_unknown, source=source), TIMES)


def source_interval(timestamp_ns: int, source: str = "v4l2:0", **changes: Any) -> SourceIntervalRecord:
    """A camera's part of a second."""
    values: dict[str, Any] = {
        "frames": 30,
        "dropped": 1,
        "bad_frames": 0,
        "fps": 30.0,
        "latency_s": Percentiles(0.01, 0.02, 0.03),
        "capture_s": 0.001,
        "is_interrupted": False,
    }
    return SourceIntervalRecord(timestamp_ns=timestamp_ns, source=source, **(values | changes))


def interruption(source: str = "v4l2:0", reason: str = "stalled", **changes: Any) -> InterruptionRecord:
    """A camera that gives nothing any more."""
    values: dict[str, Any] = {
        "detail": "no frame within 5 s",
        "started_ns": 1,
        "wall_time_s": 1e9,
        "duration_s": None,
        "attempts": 0,
        "is_over": False,
    }
    return InterruptionRecord(source=source, reason=reason, **(values | changes))


def meter(place: int = 0, **changes: Any) -> MeterRecord:
    """A sensor after a minute."""
    values: dict[str, Any] = {
        "source": "ina219 (hwmon)",
        "scope": "board",
        "is_estimate": False,
        "resolution_w": 0.002,
        "power_w": 2.5,
        "energy_j": 150.0,
        "covered_s": 60.0,
        "sample_rate_hz": 10.0,
        "samples": 600,
        "failed": 0,
        "error": None,
        "sampler_cpu_s": 0.5,
    }
    return MeterRecord(place=place, **(values | changes))


def run_summary() -> RunSummary:
    """A run of a minute without meters."""
    nothing = StageSummary(None, None, None, None)
    return RunSummary(
        profile="host",
        model="ghostnet_100",
        runtime="litert",
        runtime_version="ai-edge-litert 2.3.0",
        threads=1,
        source="images:photographs",
        unknown_below=None,
        duration_s=60.0,
        frames=6000,
        dropped=0,
        bad_frames=0,
        interruptions=0,
        fps=100.0,
        latency_s=Percentiles(0.01, 0.02, 0.03),
        stage_s=nothing,
        sources=(),
        power=None,
        power_missing_reason="the profile names no meter",
        power_meters_missing=(),
        power_meters=(),
        sampler_cpu_s=None,
        energy_per_inference_j=None,
        rss_bytes=50_000_000,
        peak_rss_bytes=60_000_000,
        temperature_c=50.0,
        throttled=None,
        throttling_unsupported=(),
        labels={"hat": 6000},
        unknown=0,
    )


def read_rows(path: Path, query: str) -> list[dict[str, Any]]:
    """Rows of a telemetry store, by their columns."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(query)]
    finally:
        connection.close()
