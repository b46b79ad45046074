"""Runs a benchmark: the choices in turns, a round each, until every one has its rounds."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from device.bench.conditions import find_flags
from device.bench.figures import summarise_choice
from device.bench.machine import describe_machine
from device.bench.result import BenchResult, Choice, Conditions, Failure, Flag, Idle, Round, Settings
from device.bench.rounds import Job, Outcome
from device.core.errors import BenchError

Execute = Callable[[Job], Outcome]
Tell = Callable[[str], None]


class Candidate(msgspec.Struct, frozen=True):
    """A choice, and where its bundle lies."""

    bundle: Path
    choice: Choice


class _Progress(msgspec.Struct):
    """What has been measured of a candidate."""

    candidate: Candidate
    rounds: list[Round]
    failure: Failure | None = None


class Bench:
    """A benchmark under way.

    Args:
        candidates: what is measured.
        settings: for how long.
        no_energy_reason: why no energy can be measured; None where it can.
        meters_missing: for the record.
        before: what went on before it begins.
        is_strict: a flag ends the benchmark at once.
        execute: does a job; `device.bench.child.run_in_child`.
        tell: takes lines for the person.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        settings: Settings,
        *,
        no_energy_reason: str | None,
        meters_missing: Sequence[str],
        before: Conditions,
        is_strict: bool,
        execute: Execute,
        tell: Tell,
    ) -> None:
        self._progress = [_Progress(candidate, []) for candidate in candidates]
        self._settings = settings
        self._no_energy_reason = no_energy_reason
        self._meters_missing = tuple(meters_missing)
        self._before = before
        self._is_strict = is_strict
        self._execute = execute
        self._tell = tell
        self._idle: Idle | None = None
        self._started_at_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._started_s = time.monotonic()
        self._machine = describe_machine()

    def run(self) -> None:
        """Measures everything; interrupted, it leaves what it has.

        Raises:
            BenchError: with ``is_strict``, a flag's code; ``failed`` where the idle machine could not be measured.
        """
        flags = find_flags([self._before])
        for flag in flags:
            self._tell(f"warning: {flag.code}: {flag.detail}")
        self._be_strict("before the first round", flags)
        if self._no_energy_reason is None:
            self._tell(f"idle: {self._settings.idle_s:g} s")
            self._idle = self._measure_idle()
        for number in range(1, self._settings.rounds + 1):
            for progress in self._progress:
                if progress.failure is None:
                    self._measure_round(progress, number)
        for one in self.summarise(is_complete=True).choices:
            # Each round may be steady, and yet not like the others, or not like the idle machine.
            self._be_strict(describe_choice(one.choice), one.flags)

    def _measure_idle(self) -> Idle | None:
        bundle = str(self._progress[0].candidate.bundle)
        outcome = self._execute(Job(bundle, None, 0.0, None, self._settings.idle_s))
        if outcome.failure:
            raise BenchError("idle", outcome.failure.message, reason="failed")
        if outcome.idle:
            self._be_strict("idle", find_flags([outcome.idle.conditions]))
        return outcome.idle

    def _measure_round(self, progress: _Progress, number: int) -> None:
        settings, candidate = self._settings, progress.candidate
        name = describe_choice(candidate.choice)
        energy_s = settings.energy_s if self._no_energy_reason is None else None
        outcome = self._execute(Job(str(candidate.bundle), candidate.choice, settings.warm_up_s, settings.latency_s, energy_s))
        if outcome.round is None:
            progress.failure = outcome.failure or Failure("failed", "gave no round")
            self._tell(f"{name}: failed: {progress.failure.message}")
            return
        progress.rounds.append(outcome.round)
        self._tell(f"round {number} of {settings.rounds}, {name}: {_describe_round(outcome.round)}")
        self._be_strict(name, find_flags([outcome.round.conditions]))

    def _be_strict(self, name: str, flags: Sequence[Flag]) -> None:
        if self._is_strict and flags:
            raise BenchError(
                name,
                "; ".join(flag.detail for flag in flags),
                remedy="mend that, or leave --strict out to have it beside the figures",
                reason=flags[0].code,
            )

    def summarise(self, *, is_complete: bool) -> BenchResult:
        """Makes the result of what there is."""
        return BenchResult(
            started_at_utc=self._started_at_utc,
            duration_s=time.monotonic() - self._started_s,
            is_complete=is_complete,
            machine=self._machine,
            settings=self._settings,
            idle=self._idle,
            meters_missing=self._meters_missing,
            before=self._before,
            choices=tuple(
                summarise_choice(
                    one.candidate.choice, one.rounds, one.failure, self._settings, self._idle, self._no_energy_reason
                )
                for one in self._progress
            ),
        )

    @property
    def has_rounds(self) -> bool:
        """Whether there is anything to keep."""
        return any(progress.rounds for progress in self._progress)


def describe_choice(choice: Choice) -> str:
    """A choice in a few words."""
    threads = f"{choice.threads} thread" + ("s" if choice.threads > 1 else "")
    return f"{choice.runtime}, {threads}, {choice.precision}, {choice.input_px} px"


def _describe_round(taken: Round) -> str:
    words = []
    if taken.latency:
        words.append(f"{taken.latency.latency_s.p50 * 1e3:.2f} ms")
    if taken.energy and taken.energy.power:
        power = taken.energy.power
        words.append(f"{power.power_w:.2f} W{' (ESTIMATE)' if power.is_estimate else ''}")
    return ", ".join(words)


@contextmanager
def interrupt_on_termination() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, so that everything is put back and no process stays behind.

    So does SIGINT where a shell had it ignored, as it does for what it starts in the background.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
