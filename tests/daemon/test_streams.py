"""The daemon on real camera servers that are started, killed, frozen and thawed under it.

``GHOSTWATT_CYCLES`` says how often (3 unless it is set); with ``-s``, a table of what was measured is printed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sqlite3
import statistics
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from device.contract import Camera
from device.contract.profile import Backoff, Telemetry
from tests.daemon.conftest import PROJECT, command, environment
from tests.daemon.servers import PASSWORD, RATE_FPS, USER, Clip, Server, make_clip, mjpeg_server, rtsp_server
from tests.unit.bundles import copy_bundle

CYCLES = int(os.environ.get("GHOSTWATT_CYCLES", "3"))
STALL_TIMEOUT_S = 1.0
BACKOFF = Backoff(first_s=0.1, max_s=1.0)

# Of waits that end as soon as what is waited for is there.
LIMIT_S = 90.0

MAKERS: dict[str, Callable[[Clip, Path], Server]] = {"mjpeg": mjpeg_server, "rtsp": rtsp_server}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=MAKERS)
def server(request: pytest.FixtureRequest, clip: Clip, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = MAKERS[request.param](clip, folder)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def impatient(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, with a profile that notices a stall within a second."""
    camera = Camera(uri="synthetic:64x48@10", stall_timeout_s=STALL_TIMEOUT_S, backoff=BACKOFF)
    root = tmp_path_factory.mktemp("impatient") / "host"
    return copy_bundle(bundle, root, camera=camera, telemetry=Telemetry(flush_interval_s=1.0))


class Held(NamedTuple):
    """What the daemon's process holds."""

    threads: int
    descriptors: int
    rss_bytes: int


class Daemon:
    """A daemon that runs while something is done to its camera."""

    def __init__(self, bundle: Path, uri: str, folder: Path, predictions: Path | None = None) -> None:
        self.folder = folder
        self.predictions = predictions or folder / "predictions.jsonl"
        self.telemetry = folder / "telemetry.sqlite"
        self._out, self._err = folder / "out", folder / "err"
        arguments = command(
            "--bundle", bundle, "--source", uri, "--telemetry", self.telemetry, "--predictions", self.predictions, "--json"
        )
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(arguments, stdout=out, stderr=err, cwd=PROJECT, env=environment())

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not holds():
            assert self.process.poll() is None, f"the daemon ended, waiting for {what}: {self.err}"
            assert time.monotonic() < deadline_s, f"no {what} within {LIMIT_S:g} s: {self.err}"
            time.sleep(0.05)

    def wait_for_frames_after(self, moment_ns: int) -> int:
        """Waits for a frame that came after a moment; gives when it came."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [stamp_ns for stamp_ns in self.newest_stamps_ns() if stamp_ns > moment_ns]
            return bool(found)

        self.wait_until(look, "frames")
        return found[0]

    def newest_stamps_ns(self) -> list[int]:
        """Times of the newest predictions that are whole in the file."""
        if not self.predictions.exists():
            return []
        with self.predictions.open("rb") as file:
            file.seek(max(0, self.predictions.stat().st_size - 100_000))
            lines = file.read().split(b"\n")[1:-1]
        return [json.loads(line)["timestamp_ns"] for line in lines]

    def held(self) -> Held:
        proc = Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        rss_kb = int(status["VmRSS"].split()[0])
        return Held(len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir())), rss_kb * 1024)

    def stop(self) -> dict[str, Any]:
        """Ends it as a service manager does; gives its summary."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT_S) == 0, self.err
        found: dict[str, Any] = json.loads(self._out.read_text())
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def rows(self, query: str) -> list[dict[str, Any]]:
        # Whoever closes the store last removes its log, so an open connection would leave that to the garbage collector.
        with closing(sqlite3.connect(self.telemetry)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]


