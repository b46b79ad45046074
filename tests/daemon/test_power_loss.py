"""The store under ``kill -9`` and on disks that fail. ``GHOSTWATT_KILLS=200`` makes the first test a long one."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device.contract import Telemetry
from tests.unit.bundles import copy_bundle

from .conftest import PROJECT, command, daemon, environment

KILLS = int(os.environ.get("GHOSTWATT_KILLS", "12"))

WRITER = """
import sys, time
from pathlib import Path
from msgspec import structs
from device.sinks.telemetry import TelemetryStore
from tests.unit.records import interval, run_record

store = TelemetryStore(Path(sys.argv[1]), report=lambda line: print("trouble", line, flush=True))
store.write(structs.replace(run_record(), run_id=sys.argv[2]))
for index in range(1, 10**6):
    store.write(interval(index))
    if index % 7 == 0:
        store.flush()
        print(index, flush=True)
"""


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def kill_at_random(path: Path, run_id: str, chance: random.Random) -> int:
    """Lets the writer write for a while, kills it, and returns the last row that it said was flushed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), run_id], stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment()
    )
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(chance.random() * 0.2)
    writer.kill()
    said = [first, *writer.stdout.read().splitlines()]
    writer.wait()
    assert not [line for line in said if line.startswith("trouble")], said
    # A last line may be torn by the kill; the one before it is whole.
    whole = [int(line) for line in said if line.strip().isdigit()]
    return whole[-2] if len(whole) > 1 else whole[-1]


def test_kill_9_at_any_moment_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    chance = random.Random(20)
    flushed = {f"run-{number}": kill_at_random(path, f"run-{number}", chance) for number in range(KILLS)}
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    for run_id, count in flushed.items():
        ((found,),) = rows(path, f"SELECT count(*) FROM interval WHERE run_id = '{run_id}'")
        assert isinstance(found, int)
        assert found >= count
        assert found % 7 == 0


@pytest.fixture
def eager_bundle(bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle, whose telemetry is written at once."""
    return copy_bundle(bundle, tmp_path / "bundle", telemetry=Telemetry(interval_s=0.1, flush_interval_s=0.2))


def test_the_daemon_runs_while_its_disk_is_full(eager_bundle: Path, tmp_path: Path) -> None:
    telemetry = tmp_path / "telemetry.sqlite"
    limited = f'ulimit -f 8; exec {" ".join(command("--bundle", eager_bundle))} "$@"'
    flags = ("--source", "synthetic:64x48@50", "--duration", "2", "--telemetry", str(telemetry), "--json", "--threads", "1")
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; {limited}", "bash", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=PROJECT,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("can't be written") == 1
    assert "rows wait in memory" in done.stderr


READ_ONLY = """
set -e
mount -t tmpfs tmpfs "$1"
python=$2; bundle=$3; state=$1; shift 3
"$python" -m device.bundle --store "$state" install "$bundle" >&2
mount -o remount,ro "$state"
exec "$python" -m device.run --store "$state" --telemetry "$state/telemetry.sqlite" "$@"
"""


def test_the_daemon_runs_on_a_disk_that_went_read_only(eager_bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    alone = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own: unshare --map-root-user --mount")
    flags = ("--source", "synthetic:64x48@50", "--duration", "2", "--json", "--threads", "1")
    done = subprocess.run(
        [*alone, "sh", "-c", READ_ONLY, "sh", state, sys.executable, eager_bundle, *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=PROJECT,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] > 0
    assert done.stderr.count("can't be written") == 1
    assert "the run continues" in done.stderr


def test_the_daemon_runs_with_a_damaged_store(eager_bundle: Path, tmp_path: Path) -> None:
    telemetry = tmp_path / "telemetry.sqlite"
    flags = ("--bundle", eager_bundle, "--source", "synthetic:64x48@50", "--duration", "1", "--threads", "1", "--json")
    assert daemon(*flags, "--telemetry", telemetry).code == 0
    data = bytearray(telemetry.read_bytes())
    data[4096:12288] = random.Random(1).randbytes(8192)
    telemetry.write_bytes(data)
    run = daemon(*flags, "--telemetry", telemetry)
    assert run.code == 0
    assert "set aside as telemetry.damaged-1.sqlite" in run.err
    assert rows(telemetry, "SELECT count(*) FROM run") == [(1,)]
    assert telemetry.with_name("telemetry.damaged-1.sqlite").read_bytes() == bytes(data)


def wait_for_runs(telemetry: Path, count: int) -> None:
    """Waits until the store holds so many runs."""

    def found() -> int:
        try:
            ((runs,),) = rows(telemetry, "SELECT count(*) FROM run") if telemetry.exists() else [(0,)]
        except sqlite3.OperationalError:
            return 0
        return int(str(runs))

    deadline_s = time.monotonic() + 120.0
    while found() < count:
        assert time.monotonic() < deadline_s, f"no run {count}"
        time.sleep(0.05)


def test_kill_9_of_the_daemon_leaves_a_store_that_the_next_one_goes_on_with(eager_bundle: Path, tmp_path: Path) -> None:
    telemetry = tmp_path / "telemetry.sqlite"
    flags = ("--bundle", eager_bundle, "--source", "synthetic:64x48@50", "--telemetry", telemetry, "--threads", "1")
    chance = random.Random(3)
    for number in range(1, 4):
        process = subprocess.Popen(command(*flags), stderr=subprocess.DEVNULL, cwd=PROJECT, env=environment())
        wait_for_runs(telemetry, number)
        time.sleep(1.0 + chance.random())
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert rows(telemetry, "PRAGMA integrity_check") == [("ok",)]
    assert rows(telemetry, "SELECT count(*) FROM run") == [(3,)]
