"""The result of a search: the schema of its JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from device.bench.result import BenchMachine, Caveat, Choice, Idle, MedianRange, Round, RoundFailure
from device.contract.profile import Scope


class TuneSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Number and length of the measurements.

    Attributes:
        is_exhaustive: whether every point gets all its rounds.
        conforms: False for ``--quick``.
        rounds: rounds of the chosen point, and of every point that could have beaten it.
        warm_up_s: warm-up before each round.
        window_s: minimum length of each round.
        idle_s: length of the idle window, if the aim needs power.
        noise: minimum factor between rounds that early stopping allows for.
    """

    is_exhaustive: bool
    conforms: bool
    rounds: int
    warm_up_s: float
    window_s: float
    idle_s: float
    noise: float


PointState = Literal["measured", "stopped", "skipped", "failed"]


class PointResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operating point and its figures.

    Attributes:
        choice: what is run.
        asked_rate_fps: maximum inferences a second; None for full speed.
        governor: governor that was set for it; None if left as it was.
        state: ``measured`` has all its rounds, ``stopped`` couldn't win any more after some rounds, ``skipped`` couldn't win
            without any, ``failed`` has no figures.
        failure: None unless it failed.
        rate_fps: the rate that was reached.
        power_w: None without a figure.
        energy_j: energy per inference, idle included: median power divided by median rate; None without a figure.
        p50_s: median duration of an inference.
        source: see `device.protocols.PowerMeter`; None without a figure.
        scope: see `device.protocols.PowerMeter`; None without a figure.
        is_estimate: see `device.protocols.PowerMeter`; None without a figure.
        is_on_front: whether it is on the Pareto front of rate and power.
        flags: caveats about the figures.
        rounds: the raw measurements.
    """

    choice: Choice
    asked_rate_fps: float | None
    governor: str | None
    state: PointState
    failure: RoundFailure | None
    rate_fps: MedianRange | None
    power_w: MedianRange | None
    energy_j: float | None
    p50_s: MedianRange | None
    source: str | None
    scope: Scope | None
    is_estimate: bool | None
    is_on_front: bool
    flags: tuple[Caveat, ...]
    rounds: tuple[Round, ...]


class TuneResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a search.

    Attributes:
        started_at_utc: ISO 8601.
        duration_s: of the whole search.
        aim: title of the aim.
        machine: the machine that was measured.
        settings: number and length of the measurements.
        idle: by governor; ``""`` if none was set.
        meters_missing: why meters of the profile are unavailable; one line each.
        no_power_reason: why there are no power figures; None if there are.
        points: all points, in the order of the space.
        pick: index of the chosen point; None if no point meets the aim.
        rivals: indices of points whose ranges overlap the pick's, so that they may be as good.
        noise: largest factor between rounds of one point; at least ``settings.noise``.
        profile: the profile's text.
        profile_file: the file that it was written to.
        kind: identifies this kind of file.
        schema: version of this schema.
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
