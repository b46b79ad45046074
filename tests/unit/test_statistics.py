from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from device.daemon.statistics import DurationHistogram

durations = st.lists(st.floats(min_value=1e-6, max_value=3600.0), min_size=1, max_size=200)


def histogram_of(values: list[float]) -> DurationHistogram:
    histogram = DurationHistogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(durations, st.floats(min_value=0.01, max_value=1.0))
def test_percentile_is_within_half_a_percent_of_the_nearest_rank(values: list[float], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = histogram_of(values).percentile(share)
    assert found is not None
    assert abs(found / exact - 1.0) < 0.0051


@given(durations)
def test_mean_and_count_are_exact(values: list[float]) -> None:
    histogram = histogram_of(values)
    assert len(histogram) == len(values)
    assert histogram.mean_s is not None
    assert math.isclose(histogram.mean_s, math.fsum(values) / len(values), rel_tol=1e-9)


def test_empty_gives_no_figure() -> None:
    empty = DurationHistogram()
    assert empty.percentile(0.5) is None
    assert empty.percentiles() is None
    assert empty.mean_s is None


def test_a_duration_of_nothing_counts() -> None:
    assert histogram_of([0.0, -1e-9]).percentile(0.5) is not None


def test_memory_is_bounded_by_the_range_not_the_number() -> None:
    histogram = histogram_of([0.005 + 0.0001 * (index % 100) for index in range(100_000)])
    assert len(histogram._buckets) < 120
