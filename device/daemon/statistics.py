"""Durations in bounded memory: a run may last for months."""

from __future__ import annotations

import math
from collections import Counter

from device.protocols import Percentiles

_SMALLEST_S = 1e-6
_GROWTH = 1.01
_LOG_GROWTH = math.log(_GROWTH)


class DurationHistogram:
    """Counts durations in buckets that grow by 1 %, so that any percentile is within 0.5 %.

    Memory is bounded by the range of the durations, not by their number: a microsecond to an hour is 2,212 buckets.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._count = 0
        self._total_s = 0.0

    def add(self, duration_s: float) -> None:
        """Counts one duration; anything below a microsecond counts as a microsecond."""
        self._buckets[int(math.log(max(duration_s, _SMALLEST_S) / _SMALLEST_S) / _LOG_GROWTH)] += 1
        self._count += 1
        self._total_s += duration_s

    def __len__(self) -> int:
        return self._count

    @property
    def mean_s(self) -> float | None:
        """Mean; None while empty."""
        return self._total_s / self._count if self._count else None

    def percentile(self, share: float) -> float | None:
        """The duration that ``share`` of the durations don't exceed, by nearest rank; None while empty."""
        rank = max(1, math.ceil(share * self._count))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                # The middle of the bucket, in logarithms.
                return _SMALLEST_S * math.exp((bucket + 0.5) * _LOG_GROWTH)
        return None

    def percentiles(self) -> Percentiles | None:
        """p50, p90 and p99; None while empty."""
        found = [self.percentile(share) for share in (0.50, 0.90, 0.99)]
        if None in found:
            return None
        p50, p90, p99 = (float(value) for value in found if value is not None)
        return Percentiles(p50, p90, p99)
