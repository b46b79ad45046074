"""What a search leaves behind: the schema of its JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from device.bench.result import BenchMachine, Choice, Failure, Flag, Idle, Interval, Round
from device.contract.profile import Scope


class TuneSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it was measured.

    Attributes:
        is_exhaustive: every point got all its rounds.
        conforms: False for ``--quick``.
        rounds: that the chosen point got, and whatever could have beaten it.
        warm_up_s: before each.
        window_s: of each, at least.
        idle_s: of the idle window, where power matters.
        noise: factor between rounds that the early stops count on at least.
    """

    is_exhaustive: bool
    conforms: bool
    rounds: int
    warm_up_s: float
    window_s: float
    idle_s: float
    noise: float


State = Literal["measured", "stopped", "skipped", "failed"]


class PointResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operating point, and what is known of it.

    Attributes:
        choice: what of the bundle is run.
        asked_rate_fps: inferences a second, at most; None for full speed.
        governor: that was set for it; None left what was there.
        state: ``measured`` has all its rounds, ``stopped`` could not win any more after some, ``skipped`` without any,
            ``failed`` has no figures.
        failure: None unless it failed.
        rate_fps: that came about.
        power_w: None without a figure.
        energy_j: of an inference, idle included: power by rate, of the medians; None without a figure.
        p50_s: of one inference.
        source: see `device.protocols.PowerMeter`; None without a figure.
        scope: likewise.
        is_estimate: likewise.
        is_on_front: no other point that was measured is at least as good in rate and power, and better in one.
        flags: what speaks against the figures.
        rounds: what was measured.
    """

    choice: Choice
    asked_rate_fps: float | None
    governor: str | None
    state: State
    failure: Failure | None
    rate_fps: Interval | None
    power_w: Interval | None
    energy_j: float | None
    p50_s: Interval | None
    source: str | None
    scope: Scope | None
    is_estimate: bool | None
    is_on_front: bool
    flags: tuple[Flag, ...]
    rounds: tuple[Round, ...]


class TuneResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search.

    Attributes:
        started_at_utc: ISO 8601.
        duration_s: of it all.
        aim: for people.
        machine: where it was measured.
        settings: how.
        idle: by governor; ``""`` where none was set.
        meters_missing: of the profile's meters that are not there, why.
        no_power_reason: why there are no figures of power; None where there are.
        points: the space, in its order.
        pick: index of the chosen point; None where none was what was asked for.
        rivals: indices of points that the rounds' ranges don't tell apart from the pick.
        noise: factor between rounds of one point that was seen; at least ``settings.noise``.
        profile: the profile's text.
        profile_file: where it was written.
        kind: tells this file from others.
        schema: of this file.
    """

    started_at_utc: str
    duration_s: float
    aim: str
    machine: BenchMachine
    settings: TuneSettings
    idle: dict[str, Idle]
    meters_missing: tuple[str, ...]
    no_power_reason: str | None
    points: tuple[PointResult, ...]
    pick: int | None
    rivals: tuple[int, ...]
    noise: float
    profile: str | None = None
    profile_file: str | None = None
    kind: Literal["ghostwatt tune"] = "ghostwatt tune"
    schema: Literal[1] = 1
