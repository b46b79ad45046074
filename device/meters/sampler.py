"""Reads the meters during a run, and integrates what they give."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Self

import msgspec

from device.core.clock import SystemClock
from device.core.resources import Resource
from device.protocols import Clock, MeterTotal, PowerFigure, PowerMeter, PowerSample

MAX_GAP_PERIODS = 5
MIN_GAP_S = 0.5
"""Samples further apart than so many periods, and than this, have nothing between them: a line through them would be a guess.
On a busy board a thread may well be late by a few periods of a fast sampler."""

MAX_GAP_METER_PERIODS = 2.5
"""The same for a meter that is slower than the sampler, in its own periods: one answer may be missed or late, but not two."""


class PowerSampler(Resource):
    """Reads each meter in a thread of its own, at a steady rate.

    A meter that fails leaves a gap: that time has no figure, and no older one replaces it. A meter that hangs leaves a gap too,
    and doesn't delay the others; `stop` gives up on it.

    ``with`` starts and stops it; in between, `take` as often as wanted, from one thread. It is a `PowerReader` of the headline
    meter, and knows the other meters by their place in the list. The meters belong to the caller, who closes them afterwards.

    Args:
        meters: open meters, the headline's first.
        sample_rate_hz: how often each of them is read.
        clock: measures the spans.
    """

    def __init__(self, meters: Sequence[PowerMeter], sample_rate_hz: float, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        period_s = 1.0 / sample_rate_hz
        self._tracks = [_Track(meter, period_s, clock) for meter in meters]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=track.sample_until, args=(self._stopping,), name=f"power-sampler-{index}", daemon=True)
            for index, track in enumerate(self._tracks)
        ]

    def start(self) -> None:
        """Begins to sample. Called once."""
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def stop(self, timeout_s: float = 1.0) -> bool:
        """Ends the sampling; may be called twice.

        Returns:
            False where a meter hangs, so that a thread still waits for it after ``timeout_s``.
        """
        self._stopping.set()
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Calls `stop`."""
        self.stop()

    def sample(self) -> None:
        """Reads each meter once, one after the other: for those who don't start the threads."""
        for track in self._tracks:
            track.sample()

    def take(self, meter: int = 0) -> PowerFigure | None:
        """Sums up what a meter saw since the last `take` of it, or since the start; None where it saw nothing."""
        return self._tracks[meter].take()

    def total(self, meter: int = 0) -> PowerFigure | None:
        """Sums up what a meter has seen since the start; None where it saw nothing."""
        return self._tracks[meter].total()

    def figures(self) -> tuple[MeterTotal, ...]:
        """Sums up what every meter has seen since the start, the headline's first."""
        return tuple(track.describe() for track in self._tracks)

    def error(self, meter: int = 0) -> str | None:
        """Why a meter gives nothing now: a read failed since its latest sample, or it hangs; None where neither is so."""
        return self._tracks[meter].error()

    @property
    def overhead_cpu_s(self) -> float:
        """Processor time that the sampling itself has taken: what it adds to the power that it measures.

        Programs that a meter spawns aren't included.
        """
        return sum(track.cpu_time_s for track in self._tracks)


class _Sum(msgspec.Struct):
    """Energy, and the time that it belongs to."""

    energy_j: float = 0.0
    covered_ns: int = 0


