"""Reads the meters while a run goes on, and integrates what they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Self

import msgspec

from device.clock import SystemClock
from device.protocols import Clock, PowerFigure, PowerMeter, PowerSample
from device.resources import Resource

MAX_GAP_PERIODS = 5
MIN_GAP_S = 0.5
"""Samples further apart than so many periods, and than this, have nothing between them: a line through them would be a guess.
On a busy board a thread may well be late by a few periods of a fast sampler."""


class PowerSampler(Resource):
    """Reads meters in a thread of its own, at a steady rate.

    A meter that fails leaves a gap: that time has no figure, and no old one stands in. A meter that hangs stops the sampling,
    and nothing else; `stop` gives up on it.

    ``with`` starts and stops it; in between, `take` as often as wanted, from one thread. It is a `PowerReader` of the headline
    meter, and knows the other meters by their place in the list. The meters belong to the caller, who closes them afterwards.

    Args:
        meters: open meters, the headline's first.
        sample_rate_hz: how often all of them are read.
        clock: measures the spans.
    """

    def __init__(self, meters: Sequence[PowerMeter], sample_rate_hz: float, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._period_s = 1.0 / sample_rate_hz
        max_gap_ns = round(max(MIN_GAP_S, MAX_GAP_PERIODS * self._period_s) * 1e9)
        self._tracks = [_Track(meter, max_gap_ns) for meter in meters]
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._cpu_time_s = 0.0
        self._thread = threading.Thread(target=self._sample_until_stopped, name="power-sampler", daemon=True)

    def start(self) -> None:
        """Begins to sample. Called once."""
        self._thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def stop(self, timeout_s: float = 1.0) -> bool:
        """Ends the sampling; may be called twice.

        Returns:
            False where a meter hangs, so that the thread still waits for it after ``timeout_s``.
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Calls `stop`."""
        self.stop()

    def sample(self) -> None:
        """Reads each meter once. The thread's work; tests without a thread call it themselves."""
        for track in self._tracks:
            try:
                sample = track.meter.read()
            except Exception as error:  # A meter from outside may raise anything: it must not end the others' sampling.
                with self._lock:
                    track.miss(str(error))
            else:
                now_ns = self._clock.now_ns()
                with self._lock:
                    track.add(sample, now_ns)

    def take(self, meter: int = 0) -> PowerFigure | None:
        """Sums up what a meter saw since the last `take` of it, or since the start; None where it saw nothing."""
        with self._lock:
            return self._tracks[meter].take()

    def total(self, meter: int = 0) -> PowerFigure | None:
        """Sums up what a meter has seen since the start; None where it saw nothing."""
        with self._lock:
            return self._tracks[meter].total()

    def error(self, meter: int = 0) -> str | None:
        """Says why a meter's latest read failed; None where it did not."""
        with self._lock:
            return self._tracks[meter].error

    @property
    def cpu_time_s(self) -> float:
        """Processor time that the sampling itself has taken: what it adds to the power that it measures."""
        with self._lock:
            return self._cpu_time_s

    def _sample_until_stopped(self) -> None:
        # By the system's clock: the wait must end early when `stop` is called.
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            self.sample()
            with self._lock:
                self._cpu_time_s = time.thread_time()
            due_s = max(due_s + self._period_s, time.monotonic())


class _Sum(msgspec.Struct):
    """Energy, and the time that it belongs to."""

    energy_j: float = 0.0
    covered_ns: int = 0


class _Track:
    """One meter's figures."""

    def __init__(self, meter: PowerMeter, max_gap_ns: int) -> None:
        self.meter = meter
        self.error: str | None = None
        self._max_gap_ns = max_gap_ns
        self._window = _Sum()
        self._total = _Sum()
        self._last_ns: int | None = None
        self._last_w: float | None = None

    def miss(self, error: str) -> None:
        self.error = error
        self._last_ns = self._last_w = None

    def add(self, sample: PowerSample | None, now_ns: int) -> None:
        self.error = None
        if sample is None:
            # A counter's first reading: its energy counts from here.
            self._last_ns = now_ns if self._last_ns is None else self._last_ns
            return
        if self._last_ns is not None and sample.timestamp_ns > self._last_ns:
            self._integrate(sample, sample.timestamp_ns - self._last_ns)
        self._last_ns, self._last_w = sample.timestamp_ns, sample.power_w

    def _integrate(self, sample: PowerSample, span_ns: int) -> None:
        energy_j = sample.energy_j
        if energy_j is None:
            if self._last_w is None or span_ns > self._max_gap_ns:
                return
            energy_j = (self._last_w + sample.power_w) / 2 * span_ns / 1e9
        for total in (self._window, self._total):
            total.energy_j += energy_j
            total.covered_ns += span_ns

    def take(self) -> PowerFigure | None:
        window, self._window = self._window, _Sum()
        return self._summarise(window)

    def total(self) -> PowerFigure | None:
        return self._summarise(self._total)

    def _summarise(self, total: _Sum) -> PowerFigure | None:
        if not total.covered_ns:
            return None
        covered_s = total.covered_ns / 1e9
        return PowerFigure(
            power_w=total.energy_j / covered_s,
            energy_j=total.energy_j,
            covered_s=covered_s,
            source=self.meter.source,
            scope=self.meter.scope,
            is_estimate=self.meter.is_estimate,
        )