@pytest.fixture
def start_daemon(impatient: Path, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    daemons: list[Daemon] = []

    def start(uri: str, predictions: Path | None = None) -> Daemon:
        daemons.append(Daemon(impatient, uri, tmp_path, predictions))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.kill()


class Outage(NamedTuple):
    """A time without a camera, as this test made it.

    Attributes:
        kind: what was done.
        began_ns: before it was done.
        ended_ns: before it was undone.
        ready_ns: when the server listened again, or went on.
        recovered_ns: when the next frame came.
    """

    kind: str
    began_ns: int
    ended_ns: int
    ready_ns: int
    recovered_ns: int


def make_outage(kind: str, server: Server, daemon: Daemon, hold_s: float) -> Outage:
    """Takes the camera away, and gives it back once the daemon has said so.

    ``kill``: it loses its supply. ``freeze``: it hangs, and goes on. ``freeze, kill``: it hangs until its plug is pulled.
    """
    told = daemon.err.count("warning: ")
    began_ns = time.monotonic_ns()
    if kind == "kill":
        server.kill()
    else:
        server.freeze()
    daemon.wait_until(lambda: daemon.err.count("warning: ") > told, f"word of the {kind}")
    time.sleep(hold_s)
    ended_ns = time.monotonic_ns()
    if kind == "freeze":
        server.thaw()
    else:
        server.kill()
        server.start()
    ready_ns = time.monotonic_ns()
    return Outage(kind, began_ns, ended_ns, ready_ns, daemon.wait_for_frames_after(ended_ns))


KINDS = ("kill", "freeze", "freeze, kill")

# Short ones, and one that outlasts every timeout of a connection.
HOLDS_S = (0.0, 1.5, 0.3, 0.0, 0.7, 0.0, 4.0, 0.1, 0.0, 0.5, 11.0)


def test_camera_that_goes_and_comes_back(server: Server, start_daemon: Callable[..., Daemon]) -> None:
    server.start()
    daemon = start_daemon(server.uri)
    started_ns = daemon.wait_for_frames_after(0)
    told = daemon.err
    outages: list[Outage] = []
    held: list[Held] = []
    for cycle in range(CYCLES):
        for number, kind in enumerate(KINDS):
            outages.append(make_outage(kind, server, daemon, HOLDS_S[(cycle + number) % len(HOLDS_S)]))
        # It is at rest once frames have flowed for a while.
        daemon.wait_for_frames_after(outages[-1].recovered_ns + 10**9)
        held.append(daemon.held())
    summary = daemon.stop()
    # A server that has just been started may let the daemon wait, before anything was done to it.
    rows = daemon.rows(f"SELECT * FROM interruption WHERE started_ns >= {started_ns} ORDER BY started_ns")
    report(server, outages, held, rows, summary)
    check_interruptions(outages, rows, server, daemon.err.removeprefix(told))
    assert summary["interruptions"] == len(daemon.rows("SELECT * FROM interruption"))
    check_nothing_leaks(held)
    check_nothing_secret_is_shown(daemon, server)


def check_interruptions(outages: list[Outage], rows: list[dict[str, Any]], server: Server, err: str) -> None:
    """Each outage stands in the telemetry and on stderr once, from the last frame before it to the first behind it."""
    assert len(rows) == len(outages)
    for outage, row in zip(outages, rows, strict=True):
        ended_ns = row["started_ns"] + row["duration_s"] * 1e9
        # A frame that was on its way may still have come.
        assert row["started_ns"] <= outage.began_ns + STALL_TIMEOUT_S * 1e9
        assert outage.ended_ns <= ended_ns <= outage.recovered_ns + 1000
        assert row["reason"] == ("ended" if outage.kind == "kill" else "stalled")
        assert (row["source"], row["is_over"]) == (server.safe_uri, 1)
        assert row["attempts"] >= 1
        assert f"note: {server.safe_uri}: well again after {row['duration_s']:.1f} s ({row['reason']}, " in err
    assert err.count(f"warning: {server.safe_uri}: ended; ") == sum(row["reason"] == "ended" for row in rows)
    assert err.count(f"warning: {server.safe_uri}: stalled; ") == sum(row["reason"] == "stalled" for row in rows)
    assert err.count(f"note: {server.safe_uri}: well again after ") == len(rows)


def check_nothing_leaks(held: list[Held]) -> None:
    """What the last third of the cycles holds is what the first left, within what an interpreter's heap moves by itself."""
    first, late = held[0], held[-max(1, len(held) // 3) :]
    assert statistics.median(one.threads for one in late) <= first.threads + 1
    assert statistics.median(one.descriptors for one in late) <= first.descriptors + 2
    assert statistics.median(one.rss_bytes for one in late) <= first.rss_bytes + 8e6


def check_nothing_secret_is_shown(daemon: Daemon, server: Server) -> None:
    """Neither user nor password is anywhere in what the daemon wrote."""
    files = [path for path in daemon.folder.iterdir() if path.is_file()]
    assert {"out", "err", "telemetry.sqlite", "predictions.jsonl"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert PASSWORD.encode() not in content, path
        assert f"{USER}:".encode() not in content, path
    assert server.safe_uri in (daemon.folder / "out").read_text()


def report(
    server: Server, outages: list[Outage], held: list[Held], rows: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    """Prints what was measured."""
    print(
        f"\n{server.safe_uri}: {CYCLES} cycles, {len(outages)} outages, {len(rows)} interruptions, {summary['frames']} frames"
    )
    print(f"latency {summary['latency_s']}, dropped {summary['dropped']}, bad frames {summary['bad_frames']}")
    for kind in KINDS:
        recovery_s = sorted((one.recovered_ns - one.ready_ns) / 1e9 for one in outages if one.kind == kind)
        down_s = sorted((one.ended_ns - one.began_ns) / 1e9 for one in outages if one.kind == kind)
        print(
            f"{kind:13} {len(recovery_s)} times, down {down_s[0]:.1f} to {down_s[-1]:.1f} s; from ready to the next frame: "
            f"median {statistics.median(recovery_s):.2f} s, most {recovery_s[-1]:.2f} s"
        )
    for name, one in (("first cycle", held[0]), ("last cycle", held[-1])):
        print(f"after the {name}: {one.threads} threads, {one.descriptors} descriptors, {one.rss_bytes / 1e6:.1f} MB")
    print("most at any cycle:", Held(*(max(values) for values in zip(*held, strict=True))))
    print("MB after each tenth:", [round(one.rss_bytes / 1e6, 1) for one in held[:: max(1, len(held) // 10)]])


YOUNG_FRAMES = 10 * RATE_FPS


def test_latency_stays_under_two_frames_while_a_sink_blocks(
    server: Server, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The age of a frame when its result is out, by the telemetry, while nobody takes the predictions."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    server.start()
    # Opened for both, so that the daemon finds a reader; this one never reads.
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        # What is written at once and fits into a page is not divided: a pipe may be full with less than a page left.
        least_bytes = fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 2 * select.PIPE_BUF) - select.PIPE_BUF
        daemon = start_daemon(server.uri, pipe)
        daemon.wait_until(lambda: waiting_bytes(reader) > least_bytes, "full pipe")
        daemon.wait_until(lambda: frames_since(daemon, 0) >= 10 * RATE_FPS, "frames")
        blocked_ns, blocked_bytes = time.monotonic_ns(), waiting_bytes(reader)
        daemon.wait_until(lambda: frames_since(daemon, blocked_ns) >= 10 * RATE_FPS, "frames behind a sink that blocks")
        # Frames that queue up would never be young again; a machine that is busy for a while only delays this.
        daemon.wait_until(lambda: worst_latency_s(daemon, blocked_ns) < 2 / RATE_FPS, "seconds of young frames")
        assert waiting_bytes(reader) == blocked_bytes
    finally:
        os.close(reader)
    print(f"\n{server.safe_uri}: latency p99 {worst_latency_s(daemon, blocked_ns):.4f} s")
    summary = daemon.stop()
    # Frames were taken at the camera's rate, but for what the machine had no time for.
    assert summary["fps"] > RATE_FPS / 2


def worst_latency_s(daemon: Daemon, since_ns: int) -> float:
    """The p99 of the latest `YOUNG_FRAMES` frames or more."""
    rows = daemon.rows(
        f"SELECT * FROM source_interval WHERE timestamp_ns > {since_ns} AND frames > 0 ORDER BY timestamp_ns DESC"
    )
    frames, worst_s = 0, 0.0
    for row in rows:
        frames, worst_s = frames + row["frames"], max(worst_s, float(row["latency_p99_s"]))
        if frames >= YOUNG_FRAMES:
            return worst_s
    return float("inf")


def waiting_bytes(descriptor: int) -> int:
    count = bytearray(4)
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return int.from_bytes(count, "little")


def frames_since(daemon: Daemon, moment_ns: int) -> int:
    rows = daemon.rows(f"SELECT sum(frames) AS frames FROM source_interval WHERE timestamp_ns > {moment_ns}")
    return int(rows[0]["frames"] or 0)
