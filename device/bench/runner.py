"""Runs a benchmark: the choices take turns, one round each, until all have their rounds."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from device.bench.conditions import find_caveats
from device.bench.figures import summarise_choice
from device.bench.machine import describe_machine
from device.bench.result import BenchResult, BenchSettings, Caveat, Choice, Conditions, Idle, Round, RoundFailure
from device.bench.rounds import Outcome, RoundJob
from device.core.errors import BenchError

Execute = Callable[[RoundJob], Outcome]
ProgressCallback = Callable[[str], None]


class Candidate(msgspec.Struct, frozen=True):
    """A choice, and the folder of its bundle."""

    bundle: Path
    choice: Choice


class _Progress(msgspec.Struct):
    """The rounds of a candidate so far."""

    candidate: Candidate
    rounds: list[Round]
    failure: RoundFailure | None = None


class Benchmark:
    """A running benchmark.

    Args:
        candidates: what is measured.
        settings: number and length of the measurements.
        no_energy_reason: why energy isn't measured; None if it is.
        meters_missing: why meters of the profile are unavailable, for the record.
        before: the machine's conditions before the benchmark.
        is_strict: whether a caveat ends the benchmark at once.
        execute: runs a job; `device.bench.child.run_in_child`.
        on_progress: called with lines of progress.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        settings: BenchSettings,
        *,
        no_energy_reason: str | None,
        meters_missing: Sequence[str],
        before: Conditions,
        is_strict: bool,
        execute: Execute,
        on_progress: ProgressCallback,
    ) -> None:
        self._progress = [_Progress(candidate, []) for candidate in candidates]
        self._settings = settings
        self._no_energy_reason = no_energy_reason
        self._meters_missing = tuple(meters_missing)
        self._before = before
        self._is_strict = is_strict
        self._execute = execute
        self._on_progress = on_progress
        self._idle: Idle | None = None
        self._started_at_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._started_s = time.monotonic()
        self._machine = describe_machine()

    def run(self) -> None:
        """Measures everything. If interrupted, the rounds so far are kept.

        Raises:
            BenchError: with ``is_strict``, a caveat's code; ``failed`` if the idle machine couldn't be measured.
        """
        caveats = find_caveats([self._before])
        for caveat in caveats:
            self._on_progress(f"warning: {caveat.code}: {caveat.detail}")
        self._be_strict("before the first round", caveats)
        if self._no_energy_reason is None:
            self._on_progress(f"idle: {self._settings.idle_s:g} s")
            self._idle = self._measure_idle()
        for number in range(1, self._settings.rounds + 1):
            for progress in self._progress:
                if progress.failure is None:
                    self._measure_round(progress, number)
        for one in self.summarise(is_complete=True).choices:
            # Each round may be steady in itself, but differ from the others or from the idle machine.
            self._be_strict(describe_choice(one.choice), one.flags)

    def _measure_idle(self) -> Idle | None:
        bundle = str(self._progress[0].candidate.bundle)
        outcome = self._execute(RoundJob(bundle, None, 0.0, None, self._settings.idle_s))
        if outcome.failure:
            raise BenchError("idle", outcome.failure.message, reason="failed")
        if outcome.idle:
            self._be_strict("idle", find_caveats([outcome.idle.conditions]))
        return outcome.idle

    def _measure_round(self, progress: _Progress, number: int) -> None:
        settings, candidate = self._settings, progress.candidate
        name = describe_choice(candidate.choice)
        energy_s = settings.energy_s if self._no_energy_reason is None else None
        outcome = self._execute(
            RoundJob(str(candidate.bundle), candidate.choice, settings.warm_up_s, settings.latency_s, energy_s)
        )
        if outcome.round is None:
            progress.failure = outcome.failure or RoundFailure("failed", "gave no round")
            self._on_progress(f"{name}: failed: {progress.failure.message}")
            return
        progress.rounds.append(outcome.round)
        self._on_progress(f"round {number} of {settings.rounds}, {name}: {_describe_round(outcome.round)}")
        self._be_strict(name, find_caveats([outcome.round.conditions]))

    def _be_strict(self, name: str, caveats: Sequence[Caveat]) -> None:
        if self._is_strict and caveats:
            raise BenchError(
                name,
                "; ".join(caveat.detail for caveat in caveats),
                remedy="fix the cause, or leave --strict out to get the figures with this caveat",
                reason=caveats[0].code,
            )

    def summarise(self, *, is_complete: bool) -> BenchResult:
        """Summarises the rounds so far."""
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
        """Whether any round was measured."""
        return any(progress.rounds for progress in self._progress)


def describe_choice(choice: Choice) -> str:
    """Describes a choice in a few words."""
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
    """Makes SIGTERM act like Ctrl-C, so that everything is restored and no process is left behind.

    SIGINT is handled as well, because a shell ignores it for programs that it starts in the background.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
