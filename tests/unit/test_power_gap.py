"""A sensor that goes and comes back in the middle of a run, from the files of its node to the rows of the store."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from device.core.clock import ManualClock
from device.daemon.instruments import Instruments
from device.daemon.recorder import Recorder
from device.daemon.stream import EventStream
from device.machine.memory import Memory
from device.meters.ina2xx import Ina2xxMeter, Ina2xxOptions
from device.meters.meter import MeterContext
from device.meters.sampler import PowerSampler
from device.protocols import RunSummary, SourceSpec, ThermalSample, Tick
from device.sinks.telemetry import TelemetryStore
from tests.unit.fakes import FixedThermals
from tests.unit.records import frame, run_record

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "rpi4-ina219"
SOURCE = SourceSpec(uri="images:x", is_live=False)


class MeteredRun:
    """A run with a sensor in a tree, a frame and a sample every tenth of a second, a row a second."""

    def __init__(self, root: Path, store: TelemetryStore) -> None:
        self.node = root / "sys/class/hwmon/hwmon2"
        self.clock = ManualClock(start_ns=7_000_000_000, wall_time_s=1e9)
        meter = Ina2xxMeter.open(Ina2xxOptions(shunt_ohm=0.1), MeterContext(root, self.clock))
        self.sampler = PowerSampler([meter], 10.0, self.clock)
        stream = EventStream()
        stream.add(store)
        self.recorder = Recorder(
            run_record(),
            (SOURCE,),
            Instruments(self.sampler, (), FixedThermals(ThermalSample(50.0, 1.5e9, ())), lambda: Memory(1, 1)),
            SimpleQueue(),
            clock=self.clock,
            interval_s=1.0,
            emit=stream.emit,
        )
        store.write(run_record())
        self.sampler.sample()

    def go_on(self, duration_s: int, power_w: float | None) -> None:
        """Some seconds at one power; None where there is no node to write it to."""
        if power_w is not None:
            (self.node / "power1_input").write_text(f"{round(power_w * 1e6)}\n")
        for _ in range(10 * duration_s):
            self.clock.advance(0.1)
            self.sampler.sample()
            self.recorder.write(frame(0))
            self.recorder.write(Tick({}))

    def unbind(self) -> None:
        self.node = self.node.rename(self.node.parents[3] / "unbound")

    def bind(self, name: str) -> None:
        self.node = self.node.rename(self.node.parent / "sys/class/hwmon" / name)


def read(path: Path, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


@pytest.fixture
def summary(tmp_path: Path, path: Path) -> Iterator[RunSummary]:
    """Three seconds at 2 W, three without the sensor, three at 5 W under another number."""
    root = Path(shutil.copytree(TREE, tmp_path / "root"))
    with TelemetryStore(path, wall_time_s=lambda: None) as store:
        run = MeteredRun(root, store)
        run.go_on(3, 2.0)
        run.unbind()
        run.go_on(3, None)
        run.bind("hwmon7")
        run.go_on(3, 5.0)
        summary = run.recorder.finish()
        store.flush()
        yield summary


def test_rows_of_the_gap_have_no_power_and_those_around_it_have_their_own(summary: RunSummary, path: Path) -> None:
    rows = read(
        path, "SELECT power_w, energy_j, power_covered_s, power_source, power_is_estimate FROM interval ORDER BY timestamp_ns"
    )
    assert [row["power_w"] for row in rows[1:3]] == [pytest.approx(2.0)] * 2
    assert [tuple(row.values()) for row in rows[3:6]] == [(None,) * 5] * 3
    assert [row["power_w"] for row in rows[6:]] == [pytest.approx(5.0)] * 3
    assert {row["power_source"] for row in rows} == {"ina219 (hwmon)", None}
    # The first sample after the gap has nothing before it: a tenth of a second has no figure either.
    assert [row["power_covered_s"] for row in rows] == [pytest.approx(1.0)] * 3 + [None] * 3 + [pytest.approx(0.9)] + [
        pytest.approx(1.0)
    ] * 2


def test_the_energy_is_that_of_the_time_that_was_covered(summary: RunSummary, path: Path) -> None:
    (row,) = read(path, "SELECT sum(energy_j) AS energy_j, sum(power_covered_s) AS covered_s FROM interval")
    # The tree's own 3.24 W stood there at the first sample: the first tenth of a second lies between it and 2 W.
    expected_j = 0.1 * (3.24 + 2.0) / 2 + 2.9 * 2.0 + 2.9 * 5.0
    assert row["covered_s"] == pytest.approx(5.9)
    assert row["energy_j"] == pytest.approx(expected_j)
    assert summary.power is not None
    assert summary.power.w == pytest.approx(expected_j / 5.9)
    assert summary.power.covered_s == pytest.approx(5.9)


def test_the_meters_row_says_how_fine_how_often_and_what_failed(summary: RunSummary, path: Path) -> None:
    (row,) = read(path, "SELECT * FROM meter")
    assert (row["source"], row["scope"], row["is_estimate"]) == ("ina219 (hwmon)", "board", 0)
    assert row["resolution_w"] == pytest.approx(2e-3)
    assert row["sample_rate_hz"] == pytest.approx(10.0)
    assert row["covered_s"] == pytest.approx(5.9)
    assert (row["samples"], row["failed"]) == (61, 30)
    assert "none of ina219" in row["error"]
    (meter,) = summary.power_meters
    assert (meter.resolution_w, meter.sample_rate_hz) == (row["resolution_w"], row["sample_rate_hz"])
