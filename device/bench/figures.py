"""Computes figures from rounds: medians and their confidence intervals.

The range of n independent rounds misses the true median only if all of them lie above it or all below, which has a probability
of ``2 * 0.5 ** n`` for any distribution: five rounds give a confidence of 93.75 %. This applies to rounds on this machine at
this time. Consecutive rounds are slightly correlated, which is why the choices take turns: the rounds of each are spread over
the whole benchmark.

References:
    Hahn and Meeker, Statistical Intervals (1991), section 5.2: distribution-free intervals from order statistics.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from device.bench.conditions import find_caveats
from device.bench.result import (
    BenchSettings,
    Caveat,
    Choice,
    ChoiceResult,
    EnergyFigures,
    Idle,
    InferenceWindow,
    LatencyFigures,
    MedianRange,
    Round,
    RoundFailure,
    WindowPower,
)


def find_interval(values: Sequence[float]) -> MedianRange:
    """Computes median and range. The confidence of a single round is 0."""
    return MedianRange(
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        confidence=find_confidence(len(values)),
        rounds=len(values),
    )


def find_confidence(rounds: int) -> float:
    """Probability that the range of this many rounds contains the true median, 0..1."""
    return 1 - 2 * 0.5**rounds


def overlap(one: MedianRange, other: MedianRange) -> bool:
    """Whether the ranges of two measurements overlap, so that they may have the same true median."""
    return one.low <= other.high and other.low <= one.high


def summarise_choice(
    choice: Choice,
    rounds: Sequence[Round],
    failure: RoundFailure | None,
    settings: BenchSettings,
    idle: Idle | None,
    no_energy_reason: str | None,
) -> ChoiceResult:
    """Computes a choice's figures. A choice that failed has none, even if earlier rounds succeeded.

    Args:
        choice: what was measured.
        rounds: its rounds.
        failure: the failure that ended them.
        settings: for the caveats.
        idle: for net figures.
        no_energy_reason: why energy wasn't measured; None if it was.
    """
    good = [] if failure else list(rounds)
    energy, reason = _find_energy(good, idle) if no_energy_reason is None else (None, no_energy_reason)
    return ChoiceResult(
        choice=choice,
        runtime_version=rounds[0].runtime_version if rounds else None,
        failure=failure,
        latency=_find_latency([one.latency for one in good if one.latency]),
        energy=energy,
        energy_missing_reason=failure.message if failure else reason,
        load_s=statistics.median(one.load_s for one in good) if good else None,
        first_inference_s=statistics.median(one.first_inference_s for one in good) if good else None,
        peak_rss_bytes=max((one.peak_rss_bytes for one in good), default=None),
        flags=_find_caveats(good, settings, idle),
        rounds=tuple(rounds),
    )


def _find_caveats(rounds: Sequence[Round], settings: BenchSettings, idle: Idle | None) -> tuple[Caveat, ...]:
    caveats: list[Caveat] = []
    if not settings.conforms:
        caveats.append(
            Caveat("too_short", f"{settings.rounds} rounds of {settings.latency_s:g} s: a first look, not a measurement")
        )
    if rounds and len(rounds) < settings.rounds:
        detail = f"{len(rounds)} of {settings.rounds} rounds were measured"
        caveats.append(Caveat("interrupted", detail, settings.rounds - len(rounds)))
    conditions = [one.conditions for one in rounds] + ([idle.conditions] if idle else [])
    return (*caveats, *(find_caveats(conditions) if rounds else ()))


def _find_latency(windows: Sequence[InferenceWindow]) -> LatencyFigures | None:
    if not windows:
        return None
    p99s_s = [window.latency_s.p99 for window in windows]
    return LatencyFigures(
        p50_s=find_interval([window.latency_s.p50 for window in windows]),
        p90_s=find_interval([window.latency_s.p90 for window in windows]),
        p99_s=None if None in p99s_s else find_interval([p99_s for p99_s in p99s_s if p99_s is not None]),
        rate_fps=find_interval([window.rate_fps for window in windows]),
        inferences=sum(window.inferences for window in windows),
    )


def _find_energy(rounds: Sequence[Round], idle: Idle | None) -> tuple[EnergyFigures | None, str | None]:
    """The figures, or why there are none. Every window needs a power figure, and all of them from the same meter."""
    windows = [one.energy for one in rounds if one.energy]
    if not windows:
        return None, "no round was measured"
    powers = [window.power for window in windows if window.power]
    if len(powers) < len(windows):
        reasons = _distinct(window.power_missing_reason or "no figure" for window in windows if window.power is None)
        return None, f"in {len(windows) - len(powers)} of {len(windows)} windows: {'; '.join(reasons)}"
    if len({(power.source, power.scope) for power in powers}) > 1:
        return None, "different meters gave the headline figure in different windows"
    return _sum_up_energy(rounds, windows, powers, idle), None


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _sum_up_energy(
    rounds: Sequence[Round], windows: Sequence[InferenceWindow], powers: Sequence[WindowPower], idle: Idle | None
) -> EnergyFigures:
    pairs = list(zip(windows, powers, strict=True))
    return EnergyFigures(
        gross_j=find_interval([energy_per_inference_j(window, power.power_w) for window, power in pairs]),
        net_j=_find_net(pairs, idle),
        power_w=find_interval([power.power_w for power in powers]),
        rate_fps=find_interval([window.rate_fps for window in windows]),
        sampler_slowdown=_find_slowdown(rounds),
        sampler_cpu_share=sum(power.sampler_cpu_s for power in powers) / sum(window.duration_s for window in windows),
        samples=sum(power.samples for power in powers),
        source=powers[0].source,
        scope=powers[0].scope,
        is_estimate=any(power.is_estimate for power in powers),
        resolution_w=max((power.resolution_w for power in powers if power.resolution_w is not None), default=None),
    )


def energy_per_inference_j(window: InferenceWindow, power_w: float) -> float:
    """Energy of the window divided by its inferences. The mean power also stands for the part that the meter didn't cover."""
    return power_w * window.duration_s / window.inferences


def _find_net(pairs: Iterable[tuple[InferenceWindow, WindowPower]], idle: Idle | None) -> MedianRange | None:
    if idle is None or idle.power is None:
        return None
    idle_w = idle.power.power_w
    pairs = list(pairs)
    if any((power.source, power.scope) != (idle.power.source, idle.power.scope) for _, power in pairs):
        return None
    net = find_interval([energy_per_inference_j(window, power.power_w - idle_w) for window, power in pairs])
    return net if net.median > 0 else None


def _find_slowdown(rounds: Sequence[Round]) -> float | None:
    """Compares the two windows within each round, since they were measured one after the other."""
    shares = [1 - one.energy.rate_fps / one.latency.rate_fps for one in rounds if one.latency and one.energy]
    return statistics.median(shares) if shares else None