class _Track:
    """One meter, and its figures."""

    def __init__(self, meter: PowerMeter, period_s: float, clock: Clock) -> None:
        self._meter = meter
        self._clock = clock
        self._period_s = period_s
        self._max_gap_s = max(MIN_GAP_S, MAX_GAP_PERIODS * period_s)
        self._max_wait_s = self._max_gap_s + meter.timeout_s
        self._lock = threading.Lock()
        self._window = _Sum()
        self._total = _Sum()
        self._last_ns: int | None = None
        self._last_w: float | None = None
        self._samples = 0
        self._spans = 0
        self._failed = 0
        self._error: str | None = None
        self._latest_error: str | None = None
        self._asked_ns: int | None = None
        self._cpu_time_s = 0.0

    # --- called by the meter's thread ---------------------------------------------------------------------------------

    def sample_until(self, stopping: threading.Event) -> None:
        # By the system's clock: the wait must end early when the sampler is stopped.
        due_s = time.monotonic()
        while not stopping.wait(max(0.0, due_s - time.monotonic())):
            self.sample()
            cpu_time_s = time.thread_time()
            with self._lock:
                self._cpu_time_s = cpu_time_s
            due_s = max(due_s + self._period_s, time.monotonic())

    def sample(self) -> None:
        with self._lock:
            self._asked_ns = self._clock.now_ns()
        try:
            sample = self._meter.read()
        except Exception as error:  # A meter from outside may raise anything: its thread must go on.
            with self._lock:
                self._asked_ns = None
                self._miss(" ".join(str(error).split()) or type(error).__name__)
        else:
            now_ns = self._clock.now_ns()
            with self._lock:
                self._asked_ns = None
                self._add(sample, now_ns)

    def _miss(self, error: str) -> None:
        self._failed += 1
        self._error = self._latest_error = error
        self._last_ns = self._last_w = None

    def _add(self, sample: PowerSample | None, now_ns: int) -> None:
        if sample is None:
            # A counter's first reading: its energy counts from here. What failed before holds until there is a sample.
            self._last_ns = now_ns if self._last_ns is None else self._last_ns
            return
        self._error = None
        self._samples += 1
        if self._last_ns is not None and sample.timestamp_ns > self._last_ns:
            self._integrate(sample, sample.timestamp_ns - self._last_ns)
        self._last_ns, self._last_w = sample.timestamp_ns, sample.power_w

    def _integrate(self, sample: PowerSample, span_ns: int) -> None:
        energy_j = sample.energy_j
        if energy_j is None:
            max_gap_s = max(self._max_gap_s, MAX_GAP_METER_PERIODS * sample.period_s)
            if self._last_w is None or span_ns > max_gap_s * 1e9:
                return
            energy_j = (self._last_w + sample.power_w) / 2 * span_ns / 1e9
        self._spans += 1
        for total in (self._window, self._total):
            total.energy_j += energy_j
            total.covered_ns += span_ns

    # --- called by others ---------------------------------------------------------------------------------------------

    @property
    def cpu_time_s(self) -> float:
        with self._lock:
            return self._cpu_time_s

    def take(self) -> PowerFigure | None:
        with self._lock:
            window, self._window = self._window, _Sum()
        return self._summarise(window)

    def total(self) -> PowerFigure | None:
        with self._lock:
            return self._summarise(self._total)

    def error(self) -> str | None:
        with self._lock:
            return self._describe_hang() or self._error

    def describe(self) -> MeterTotal:
        with self._lock:
            figure = self._summarise(self._total)
            return MeterTotal(
                **msgspec.structs.asdict(self._meter.origin),
                resolution_w=self._meter.resolution_w,
                power_w=figure.power_w if figure else None,
                energy_j=figure.energy_j if figure else None,
                covered_s=figure.covered_s if figure else 0.0,
                sample_rate_hz=self._spans / figure.covered_s if figure else None,
                samples=self._samples,
                failed=self._failed,
                error=self._describe_hang() or self._latest_error,
            )

    def _describe_hang(self) -> str | None:
        waited_s = 0.0 if self._asked_ns is None else (self._clock.now_ns() - self._asked_ns) / 1e9
        return f"{self._meter.origin.source}: no answer for {waited_s:.1f} s" if waited_s > self._max_wait_s else None

    def _summarise(self, total: _Sum) -> PowerFigure | None:
        if not total.covered_ns:
            return None
        covered_s = total.covered_ns / 1e9
        return PowerFigure(
            power_w=total.energy_j / covered_s,
            energy_j=total.energy_j,
            covered_s=covered_s,
            **msgspec.structs.asdict(self._meter.origin),
        )
