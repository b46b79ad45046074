"""The daemon's link to systemd: wraps whom the loop and the recorder tell, where a service manager or a journal listens."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from device.contract import Profile
from device.core.errors import SourceError
from device.daemon.console import format_interval, format_power
from device.daemon.heartbeat import Heartbeat, patience_of
from device.daemon.journal import INFO, NOTICE, SOCKET, WARNING, JournalSocket, PriorityStream, is_journal
from device.daemon.notify import Notifier, read_watchdog_s
from device.daemon.pipeline import Observer, StageTimes
from device.daemon.recorder import Tell
from device.protocols import Clock, InterruptionRecord, IntervalRecord, Prediction, Record
from device.telemetry.power_mean import PowerMean

SUMMARY_INTERVAL_S = 60.0
"""Between entries that sum up in the journal, which lies on an SD card."""

# Of our own entries, for `journalctl MESSAGE_ID=`.
SUMMARY_ID = "880a7afdda5f4bc2886e84b73bdc40dd"
INTERRUPTION_ID = "8f34952a1a9349d688e0eb4a2f4f6019"


def mark_journal_lines(environment: Mapping[str, str] | None = None) -> None:
    """Gives lines on stderr their priority where they end in the journal."""
    variables = os.environ if environment is None else environment
    if is_journal(sys.stderr, variables):
        sys.stderr = PriorityStream(sys.stderr)


class Channels(NamedTuple):
    """Who listens.

    Attributes:
        notifier: the service manager; None where there is none.
        watchdog_s: how long it waits for a sign of life; None where it doesn't.
        journal: where stderr ends in the journal.
    """

    notifier: Notifier | None
    watchdog_s: float | None
    journal: JournalSocket | None


def open_channels(tell: Tell, environment: Mapping[str, str] | None = None, journal: str = SOCKET) -> Channels:
    """Finds out who listens.

    Args:
        tell: its ``on_trouble`` is told where one doesn't.
        environment: this process's if None.
        journal: address of the journal's socket.
    """
    variables = os.environ if environment is None else environment
    address = variables.get("NOTIFY_SOCKET")
    return Channels(
        notifier=Notifier(address, tell.on_trouble) if address else None,
        watchdog_s=read_watchdog_s(variables),
        journal=JournalSocket(journal) if is_journal(sys.stderr, variables) else None,
    )


class ServiceLink:
    """Tells systemd what the loop's observer is told; where nobody listens, it changes nothing.

    Args:
        profile: that runs.
        sources: `SourceSpec.uri` of every source.
        channels: who listens.
        clock: the loop's.
    """

    def __init__(self, profile: Profile, sources: Collection[str], channels: Channels, clock: Clock) -> None:
        self._profile = profile.name
        self._notifier = channels.notifier
        self._journal = channels.journal
        self._heartbeat = (
            Heartbeat(
                channels.notifier,
                watchdog_s=channels.watchdog_s,
                sources=sources,
                patience=patience_of(profile),
                clock=clock,
            )
            if channels.notifier
            else None
        )

    def tell(self, tell: Tell) -> Tell:
        """Whom the recorder should tell: ``tell``, and systemd."""
        if self._journal is not None:
            tell = JournalTell(tell, self._journal, self._profile).as_tell()
        return NotifyTell(tell, self._notifier, self._heartbeat).as_tell() if self._notifier and self._heartbeat else tell

    def observe(self, observer: Observer) -> Observer:
        """Whom the loop should tell: ``observer``, and systemd."""
        return HeartbeatObserver(observer, self._heartbeat) if self._heartbeat else observer

    def stopping(self) -> None:
        """The daemon is on its way out."""
        if self._notifier:
            self._notifier.stopping()


class HeartbeatObserver:
    """Passes everything on, and then lets the heart beat: what hangs on the way is no life."""

    def __init__(self, observer: Observer, heartbeat: Heartbeat) -> None:
        self._observer = observer
        self._heartbeat = heartbeat

    def on_frame(self, prediction: Prediction, times: StageTimes) -> None:
        """A frame went through."""
        self._observer.on_frame(prediction, times)
        self._heartbeat.on_frame()

    def on_bad_frame(self, source: str, error: SourceError) -> None:
        """Passes on."""
        self._observer.on_bad_frame(source, error)

    def on_tick(self, dropped: Mapping[str, int]) -> None:
        """Time passed."""
        self._observer.on_tick(dropped)
        self._heartbeat.on_tick()


class NotifyTell:
    """Shows each interval in ``systemctl status``, and tells the heartbeat of interruptions."""

    def __init__(self, tell: Tell, notifier: Notifier, heartbeat: Heartbeat) -> None:
        self._tell = tell
        self._notifier = notifier
        self._heartbeat = heartbeat

    def as_tell(self) -> Tell:
        """In the recorder's form."""
        return self._tell._replace(write=self.write, on_interval=self.on_interval)

    def write(self, record: Record) -> None:
        """Looks for interruptions, and passes on."""
        if isinstance(record, InterruptionRecord):
            self._heartbeat.on_interruption(record)
        self._tell.write(record)

    def on_interval(self, record: IntervalRecord, newest: Prediction | None) -> None:
        """Shows, and passes on."""
        interrupted = self._heartbeat.interrupted
        missing = f"no frames from {', '.join(interrupted)} | " if interrupted else ""
        self._notifier.status(missing + format_interval(record, newest))
        self._tell.on_interval(record, newest)


