"""The daemon with a sensor that goes and comes back: a captured tree stands for ``/sys``, through a meter from outside."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from device.contract import Power, Telemetry
from tests.daemon.conftest import PROJECT, command
from tests.daemon.meters import install_package
from tests.unit.bundles import make_profile, write_tiny_bundle

TREE = PROJECT / "tests/fixtures/sysfs/rpi4-ina219"

# The meter of the product; only where it looks is the test's.
METER = """
from pathlib import Path
from device.meters.ina2xx import Ina2xxMeter

class TreeMeter(Ina2xxMeter):
    @classmethod
    def open(cls, options, context):
        return cls(options, context._replace(root=Path({root!r})))
"""


class Gap(NamedTuple):
    """What a run left behind."""

    code: int
    err: str
    summary: dict[str, Any]
    rows: list[tuple[Any, ...]]
    meter: dict[str, Any]


def wait_for_lines(daemon: subprocess.Popen[str], path: Path, more: int) -> None:
    """Waits until the daemon has given so many more results."""
    count = path.read_bytes().count(b"\n") if path.exists() else 0
    deadline_s = time.monotonic() + 60.0
    while not path.exists() or path.read_bytes().count(b"\n") < count + more:
        assert daemon.poll() is None, daemon.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    """2 W, then no sensor, then 5 W at a node of another number."""
    folder = tmp_path_factory.mktemp("gap")
    root = Path(shutil.copytree(TREE, folder / "root"))
    hwmon = root / "sys/class/hwmon"
    power = Power(meters=({"kind": "tree", "shunt_ohm": 0.1},), sample_rate_hz=50.0)
    profile = msgspec.structs.replace(make_profile(), power=power, telemetry=Telemetry(interval_s=0.2))
    write_tiny_bundle(folder / "host", profile)
    (hwmon / "hwmon2/power1_input").write_text("2000000\n")
    predictions, telemetry = folder / "predictions.jsonl", folder / "telemetry.sqlite"
    flags = ["--bundle", folder / "host", "--source", "synthetic:64x64@50", "--json"]
    flags += ["--predictions", predictions, "--telemetry", telemetry]
    environment = install_package(folder / "site", METER.format(root=str(root)), tree="TreeMeter")
    with subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=environment
    ) as daemon:
        try:
            wait_for_lines(daemon, predictions, 40)
            away = (hwmon / "hwmon2").rename(root / "unbound")
            wait_for_lines(daemon, predictions, 60)
            (away / "power1_input").write_text("5000000\n")
            away.rename(hwmon / "hwmon7")
            wait_for_lines(daemon, predictions, 60)
            daemon.send_signal(signal.SIGTERM)
            out, err = daemon.communicate(timeout=60)
        finally:
            daemon.kill()
    with closing(sqlite3.connect(telemetry)) as connection:
        rows = connection.execute(
            "SELECT power_w, energy_j, power_covered_s, power_source, duration_s FROM interval ORDER BY timestamp_ns"
        ).fetchall()
        connection.row_factory = sqlite3.Row
        (meter,) = (dict(row) for row in connection.execute("SELECT * FROM meter"))
    return Gap(daemon.returncode, err, json.loads(out), rows, meter)


def test_daemon_goes_on_and_the_gap_has_no_figure(gap: Gap) -> None:
    assert gap.code == 0, gap.err
    watts = [None if row[0] is None else round(row[0], 6) for row in gap.rows]
    # Nothing in between either: no zero, no old value, no line drawn over the gap.
    assert [power_w for power_w, _ in groupby(watts)] == [2.0, None, 5.0]
    empty = [row for row in gap.rows if row[0] is None]
    assert len(empty) >= 3
    assert all(row[:4] == (None,) * 4 for row in empty)


def test_energy_is_that_of_the_time_that_was_covered(gap: Gap) -> None:
    covered = [row for row in gap.rows if row[0] is not None]
    assert all(row[1] == pytest.approx(row[0] * row[2]) for row in covered)
    energy_j, covered_s = sum(row[1] for row in covered), sum(row[2] for row in covered)
    assert covered_s < sum(row[4] for row in gap.rows)
    assert gap.summary["power"]["w"] == pytest.approx(energy_j / covered_s)
    assert gap.summary["power"]["covered_s"] == pytest.approx(covered_s)


def test_record_says_why_how_finely_and_how_often(gap: Gap) -> None:
    (told,) = gap.summary["power_meters"]
    for meter in (gap.meter, told):
        assert meter["source"] == "ina219 (hwmon)"
        assert meter["resolution_w"] == pytest.approx(0.002)
        assert 0 < meter["sample_rate_hz"] < 51
        assert meter["failed"] >= 3
        assert "none of ina219" in meter["error"]
