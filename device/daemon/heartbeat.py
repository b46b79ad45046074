"""The link to the service manager: when the daemon counts as alive, and what ``systemctl status`` shows.

A finished frame is a sign of life. A turn of the loop without one counts too, but only while no frame is due: for as long as
the profile's rate lets the next one wait, and, where every camera is known to be interrupted, until the profile's patience with
it ends and the daemon should have ended by itself. So a network that hangs, a loop that hangs, and a driver that hangs
unnoticed are all found within ``WatchdogSec`` of when a frame was due, and a camera that is being opened again for two
minutes doesn't get the daemon killed. No timer and no other thread sends a sign.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from device.contract import Profile
from device.daemon.console import format_interval
from device.daemon.notify import Notifier, read_watchdog_s
from device.protocols import (
    Clock,
    Event,
    FrameDone,
    InterruptionRecord,
    IntervalRecord,
    Kinds,
    Prediction,
    RunStopping,
    Tick,
)

BEATS_PER_WATCHDOG = 4
"""Signs of life in one ``WatchdogSec``; sd_watchdog_enabled(3) recommends at least two."""

_FOREVER_NS = 1 << 62


class FrameTimeouts(NamedTuple):
    """How long there may be no finished frame.

    Attributes:
        frame_s: after one.
        interruption_s: after the last one before every camera failed; None for ever.
    """

    frame_s: float
    interruption_s: float | None


def timeouts_of(profile: Profile) -> FrameTimeouts:
    """What a profile allows: its slowest rate and a stall until it is noticed; and its patience with a camera that is away."""
    camera, limits = profile.camera, profile.limits
    slowest_s = max((1.0 / rate for rate in (limits.max_rate_fps, limits.slow_rate_fps) if rate), default=0.0)
    frame_s = slowest_s + camera.stall_timeout_s
    if camera.give_up_after_s is None:
        return FrameTimeouts(frame_s, None)
    # The supervisor gives up at a failed attempt: after the last wait, and as long as opening may take.
    last_attempt_s = camera.backoff.longest_s + 2 * camera.stall_timeout_s
    return FrameTimeouts(frame_s, camera.give_up_after_s + last_attempt_s)


class Heartbeat:
    """Sends the signs of life; `READY` with the first frame.

    Args:
        notifier: sends them.
        watchdog_s: how long the service manager waits for one; None where it doesn't.
        sources: `SourceSpec.uri` of every source.
        timeouts: see `FrameTimeouts`.
        clock: the loop's.
    """

    def __init__(
        self, notifier: Notifier, *, watchdog_s: float | None, sources: Collection[str], timeouts: FrameTimeouts, clock: Clock
    ) -> None:
        self._notifier = notifier
        self._period_ns = None if watchdog_s is None else round(watchdog_s / BEATS_PER_WATCHDOG * 1e9)
        self._sources = frozenset(sources)
        self._timeouts = timeouts
        self._clock = clock
        self._is_ready = False
        self._interrupted: dict[str, int] = {}
        self._due_ns = 0
        self._next_beat_ns = 0

    @property
    def interrupted(self) -> tuple[str, ...]:
        """Sources that give no good frames now."""
        return tuple(self._interrupted)

    def on_frame(self) -> None:
        """A frame went through the network."""
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready()
        now_ns = self._clock.now_ns()
        self._due_ns = now_ns + round(self._timeouts.frame_s * 1e9)
        self._beat(now_ns)

    def on_tick(self) -> None:
        """The loop turned."""
        now_ns = self._clock.now_ns()
        if self._is_ready and now_ns < max(self._due_ns, self._give_up_ns()):
            self._beat(now_ns)

    def on_interruption(self, record: InterruptionRecord) -> None:
        """A source failed, or is back. One that sees only darkness still gives frames."""
        if record.reason == "dark":
            return
        if record.duration_s is None:
            self._interrupted[record.source] = record.started_ns
        else:
            self._interrupted.pop(record.source, None)

    def _give_up_ns(self) -> int:
        if self._interrupted.keys() != self._sources:
            return 0
        if self._timeouts.interruption_s is None:
            return _FOREVER_NS
        # From when the last of them failed: another may have been away for days, while that one worked.
        return max(self._interrupted.values()) + round(self._timeouts.interruption_s * 1e9)

    def _beat(self, now_ns: int) -> None:
        if self._period_ns is not None and now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + self._period_ns
            self._notifier.alive()


class ServiceManager:
    """Reports to the service manager. Added to the stream last: a frame that hangs before this point is not a sign of life.

    Args:
        notifier: sends.
        heartbeat: decides when to send a sign of life.
    """

    takes: Kinds = (FrameDone, Tick, InterruptionRecord, IntervalRecord, RunStopping)

    def __init__(self, notifier: Notifier, heartbeat: Heartbeat) -> None:
        self._notifier = notifier
        self._heartbeat = heartbeat
        self._newest: Prediction | None = None

    def write(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, FrameDone):
            self._newest = event.prediction
            self._heartbeat.on_frame()
        elif isinstance(event, Tick):
            self._heartbeat.on_tick()
        elif isinstance(event, InterruptionRecord):
            self._heartbeat.on_interruption(event)
        elif isinstance(event, IntervalRecord):
            interrupted = self._heartbeat.interrupted
            missing = f"no frames from {', '.join(interrupted)} | " if interrupted else ""
            self._notifier.status(missing + format_interval(event, self._newest))
        elif isinstance(event, RunStopping):
            self._notifier.stopping()


def find_service_manager(
    profile: Profile,
    sources: Collection[str],
    clock: Clock,
    report: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> ServiceManager | None:
    """Finds the service manager that waits for notices; None where there is none.

    Args:
        profile: that runs.
        sources: `SourceSpec.uri` of every source.
        clock: the loop's.
        report: takes one line where a notice can't be sent.
        environment: this process's if None.
    """
    variables = os.environ if environment is None else environment
    address = variables.get("NOTIFY_SOCKET")
    if not address:
        return None
    notifier = Notifier(address, report)
    watchdog_s = read_watchdog_s(variables)
    heartbeat = Heartbeat(notifier, watchdog_s=watchdog_s, sources=sources, timeouts=timeouts_of(profile), clock=clock)
    return ServiceManager(notifier, heartbeat)