class JournalTell:
    """Writes to the journal, with fields: a summary a minute in place of the status lines, and each interruption.

    The recorder tells of an interruption by its record, and at once by a line: the line becomes the entry's message. An entry
    that the journal doesn't take goes the plain way instead.
    """

    def __init__(self, tell: Tell, journal: JournalSocket, profile: str) -> None:
        self._tell = tell
        self._journal = journal
        self._profile = profile
        self._fields: dict[str, object] | None = None
        self._summary = SpanSummary()

    def as_tell(self) -> Tell:
        """In the recorder's form."""
        return self._tell._replace(
            write=self.write, on_interval=self.on_interval, on_trouble=self.on_trouble, on_recovery=self.on_recovery
        )

    def write(self, record: Record) -> None:
        """Keeps what the next line is about, and passes on."""
        if isinstance(record, InterruptionRecord):
            self._fields = interruption_fields(record)
        self._tell.write(record)

    def on_interval(self, record: IntervalRecord, newest: Prediction | None) -> None:
        """Sums up; writes when a minute is over."""
        self._summary.add(record)
        if self._summary.duration_s < SUMMARY_INTERVAL_S:
            return
        summary, self._summary = self._summary, SpanSummary()
        fields = {"MESSAGE_ID": SUMMARY_ID, "GHOSTWATT_PROFILE": self._profile, **summary.fields()}
        if not self._journal.send(summary.line(), INFO, fields):
            self._tell.on_interval(record, newest)

    def on_trouble(self, line: str) -> None:
        """Something is wrong."""
        if not self._send_with_fields(f"warning: {line}", WARNING):
            self._tell.on_trouble(line)

    def on_recovery(self, line: str) -> None:
        """Something is well again."""
        if not self._send_with_fields(f"note: {line}", NOTICE):
            self._tell.on_recovery(line)

    def _send_with_fields(self, message: str, priority: int) -> bool:
        fields, self._fields = self._fields, None
        return fields is not None and self._journal.send(message, priority, {**fields, "GHOSTWATT_PROFILE": self._profile})


def interruption_fields(record: InterruptionRecord) -> dict[str, object]:
    """An interruption for programs."""
    return {
        "MESSAGE_ID": INTERRUPTION_ID,
        "GHOSTWATT_SOURCE": record.source,
        "GHOSTWATT_REASON": record.reason,
        "GHOSTWATT_DURATION_S": record.duration_s,
        "GHOSTWATT_ATTEMPTS": record.attempts,
        "GHOSTWATT_IS_OVER": record.is_over,
    }


class SpanSummary:
    """Sums up intervals; power as `PowerMean` does."""

    def __init__(self) -> None:
        self.duration_s = 0.0
        self._frames = 0
        self._dropped = 0
        self._power = PowerMean()
        self._temperature_c: float | None = None
        self._throttled: Counter[str] = Counter()

    def add(self, record: IntervalRecord) -> None:
        """Takes an interval in."""
        self.duration_s += record.duration_s
        self._frames += record.frames
        self._dropped += record.dropped
        if record.temperature_c is not None:
            self._temperature_c = max(record.temperature_c, self._temperature_c or record.temperature_c)
        self._throttled.update(flag for flag in (record.throttled or "").split(",") if flag)
        self._power.add(record)

    def line(self) -> str:
        """For people."""
        powered = self._power.newest
        source = (powered.power_source, powered.power_scope, powered.power_is_estimate) if powered else (None, None, None)
        parts = [
            f"{self._frames / self.duration_s:.1f} FPS over {self.duration_s:.0f} s",
            format_power(self._power.power_w, *source),
        ]
        parts += [f"dropped {self._dropped}"] if self._dropped else []
        parts += [f"{self._temperature_c:.0f} °C at most"] if self._temperature_c is not None else []
        parts += [f"THROTTLED ({','.join(self._throttled)})"] if self._throttled else []
        return " | ".join(parts)

    def fields(self) -> dict[str, object]:
        """For programs."""
        powered = self._power.newest
        return {
            "GHOSTWATT_FPS": self._frames / self.duration_s,
            "GHOSTWATT_FRAMES": self._frames,
            "GHOSTWATT_DROPPED": self._dropped,
            "GHOSTWATT_DURATION_S": self.duration_s,
            "GHOSTWATT_POWER_W": self._power.power_w,
            "GHOSTWATT_POWER_SOURCE": powered.power_source if powered else None,
            "GHOSTWATT_POWER_SCOPE": powered.power_scope if powered else None,
            "GHOSTWATT_POWER_IS_ESTIMATE": powered.power_is_estimate if powered else None,
            "GHOSTWATT_TEMPERATURE_C": self._temperature_c,
            "GHOSTWATT_THROTTLED": ",".join(self._throttled) or None,
        }
