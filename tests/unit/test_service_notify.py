from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.contract import Backoff, Board, Camera, Model, Profile, RateLimits, RuntimeSettings
from device.core.clock import ManualClock
from device.daemon.heartbeat import FrameTimeouts, Heartbeat, timeouts_of
from device.daemon.notify import Notifier, read_watchdog_s
from device.protocols import InterruptionRecord

WATCHDOG_S = 20.0
TIMEOUTS = FrameTimeouts(frame_s=5.0, interruption_s=120.0)


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self._lines: list[str] = []

    def listen(self) -> None:
        """Takes what waits: the kernel keeps only a few datagrams."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._lines.append(self._socket.recv(4096).decode())

    def heard(self) -> list[str]:
        """Everything since the last call."""
        self.listen()
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@ghostwatt-test-{tmp_path.name}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    found = Manager(address)
    yield found
    found.close()


def fail(line: str) -> None:
    raise AssertionError(line)


@pytest.fixture
def notifier(address: str, manager: Manager) -> Notifier:
    return Notifier(address, fail)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=10**12)


@pytest.fixture
def heartbeat(notifier: Notifier, clock: ManualClock) -> Heartbeat:
    return Heartbeat(notifier, watchdog_s=WATCHDOG_S, sources=["a:", "b:"], timeouts=TIMEOUTS, clock=clock)


def interruption(source: str, clock: ManualClock, *, reason: str = "stalled", is_over: bool = False) -> InterruptionRecord:
    return InterruptionRecord(source, reason, "", clock.now_ns(), 1.0 if is_over else None, 0, is_over, wall_time_s=0.0)


def tick_for(heartbeat: Heartbeat, clock: ManualClock, duration_s: int, manager: Manager) -> list[str]:
    """Turns the loop once a second; gives what was said meanwhile."""
    manager.heard()
    for _ in range(duration_s):
        clock.advance(1.0)
        heartbeat.on_tick()
        manager.listen()
    return manager.heard()


def test_what_is_said_arrives_as_systemd_reads_it(notifier: Notifier, manager: Manager) -> None:
    notifier.ready()
    notifier.alive()
    notifier.status("12.0 FPS\n| 2.31 W")
    notifier.stopping()
    assert manager.heard() == ["READY=1", "WATCHDOG=1", "STATUS=12.0 FPS | 2.31 W", "STOPPING=1"]


def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path) -> None:
    lines: list[str] = []
    notifier = Notifier(str(tmp_path / "nobody"), lines.append)
    for _ in range(3):
        notifier.alive()
    assert len(lines) == 1
    assert "WATCHDOG" in lines[0]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_period_is_the_managers(variables: dict[str, str], expected: float | None) -> None:
    assert read_watchdog_s(variables, pid=7) == expected


def test_ready_comes_with_the_first_frame_and_no_sign_before_it(
    heartbeat: Heartbeat, manager: Manager, clock: ManualClock
) -> None:
    assert tick_for(heartbeat, clock, 30, manager) == []
    heartbeat.on_frame()
    heartbeat.on_frame()
    assert manager.heard() == ["READY=1", "WATCHDOG=1"]


def test_signs_are_four_in_a_period_however_fast_frames_come(
    heartbeat: Heartbeat, manager: Manager, clock: ManualClock
) -> None:
    for _ in range(30 * 20):
        heartbeat.on_frame()
        clock.advance(1 / 30)
        manager.listen()
    assert manager.heard().count("WATCHDOG=1") in (4, 5)


def test_a_loop_that_turns_without_frames_falls_silent(heartbeat: Heartbeat, manager: Manager, clock: ManualClock) -> None:
    heartbeat.on_frame()
    tick_for(heartbeat, clock, 6, manager)
    assert tick_for(heartbeat, clock, 60, manager) == []


def test_while_every_camera_is_interrupted_the_loop_counts_but_not_for_ever(
    heartbeat: Heartbeat, manager: Manager, clock: ManualClock
) -> None:
    heartbeat.on_frame()
    for source in ("a:", "b:"):
        heartbeat.on_interruption(interruption(source, clock))
    assert len(tick_for(heartbeat, clock, 119, manager)) >= 119 / WATCHDOG_S * 4 - 2
    assert tick_for(heartbeat, clock, 60, manager) == []


def test_one_camera_that_is_away_excuses_nothing(heartbeat: Heartbeat, manager: Manager, clock: ManualClock) -> None:
    heartbeat.on_frame()
    heartbeat.on_interruption(interruption("a:", clock))
    heartbeat.on_interruption(interruption("b:", clock, reason="dark"))
    assert heartbeat.interrupted == ("a:",)
    tick_for(heartbeat, clock, 6, manager)
    assert tick_for(heartbeat, clock, 60, manager) == []


def test_patience_begins_when_the_last_camera_fails(heartbeat: Heartbeat, manager: Manager, clock: ManualClock) -> None:
    heartbeat.on_frame()
    heartbeat.on_interruption(interruption("a:", clock))
    for _ in range(1000):
        clock.advance(1.0)
        heartbeat.on_frame()
        manager.listen()
    heartbeat.on_interruption(interruption("b:", clock))
    assert len(tick_for(heartbeat, clock, 119, manager)) >= 119 / WATCHDOG_S * 4 - 2
    assert tick_for(heartbeat, clock, 60, manager) == []


def test_a_camera_that_is_back_must_give_frames_again(heartbeat: Heartbeat, manager: Manager, clock: ManualClock) -> None:
    heartbeat.on_frame()
    for is_over in (False, True):
        for source in ("a:", "b:"):
            heartbeat.on_interruption(interruption(source, clock, is_over=is_over))
    tick_for(heartbeat, clock, 6, manager)
    assert tick_for(heartbeat, clock, 60, manager) == []


def test_without_a_watchdog_no_sign_is_sent(notifier: Notifier, manager: Manager, clock: ManualClock) -> None:
    heartbeat = Heartbeat(notifier, watchdog_s=None, sources=["a:"], timeouts=TIMEOUTS, clock=clock)
    heartbeat.on_frame()
    assert manager.heard() == ["READY=1"]
    assert tick_for(heartbeat, clock, 10, manager) == []


def profile(limits: RateLimits, give_up_after_s: float | None) -> Profile:
    return Profile(
        name="x",
        description="",
        board=Board(name="x", title="", arch="aarch64", cpu="cortex-a72", cores=4, memory_mb=1024),
        model=Model(name="m", weights="w"),
        runtime=RuntimeSettings(name="litert", threads=1),
        camera=Camera(uri="v4l2:0", stall_timeout_s=5.0, give_up_after_s=give_up_after_s, backoff=Backoff(0.5, 10.0)),
        limits=limits,
    )


def test_patience_is_the_profiles() -> None:
    slow = RateLimits(max_rate_fps=0.1, slow_above_c=80.0, slow_rate_fps=0.05)
    assert timeouts_of(profile(slow, None)) == FrameTimeouts(25.0, None)
    assert timeouts_of(profile(RateLimits(), 120.0)) == FrameTimeouts(5.0, 142.0)
