"""From rounds to figures: medians, and how sure they are.

The range from the least to the greatest of n independent rounds misses the true median only where all of them lie above it, or
all below: with probability ``2 * 0.5 ** n``, whatever the distribution. So five rounds give a confidence of 93.75 %. It holds
for what rounds on this machine in this hour give. Rounds that follow each other hang together a little, which is why choices
take turns: the five are spread over the whole benchmark.

References:
    Hahn and Meeker, Statistical Intervals (1991), section 5.2: distribution-free intervals from order statistics.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from device.bench.conditions import find_flags
from device.bench.result import (
    Choice,
    ChoiceResult,
    EnergyFigures,
    Failure,
    Flag,
    Idle,
    Interval,
    LatencyFigures,
    Round,
    Settings,
    Window,
    WindowPower,
)


def find_interval(values: Sequence[float]) -> Interval:
    """Median, least, greatest, and how sure that range is. One round alone has a confidence of 0."""
    return Interval(
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        confidence=find_confidence(len(values)),
        rounds=len(values),
    )


def find_confidence(rounds: int) -> float:
    """That the range of so many rounds holds the true median, 0..1."""
    return 1 - 2 * 0.5**rounds


def overlap(one: Interval, other: Interval) -> bool:
    """Whether two measurements can be of the same thing, by their own ranges."""
    return one.low <= other.high and other.low <= one.high


def summarise_choice(
    choice: Choice,
    rounds: Sequence[Round],
    failure: Failure | None,
    settings: Settings,
    idle: Idle | None,
    no_energy_reason: str | None,
) -> ChoiceResult:
    """Makes a choice's figures. A choice that failed has none, however many rounds went well before.

    Args:
        choice: what was measured.
        rounds: of it.
        failure: that ended them.
        settings: for the flags.
        idle: for net figures.
        no_energy_reason: why no energy was measured at all; None where it was.
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
        flags=_find_flags(good, settings, idle),
        rounds=tuple(rounds),
    )


def _find_flags(rounds: Sequence[Round], settings: Settings, idle: Idle | None) -> tuple[Flag, ...]:
    flags: list[Flag] = []
    if not settings.conforms:
        flags.append(
            Flag("too_short", f"{settings.rounds} rounds of {settings.latency_s:g} s: a first look, not a measurement")
        )
    if rounds and len(rounds) < settings.rounds:
        detail = f"{len(rounds)} of {settings.rounds} rounds were measured"
        flags.append(Flag("interrupted", detail, settings.rounds - len(rounds)))
    conditions = [one.conditions for one in rounds] + ([idle.conditions] if idle else [])
    return (*flags, *(find_flags(conditions) if rounds else ()))


def _find_latency(windows: Sequence[Window]) -> LatencyFigures | None:
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
    """The figures, or why there are none: one window without power spoils the choice, as another meter within it does."""
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
    rounds: Sequence[Round], windows: Sequence[Window], powers: Sequence[WindowPower], idle: Idle | None
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


def energy_per_inference_j(window: Window, power_w: float) -> float:
    """The window's energy by its inferences; the meter's mean stands for the little of the window that it didn't cover."""
    return power_w * window.duration_s / window.inferences


def _find_net(pairs: Iterable[tuple[Window, WindowPower]], idle: Idle | None) -> Interval | None:
    if idle is None or idle.power is None:
        return None
    idle_w = idle.power.power_w
    pairs = list(pairs)
    if any((power.source, power.scope) != (idle.power.source, idle.power.scope) for _, power in pairs):
        return None
    net = find_interval([energy_per_inference_j(window, power.power_w - idle_w) for window, power in pairs])
    return net if net.median > 0 else None


def _find_slowdown(rounds: Sequence[Round]) -> float | None:
    """Pair by pair, as the two windows of a round were measured one after the other."""
    shares = [1 - one.energy.rate_fps / one.latency.rate_fps for one in rounds if one.latency and one.energy]
    return statistics.median(shares) if shares else None
