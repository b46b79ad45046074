from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.contract import Telemetry
from device.core.errors import SinkError
from device.protocols import InterruptionRecord, IntervalRecord, Percentiles, SourceIntervalRecord
from device.sinks.telemetry import TelemetryStore
from device.telemetry.retention import Retention, thin_out, used_bytes
from device.telemetry.schema import Row
from tests.unit.records import interval, read_rows, run_record

NOW_S = 1_800_000_000.0
SECOND_NS = 10**9
KEPT = Retention(fine_s=3600, minutes_s=86400, hours_s=30 * 86400, size_bytes=1e9)
MEASURED: dict[str, Any] = {
    "power_w": 2.0,
    "energy_j": 2.0,
    "power_covered_s": 1.0,
    "power_source": "ina219",
    "power_scope": "board",
    "power_is_estimate": False,
}


def second(index: int, age_s: float, **changes: Any) -> IntervalRecord:
    """A row whose run began at 0 of the monotonic clock; ``age_s`` is that of second 0."""
    values = {"wall_time_s": NOW_S - age_s + index, "wall_is_synchronised": True, **changes}
    return interval(index * SECOND_NS, **values)


def fill(path: Path, *runs: Sequence[Row]) -> None:
    with TelemetryStore(path, wall_time_s=lambda: None) as store:
        for number, records in enumerate(runs):
            store.write(msgspec.structs.replace(run_record(), run_id=f"run-{number}"))
            for record in records:
                store.write(record)
            store.flush()


def thin(path: Path, kept: Retention = KEPT, now_s: float | None = NOW_S) -> None:
    connection = sqlite3.connect(path)
    try:
        thin_out(connection, kept, now_s)
    finally:
        connection.close()


def rows(path: Path, query: str = "SELECT * FROM interval ORDER BY run_id, timestamp_ns") -> list[dict[str, Any]]:
    return read_rows(path, query)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


def test_young_rows_stay_as_they_are(path: Path) -> None:
    fill(path, [second(index, age_s=3000) for index in range(600)])
    before = rows(path)
    thin(path)
    assert rows(path) == before


def test_old_seconds_become_minutes_and_older_minutes_hours(path: Path) -> None:
    fill(path, [second(index, age_s=7200, **MEASURED) for index in range(600)])
    thin(path)
    minutes = rows(path)
    assert len(minutes) == 10
    assert all(row["duration_s"] == 60.0 and row["frames"] == 6000 and row["fps"] == 100.0 for row in minutes[:-1])
    assert minutes[0]["energy_j"] == pytest.approx(120.0)
    assert minutes[0]["power_w"] == pytest.approx(2.0)
    assert minutes[0]["timestamp_ns"] == 59 * SECOND_NS
    thin(path, KEPT, NOW_S + 86400)
    assert [row["frames"] for row in rows(path)] == [60000]


def test_merging_again_changes_nothing(path: Path) -> None:
    fill(path, [second(index, age_s=7200, **MEASURED) for index in range(1000)])
    thin(path)
    once = rows(path)
    thin(path)
    assert rows(path) == once


def test_measured_estimated_and_missing_power_are_never_merged(path: Path) -> None:
    estimated = {**MEASURED, "power_source": "estimate", "power_is_estimate": True, "power_w": 4.0, "energy_j": 4.0}
    kinds: list[dict[str, Any]] = [MEASURED, estimated, {}]
    fill(path, [second(index, age_s=7200, **kinds[index % 3]) for index in range(60)])
    thin(path)
    found = {(row["power_source"], row["power_w"], row["energy_j"], row["duration_s"]) for row in rows(path)}
    assert found == {("ina219", 2.0, 40.0, 20.0), ("estimate", 4.0, 80.0, 20.0), (None, None, None, 20.0)}


def test_latency_is_weighted_or_the_largest(path: Path) -> None:
    one = second(1, age_s=7200, frames=10, latency_s=Percentiles(0.010, 0.020, 0.030))
    other = second(2, age_s=7200, frames=30, latency_s=Percentiles(0.030, 0.040, 0.050))
    empty = second(3, age_s=7200, frames=0, fps=0.0, latency_s=None, capture_s=None)
    fill(path, [one, other, empty, second(3000, age_s=7200)])
    thin(path)
    row = rows(path)[0]
    assert (row["latency_p50_s"], row["latency_p90_s"], row["latency_p99_s"]) == (pytest.approx(0.025), 0.040, 0.050)
    assert row["frames"] == 40
    assert row["fps"] == pytest.approx(40 / 3)


def test_minutes_without_frames_have_no_latency(path: Path) -> None:
    fill(path, [second(index, age_s=7200, frames=0, fps=0.0, latency_s=None, capture_s=None) for index in range(120)])
    thin(path)
    assert [(row["latency_p50_s"], row["capture_s"], row["fps"]) for row in rows(path)] == [(None, None, 0.0)] * 2


