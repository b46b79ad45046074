"""Runs a search with rounds of `device.bench`, and summarises its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from device.bench.choices import PowerAvailability
from device.bench.conditions import find_caveats
from device.bench.figures import find_interval
from device.bench.machine import describe_machine
from device.bench.result import Caveat, Idle, InferenceWindow, Round, RoundFailure, WindowPower
from device.bench.rounds import RoundJob
from device.bench.runner import Execute, ProgressCallback
from device.bench.table import format_power
from device.core.errors import BenchError
from device.tune.aims import Aim
from device.tune.result import PointResult, PointState, TuneResult, TuneSettings
from device.tune.search import Contender, Pick, PointMeasurement, Search, find_front
from device.tune.space import OperatingPoint, describe_point

UseGovernor = Callable[[str], None]


class Tuner:
    """Measures operating points and chooses the best.

    Args:
        points: the space.
        aim: scores points.
        settings: number and length of the measurements.
        power: whether power can be measured.
        execute: runs a job; `device.bench.child.run_in_child`.
        use_governor: sets a governor.
        on_progress: called with lines of progress.
    """

    def __init__(
        self,
        points: Sequence[OperatingPoint],
        aim: Aim,
        settings: TuneSettings,
        power: PowerAvailability,
        *,
        execute: Execute,
        use_governor: UseGovernor,
        on_progress: ProgressCallback,
    ) -> None:
        self._points = list(points)
        self._aim = aim
        self._settings = settings
        self._power = power
        self._execute = execute
        self._use_governor = use_governor
        self._on_progress = on_progress
        self._governor: str | None = None
        self._power_of: WindowPower | None = None  # whose meter all figures must come from
        self._idle: dict[str | None, Idle] = {}
        self._rounds: dict[OperatingPoint, list[Round]] = {point: [] for point in self._points}
        self._search: Search | None = None
        self._started_at_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._started_s = time.monotonic()

    def run(self) -> TuneResult:
        """Runs the search.

        Raises:
            BenchError: ``failed`` if the idle machine couldn't be measured.
        """
        if self._aim.needs_power:
            for governor in dict.fromkeys(point.governor for point in self._points):
                self._idle[governor] = self._measure_idle(governor)
        settings = self._settings
        self._search = Search(
            self._points,
            self._aim,
            self._measure,
            rounds=settings.rounds,
            idle_w={governor: idle.power.power_w for governor, idle in self._idle.items() if idle.power},
            noise=settings.noise,
        )
        pick = self._search.run_exhaustively() if settings.is_exhaustive else self._search.run()
        return self._summarise(self._search, pick)

    def _set(self, governor: str | None) -> None:
        if governor is not None and governor != self._governor:
            self._use_governor(governor)
            self._governor = governor

    def _measure_idle(self, governor: str | None) -> Idle:
        self._set(governor)
        self._on_progress(f"idle: {self._settings.idle_s:g} s" + (f", governor {governor}" if governor else ""))
        outcome = self._execute(RoundJob(str(self._points[0].candidate.bundle), None, 0.0, None, self._settings.idle_s))
        if outcome.idle is None:
            raise BenchError("idle", outcome.failure.message if outcome.failure else "no answer", reason="failed")
        if outcome.idle.power:
            self._power_of = self._power_of or outcome.idle.power
        return outcome.idle

    def _measure(self, point: OperatingPoint) -> PointMeasurement | RoundFailure:
        self._set(point.governor)
        settings = self._settings
        job = RoundJob(str(point.candidate.bundle), point.choice, settings.warm_up_s, None, settings.window_s, point.rate_fps)
        outcome = self._execute(job)
        window = outcome.round.energy if outcome.round else None
        if outcome.round is None or window is None:
            failure = outcome.failure or RoundFailure("failed", "gave no round")
            self._on_progress(f"{describe_point(point)}: failed: {failure.message}")
            return failure
        self._on_progress(f"{describe_point(point)}: {_describe_window(window)}")
        power_w, reason = self._find_power_w(window)
        if power_w is None and self._aim.needs_power:
            return RoundFailure("no_power", reason)
        self._rounds[point].append(outcome.round)
        return PointMeasurement(window.rate_fps, power_w)

    def _find_power_w(self, window: InferenceWindow) -> tuple[float | None, str]:
        """The window's power, or the reason why there is none."""
        power = window.power
        if power is None:
            return None, window.power_missing_reason or self._power.no_power_reason or "no power figure"
        # Figures of different meters, or of a sensor and a model, can't be compared: the first meter to give one is used.
        self._power_of = self._power_of or power
        if power.origin != self._power_of.origin:
            return None, f"another meter gave the figure: {power.source}"
        return power.power_w, ""

    def _summarise(self, search: Search, pick: Pick | None) -> TuneResult:
        front = find_front(search.contenders)
        return TuneResult(
            started_at_utc=self._started_at_utc,
            duration_s=time.monotonic() - self._started_s,
            aim=self._aim.title,
            machine=describe_machine(),
            settings=self._settings,
            idle={governor or "": idle for governor, idle in self._idle.items()},
            meters_missing=self._power.missing,
            no_power_reason=self._power.no_power_reason,
            points=tuple(self._describe(contender, search, is_on_front=contender in front) for contender in search.contenders),
            pick=pick.contender.index if pick else None,
            rivals=tuple(contender.index for contender in search.find_rivals(pick)) if pick else (),
            noise=search.noise,
        )

    def _describe(self, contender: Contender, search: Search, *, is_on_front: bool) -> PointResult:
        rounds = [] if contender.failure else self._rounds[contender.point]
        windows = [one.energy for one in rounds if one.energy]
        powers = [window.power for window in windows if window.power] if contender.power_w is not None else []
        return PointResult(
            choice=contender.point.choice,
            asked_rate_fps=contender.point.rate_fps,
            governor=contender.point.governor,
            state=_name_state(contender, search),
            failure=contender.failure,
            rate_fps=find_interval([window.rate_fps for window in windows]) if windows else None,
            power_w=find_interval([power.power_w for power in powers]) if powers else None,
            energy_j=contender.power_w / contender.rate_fps if contender.power_w is not None and windows else None,
            p50_s=find_interval([window.latency_s.p50 for window in windows]) if windows else None,
            source=", ".join(dict.fromkeys(power.source for power in powers)) or None,
            scope=powers[0].scope if powers else None,
            is_estimate=any(power.is_estimate for power in powers) if powers else None,
            is_on_front=is_on_front,
            flags=self._find_caveats(contender.point, rounds, powers),
            rounds=tuple(self._rounds[contender.point]),
        )

    def _find_caveats(
        self, point: OperatingPoint, rounds: Sequence[Round], powers: Sequence[WindowPower]
    ) -> tuple[Caveat, ...]:
        caveats: list[Caveat] = []
        if rounds and not self._settings.conforms:
            caveats.append(Caveat("too_short", f"windows of {self._settings.window_s:g} s: a first look, not a measurement"))
        conditions = [one.conditions for one in rounds]
        idle = self._idle.get(point.governor)
        if powers and idle:
            conditions.append(idle.conditions)
        # A governor that was set on purpose needs no caveat.
        return (
            *caveats,
            *(caveat for caveat in find_caveats(conditions) if caveat.code != "governor" or point.governor is None),
        )


def _name_state(contender: Contender, search: Search) -> PointState:
    if contender.failure:
        return "failed"
    if search.is_done(contender):
        return "measured"
    return "stopped" if contender.measurements else "skipped"


def _describe_window(window: InferenceWindow) -> str:
    text = f"{window.rate_fps:.1f} FPS, {window.latency_s.p50 * 1e3:.2f} ms"
    if window.power:
        text += f", {format_power(window.power.power_w, is_estimate=window.power.is_estimate)}"
    return text
