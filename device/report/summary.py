"""Sums a run up from its telemetry.

Energy per inference is gross: the energy that the meter counted over the time that it covered, divided by the inferences of
that time. Idle power is not subtracted. A gap adds neither energy nor time nor inferences.

Power of different origins (source, scope, measured or estimated) is never added up.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from device.protocols import MeterRecord, PowerOrigin, RunRecord
from device.report.throttling import Throttling, judge_throttling
from device.telemetry.read import Band, Extent, Interruptions, PowerSums, SourceSums, Store


class RunPower(PowerOrigin, frozen=True, kw_only=True):
    """Power of a run by one source.

    Attributes:
        power_w: mean over ``covered_s``.
        least_w: least of the intervals; None for a meter that isn't the headline's: it has one figure per run.
        most_w: greatest of the intervals; None for a meter that isn't the headline's.
        energy_j: over ``covered_s``.
        covered_s: time that the meter covered; the rest is a gap.
        covered_frames: inferences of that time.
        energy_per_inference_j: gross; None where there were no inferences.
        fps_per_w: inferences per joule; None where there was no energy.
    """

    power_w: float
    least_w: float | None
    most_w: float | None
    energy_j: float
    covered_s: float
    covered_frames: float
    energy_per_inference_j: float | None
    fps_per_w: float | None


class RunReport(msgspec.Struct, frozen=True):
    """A run.

    Attributes:
        file: the store that it is in.
        run: what ran, and where.
        length_s: from the start of its first interval to the end of its last.
        recorded_s: the part of it that intervals cover.
        gaps: times between intervals of which nothing was recorded.
        gaps_s: their total duration.
        intervals: how many.
        frames: inferences.
        dropped: frames that were never looked at.
        unknown: frames that were not named; None where the store is older than that column.
        fps: inferences by recorded time.
        least_fps: least of the intervals.
        most_fps: greatest of the intervals.
        latency_s: ``p50``, ``p90``, ``p99`` -> the least, the median and the greatest of the intervals' percentiles. These are
            not the run's own percentiles, which can't be computed from them.
        power: by origin; empty where there is no figure. The headline's from the intervals, other meters' from their totals.
        meters: each meter's total, and what reading them cost; empty where the store is older than that table.
        unmarked_power_intervals: intervals whose power doesn't say where it comes from; it is left out.
        temperature_c: least, mean and greatest.
        frequency_hz: least and greatest.
        throttling: of the whole run.
        heat_limited_s: duration of the intervals in which the profile's limit on heat held it to a lower rate, for all or part
            of them: intervals of an old run last a minute or an hour. None where the store is older than that column.
        interruptions: by source and reason.
        sources: what each gave.
        most_rss_bytes: the most memory at any interval's end.
    """

    file: str
    run: RunRecord
    length_s: float
    recorded_s: float
    gaps: int
    gaps_s: float
    intervals: int
    frames: int
    dropped: int
    unknown: int | None
    fps: float
    least_fps: float
    most_fps: float
    latency_s: dict[str, Band]
    power: tuple[RunPower, ...]
    meters: tuple[MeterRecord, ...]
    unmarked_power_intervals: int
    temperature_c: tuple[float, float, float] | None
    frequency_hz: tuple[float, float] | None
    throttling: Throttling
    heat_limited_s: float | None
    interruptions: tuple[Interruptions, ...]
    sources: tuple[SourceSums, ...]
    most_rss_bytes: int


def summarise_run(store: Store, run: RunRecord, extent: Extent) -> RunReport:
    """Sums a run up.

    Args:
        store: that it is in.
        run: one of the store's.
        extent: of the run.
    """
    sums = store.sum_up(run.run_id)
    _, gaps, gaps_s = store.read_gaps(run.run_id, near_s=extent.end_s - extent.start_s)
    fps = rate(sums.frames, sums.recorded_s)
    meters = tuple(store.list_meters(run.run_id))
    bands = {name: store.find_band(run.run_id, f"latency_{name}_s") for name in ("p50", "p90", "p99")}
    return RunReport(
        file=str(store.path),
        run=run,
        length_s=extent.end_s - extent.start_s,
        recorded_s=sums.recorded_s,
        gaps=gaps,
        gaps_s=gaps_s,
        intervals=extent.rows,
        frames=sums.frames,
        dropped=sums.dropped,
        unknown=sums.unknown,
        fps=fps,
        least_fps=sums.least_fps,
        most_fps=sums.most_fps,
        latency_s={name: band for name, band in bands.items() if band is not None},
        power=_list_power(store.sum_power(run.run_id), meters, fps),
        meters=meters,
        unmarked_power_intervals=sums.unmarked_power_rows,
        temperature_c=_all(sums.least_temperature_c, sums.mean_temperature_c, sums.most_temperature_c),
        frequency_hz=_both(sums.least_frequency_hz, sums.most_frequency_hz),
        throttling=judge_throttling(store.sum_throttling(run.run_id)),
        heat_limited_s=sums.heat_limited_s,
        interruptions=tuple(store.sum_interruptions(run.run_id, extent.end_s)),
        sources=tuple(store.sum_sources(run.run_id)),
        most_rss_bytes=sums.most_rss_bytes,
    )


def join_power(powers: Sequence[RunPower]) -> RunPower:
    """Power of one origin over several runs: from its sums, not the mean of means."""
    energy_j = sum(power.energy_j for power in powers)
    covered_s = sum(power.covered_s for power in powers)
    return _run_power(powers[0].origin, energy_j, covered_s, sum(power.covered_frames for power in powers))


def rate(frames: int, length_s: float) -> float:
    """Frames per second; 0 over no time."""
    return frames / length_s if length_s > 0 else 0.0


def _list_power(sums: Sequence[PowerSums], meters: Sequence[MeterRecord], fps: float) -> tuple[RunPower, ...]:
    """By origin. A meter that isn't the headline's has a total only: its inferences are the run's rate times its time."""
    found = [
        _run_power(one.origin, one.energy_j, one.covered_s, one.frames, one.least_w, one.most_w)
        for one in sums
        if one.covered_s > 0
    ]
    known = {one.origin for one in found}
    found += [
        _run_power(meter.origin, meter.energy_j, meter.covered_s, fps * meter.covered_s)
        for meter in meters
        if meter.origin not in known and meter.energy_j is not None and meter.covered_s > 0
    ]
    return tuple(found)


def _run_power(
    origin: PowerOrigin,
    energy_j: float,
    covered_s: float,
    frames: float,
    least_w: float | None = None,
    most_w: float | None = None,
) -> RunPower:
    return RunPower(
        **msgspec.structs.asdict(origin),
        power_w=energy_j / covered_s,
        least_w=least_w,
        most_w=most_w,
        energy_j=energy_j,
        covered_s=covered_s,
        covered_frames=frames,
        energy_per_inference_j=energy_j / frames if frames > 0 else None,
        fps_per_w=frames / energy_j if energy_j > 0 else None,
    )


def _all(*values: float | None) -> tuple[float, float, float] | None:
    low, middle, high = values
    return None if low is None or middle is None or high is None else (low, middle, high)


def _both(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