def test_throttling_at_any_time_shows(path: Path) -> None:
    flags = ["", "throttled", "under_voltage,throttled", ""]
    fill(path, [second(index, age_s=7200, throttled=flags[index % 4]) for index in range(60)])
    thin(path)
    assert rows(path)[0]["throttled"] == "throttled,under_voltage"


def test_throttling_that_nobody_could_see_stays_unknown(path: Path) -> None:
    fill(path, [second(index, age_s=7200, throttled=None) for index in range(60)])
    thin(path)
    assert rows(path)[0]["throttled"] is None


def test_time_of_unknown_throttling_never_becomes_not_throttled(path: Path) -> None:
    fill(path, [second(index, age_s=7200, throttled="" if index < 10 else None) for index in range(60)])
    thin(path)
    thin(path, KEPT, NOW_S + 86400)
    assert {(row["throttled"], row["duration_s"]) for row in rows(path)} == {("", 10.0), (None, 50.0)}


def test_a_mean_weighs_rows_by_their_length(path: Path) -> None:
    # An older store's: nobody noted what the meter covered.
    old = {**MEASURED, "energy_j": None, "power_covered_s": None}
    short = second(1, age_s=7200, duration_s=1.0, frequency_hz=600e6, **old | {"power_w": 8.0})
    long = second(10, age_s=7200, duration_s=9.0, frequency_hz=1600e6, **old | {"power_w": 2.0})
    blind = second(12, age_s=7200, duration_s=2.0, **old)
    sources: list[Row] = [
        SourceIntervalRecord(1 * SECOND_NS, "v4l2:0", 10, 0, 0, 10.0, None, None, False),
        SourceIntervalRecord(10 * SECOND_NS, "v4l2:0", 0, 0, 0, 0.0, None, None, True),
        SourceIntervalRecord(12 * SECOND_NS, "v4l2:0", 2, 0, 0, 1.0, None, None, True),
    ]
    fill(path, [short, long, blind, *sources, second(3000, age_s=7200)])
    thin(path)
    row = rows(path)[0]
    assert row["frequency_hz"] == pytest.approx(1500e6)
    assert row["power_w"] == pytest.approx((8.0 * 1 + 2.0 * 9 + 2.0 * 2) / 12)
    # Twelve frames in twelve seconds.
    assert [one["fps"] for one in rows(path, "SELECT fps FROM source_interval ORDER BY timestamp_ns")] == [1.0]


def test_sources_are_merged_apart(path: Path) -> None:
    records: list[Row] = []
    for index in range(120):
        records.append(second(index, age_s=7200))
        for source, frames in (("v4l2:0", 60), ("rtsp://yard/", 40)):
            records.append(
                SourceIntervalRecord(index * SECOND_NS, source, frames, 1, 0, float(frames), None, None, index == 70)
            )
    fill(path, records)
    thin(path)
    found = rows(path, "SELECT source, frames, dropped, is_interrupted FROM source_interval ORDER BY source, timestamp_ns")
    assert [tuple(row.values()) for row in found] == [
        ("rtsp://yard/", 2400, 60, 0),
        ("rtsp://yard/", 2400, 60, 1),
        ("v4l2:0", 3600, 60, 0),
        ("v4l2:0", 3600, 60, 1),
    ]


def test_what_is_too_old_goes_with_its_run(path: Path) -> None:
    gone = InterruptionRecord("v4l2:0", "ended", "gone", SECOND_NS, 3.0, 1, True, wall_time_s=NOW_S - 40 * 86400)
    old = [second(index, age_s=40 * 86400) for index in range(100)]
    fill(path, [*old, gone], [second(index, age_s=100) for index in range(50)])
    thin(path)
    assert {row["run_id"] for row in rows(path)} == {"run-1"}
    assert [row["run_id"] for row in rows(path, "SELECT run_id FROM run")] == ["run-1"]
    assert rows(path, "SELECT * FROM interruption") == []


@pytest.mark.parametrize("now_s", [None, NOW_S])
def test_without_a_clock_that_can_be_trusted_nothing_is_old(path: Path, now_s: float | None) -> None:
    is_known = now_s is None
    fill(path, [second(index, age_s=400 * 86400, wall_is_synchronised=is_known) for index in range(300)])
    thin(path, now_s=now_s)
    assert len(rows(path)) == 300


def test_a_clock_that_was_set_late_dates_the_whole_run(path: Path) -> None:
    # Half the run thought that it was 1970.
    early = [second(index, age_s=NOW_S, wall_is_synchronised=False) for index in range(300)]
    fill(path, early + [second(index, age_s=7200) for index in range(300, 600)])
    thin(path)
    assert len(rows(path)) == 10


