"""The journal in place of the console: a summary a minute instead of status lines, and interruptions with fields."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping

from device.daemon.console import Console, format_figure, format_interruption
from device.daemon.journal import INFO, NOTICE, SOCKET, WARNING, JournalSocket, is_journal
from device.protocols import Event, InterruptionRecord, IntervalRecord, Kinds, Listener
from device.telemetry.power_mean import PowerMean

SUMMARY_INTERVAL_S = 60.0
"""Between summaries in the journal, which lies on an SD card."""

# Of our own entries, for `journalctl MESSAGE_ID=`.
SUMMARY_ID = "880a7afdda5f4bc2886e84b73bdc40dd"
INTERRUPTION_ID = "8f34952a1a9349d688e0eb4a2f4f6019"


def open_log(profile: str, environment: Mapping[str, str] | None = None, address: str = SOCKET) -> Listener:
    """Opens what a person reads: the console on stderr, or the journal where stderr ends in it.

    Args:
        profile: name of the profile that runs.
        environment: this process's if None.
        address: of the journal's socket.
    """
    console = Console(sys.stderr)
    if not is_journal(sys.stderr, os.environ if environment is None else environment):
        return console
    return JournalLog(JournalSocket(address), profile, console)


class JournalLog:
    """Sends intervals, summed up to a minute, and interruptions to the journal, with fields. All else is the console's.

    Args:
        journal: where entries go.
        profile: name of the profile that runs.
        console: takes what the journal has no entry for, and what the journal rejects.
    """

    def __init__(self, journal: JournalSocket, profile: str, console: Listener) -> None:
        self._journal = journal
        self._profile = profile
        self._console = console
        self._summary = SpanSummary()

    @property
    def takes(self) -> Kinds:
        """What the console takes."""
        return self._console.takes

    def write(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, IntervalRecord):
            is_written = self._add(event)
        elif isinstance(event, InterruptionRecord):
            message = format_interruption(event)
            priority = NOTICE if event.is_over else WARNING
            is_written = self._send(message, priority, interruption_fields(event))
        else:
            is_written = False
        if not is_written:
            self._console.write(event)

    def _add(self, record: IntervalRecord) -> bool:
        self._summary.add(record)
        if self._summary.duration_s < SUMMARY_INTERVAL_S:
            return True
        summary, self._summary = self._summary, SpanSummary()
        return self._send(summary.line(), INFO, {"MESSAGE_ID": SUMMARY_ID, **summary.fields()})

    def _send(self, message: str, priority: int, fields: Mapping[str, object]) -> bool:
        return self._journal.send(message, priority, {**fields, "GHOSTWATT_PROFILE": self._profile})


def interruption_fields(record: InterruptionRecord) -> dict[str, object]:
    """An interruption, for programs."""
    return {
        "MESSAGE_ID": INTERRUPTION_ID,
        "GHOSTWATT_SOURCE": record.source,
        "GHOSTWATT_REASON": record.reason,
        "GHOSTWATT_DURATION_S": record.duration_s,
        "GHOSTWATT_ATTEMPTS": record.attempts,
        "GHOSTWATT_IS_OVER": record.is_over,
    }


class SpanSummary:
    """Sums up intervals; power as in `PowerMean`."""

    def __init__(self) -> None:
        self.duration_s = 0.0
        self._frames = 0
        self._dropped = 0
        self._power = PowerMean()
        self._temperature_c: float | None = None
        self._throttled: Counter[str] = Counter()

    def add(self, record: IntervalRecord) -> None:
        """Adds an interval."""
        self.duration_s += record.duration_s
        self._frames += record.frames
        self._dropped += record.dropped
        if record.temperature_c is not None:
            self._temperature_c = max(record.temperature_c, self._temperature_c or record.temperature_c)
        self._throttled.update(flag for flag in (record.throttled or "").split(",") if flag)
        self._power.add(record.power)

    def line(self) -> str:
        """For people."""
        parts = [
            f"{self._frames / self.duration_s:.1f} FPS over {self.duration_s:.0f} s",
            format_figure(self._power.figure),
        ]
        parts += [f"dropped {self._dropped}"] if self._dropped else []
        parts += [f"{self._temperature_c:.0f} °C at most"] if self._temperature_c is not None else []
        parts += [f"THROTTLED ({','.join(self._throttled)})"] if self._throttled else []
        return " | ".join(parts)

    def fields(self) -> dict[str, object]:
        """For programs."""
        power = self._power.figure
        return {
            "GHOSTWATT_FPS": self._frames / self.duration_s,
            "GHOSTWATT_FRAMES": self._frames,
            "GHOSTWATT_DROPPED": self._dropped,
            "GHOSTWATT_DURATION_S": self.duration_s,
            "GHOSTWATT_POWER_W": power.power_w if power else None,
            "GHOSTWATT_POWER_SOURCE": power.source if power else None,
            "GHOSTWATT_POWER_SCOPE": power.scope if power else None,
            "GHOSTWATT_POWER_IS_ESTIMATE": power.is_estimate if power else None,
            "GHOSTWATT_TEMPERATURE_C": self._temperature_c,
            "GHOSTWATT_THROTTLED": ",".join(self._throttled) or None,
        }