def test_a_store_that_grows_too_large_loses_its_oldest_rows(path: Path) -> None:
    fill(path, [second(index, age_s=10**5) for index in range(3000)], [second(index, age_s=3500) for index in range(3000)])
    thin(path, KEPT._replace(size_bytes=300_000), now_s=None)
    connection = sqlite3.connect(path)
    assert used_bytes(connection) <= 300_000
    connection.close()
    kept = rows(path)
    assert {row["run_id"] for row in kept} == {"run-1"}
    assert kept[-1]["timestamp_ns"] == 2999 * SECOND_NS
    assert len(kept) > 300


def test_runs_that_ended_before_their_first_interval_do_not_pile_up(path: Path) -> None:
    gone = InterruptionRecord("v4l2:0", "ended", "gone" * 100, SECOND_NS, 3.0, 1, True, wall_time_s=NOW_S)
    fill(path, *[[gone]] * 300, [second(index, age_s=100) for index in range(50)])
    thin(path, KEPT._replace(size_bytes=100_000))
    connection = sqlite3.connect(path)
    assert used_bytes(connection) <= 100_000
    connection.close()
    assert len(rows(path)) == 50


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 400))
def test_counts_and_energy_are_kept_whatever_is_merged(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("store") / "t.sqlite"
    records = []
    at = 0
    for _ in range(count):
        at += chance.randint(1, 40)
        changes = MEASURED if chance.random() < 0.7 else {}
        records.append(
            second(
                at, 2e5, frames=chance.randint(0, 99), dropped=chance.randint(0, 9), duration_s=chance.random() + 0.1, **changes
            )
        )
    fill(path, records)
    query = "SELECT sum(frames), sum(dropped), sum(energy_j), sum(duration_s), sum(power_w * power_covered_s) FROM interval"
    (before,) = rows(path, query)
    thin(path)
    (after,) = rows(path, query)
    assert list(after.values()) == [value if value is None else pytest.approx(value) for value in before.values()]
    assert len(rows(path)) <= len(records)


def test_the_store_thins_itself_out(path: Path) -> None:
    fill(path, [second(index, age_s=3 * 86400) for index in range(300)])
    with TelemetryStore(path, settings=Telemetry(fine_kept_h=24.0), wall_time_s=lambda: NOW_S) as store:
        store.write(msgspec.structs.replace(run_record(), run_id="new"))
        store.write(second(0, age_s=0))
        store.flush()
    assert len(rows(path)) == 5 + 1


def damage_header(data: bytearray) -> None:
    data[:32] = bytes(32)


def damage_middle(data: bytearray) -> None:
    data[4096 : len(data) - 4096] = bytes(len(data) - 8192)


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize("harm", [damage_header, damage_middle, cut])
def test_a_damaged_store_is_set_aside_and_another_begun(path: Path, harm: Callable[[bytearray], None]) -> None:
    fill(path, [second(index, age_s=100) for index in range(2000)])
    data = bytearray(path.read_bytes())
    harm(data)
    path.write_bytes(data)
    troubles: list[str] = []
    with TelemetryStore(path, report=troubles.append) as store:
        store.write(run_record())
        store.write(interval(1))
        store.flush()
    assert len(rows(path)) == 1
    assert path.with_name("telemetry.damaged-1.sqlite").read_bytes() == bytes(data)
    (trouble,) = troubles
    assert "set aside as telemetry.damaged-1.sqlite" in trouble
    assert "\n" not in trouble


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**9), bytes_hit=st.integers(1, 200))
def test_bytes_damaged_anywhere_never_stop_the_daemon(
    tmp_path_factory: pytest.TempPathFactory, seed: int, bytes_hit: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    path = folder / "t.sqlite"
    fill(path, [second(index, age_s=100) for index in range(200)])
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(bytes_hit):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)
    with TelemetryStore(path) as store:
        store.write(msgspec.structs.replace(run_record(), run_id="new"))
        for attempt in range(3):
            store.write(interval(attempt + 1))
            try:
                store.flush()
            except SinkError as error:
                assert "\n" not in str(error)  # noqa: PT017  # most damage is found, some is harmless
    found = rows(path, "SELECT count(*) AS n FROM interval WHERE run_id = 'new'")
    # A flipped schema number is somebody else's store, which is left alone.
    assert found[0]["n"] == 3 or data[60:64] != bytearray((0, 0, 0, 3))


def written_bytes() -> int:
    """What this process has written to files so far, by the kernel's count."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def test_a_day_of_rows_writes_no_more_than_is_promised(path: Path) -> None:
    # README promises 150 MB a day at the default settings and one camera: an hour must keep to its share.
    before = written_bytes()
    with TelemetryStore(path, wall_time_s=lambda: None) as store:
        store.write(run_record())
        for index in range(3600):
            latency = Percentiles(index / 7e5, index / 6e5, index / 5e5)
            store.write(second(index, age_s=0, latency_s=latency, **MEASURED))
            store.write(SourceIntervalRecord(index * SECOND_NS, "picamera2:0", 30, 0, 0, 30.0, latency, 0.01, False))
            if index % 60 == 59:
                store.flush()
    assert written_bytes() - before < 150e6 / 24
