"""A sink that blocks for ever doesn't make results late. Time is the test's: no machine is too slow for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from device.contract import Preprocessing, RateLimits
from device.core.clock import ManualClock
from device.daemon.pipeline import Pipeline
from device.protocols import Array, Event, FrameDone, Image, Tick
from device.sinks.background import BackgroundSink
from device.sinks.base import SinkPlugin
from device.sources.base import SourceOptions
from device.sources.uri import open_source
from tests.unit.fakes import LABELS, SIDE_PX, ColourSession

RATE_FPS = 10.0
PERIOD_S = 1 / RATE_FPS
FRAMES = 60
CAPACITY = 4
GUARD_S = 20.0


class SteppedClock(ManualClock):
    """Sleepers wait until another thread moves the clock, which returns once they have done what fell due and sleep again."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._wake_ns: int | None = None
        self._is_over = False

    def sleep(self, duration_s: float) -> None:
        with self._changed:
            self._wake_ns = self.now_ns() + round(duration_s * 1e9)
            self._changed.notify_all()
            assert self._changed.wait_for(self._is_time, GUARD_S)
            self._wake_ns = None
            if self._is_over:
                self.advance(duration_s)

    def step(self, duration_s: float) -> None:
        """Moves the clock, and waits for the sleeper."""
        with self._changed:
            self.advance(duration_s)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._is_time(), GUARD_S)

    def end(self) -> None:
        """Lets the sleeper go; from now on who sleeps moves the clock."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _is_time(self) -> bool:
        return self._is_over or self._wake_ns is None or self._wake_ns <= self.now_ns()


class SteppingSession(ColourSession):
    """Takes its time on the stepped clock, while the source goes on."""

    def __init__(self, clock: SteppedClock, inference_s: float) -> None:
        super().__init__()
        self._stepped = clock
        self._inference_s = inference_s

    def run(self, pixels: Image) -> Array:
        for _ in range(10):
            self._stepped.step(self._inference_s / 10)
        return super().run(pixels)


class BlockedSink(SinkPlugin):
    """Takes a record and never comes back."""

    queue_capacity = CAPACITY

    def __init__(self) -> None:
        self.is_blocked = threading.Event()
        self.release = threading.Event()

    def write(self, event: Event) -> None:
        self.is_blocked.set()
        self.release.wait()


class Listener:
    """Hands results to the sink, and notes how old each is by then. While the loop has nothing to do, time passes."""

    def __init__(self, clock: SteppedClock, sink: BlockedSink, background: BackgroundSink) -> None:
        self._clock = clock
        self._sink = sink
        self._background = background
        self._taken = -1
        self.ages_s: list[float] = []

    def __call__(self, event: Event) -> None:
        assert isinstance(event, FrameDone | Tick)
        if isinstance(event, Tick):
            self._wait()
            return
        self._background.write(event)
        assert self._sink.is_blocked.wait(GUARD_S)
        self._taken = event.prediction.index
        self.ages_s.append((self._clock.now_ns() - event.prediction.timestamp_ns) / 1e9)

    def _wait(self) -> None:
        if len(self.ages_s) == FRAMES:
            self._clock.end()
            return
        next_s = (self._taken + 1) * PERIOD_S
        self._clock.step(max(0.0, next_s - self._clock.now_ns() / 1e9))


@pytest.fixture
def blocked() -> Iterator[tuple[BlockedSink, BackgroundSink]]:
    sink = BlockedSink()
    background = BackgroundSink(sink, lambda _: None)
    yield sink, background
    sink.release.set()
    background.close()


def run(inference_s: float, sink: BlockedSink, background: BackgroundSink) -> list[float]:
    """Ages of the results when they are out, in seconds."""
    clock = SteppedClock()
    listener = Listener(clock, sink, background)
    with open_source(f"synthetic:{SIDE_PX}x{SIDE_PX}@{RATE_FPS:g}", SourceOptions(clock=clock)) as source:
        pipeline = Pipeline(
            [source],
            SteppingSession(clock, inference_s),
            preprocessing=Preprocessing(input_px=SIDE_PX),
            labels=LABELS,
            limits=RateLimits(),
            clock=clock,
            stall_timeout_s=60.0,
        )
        worker = threading.Thread(target=pipeline.run, args=(listener,), kwargs={"max_frames": FRAMES}, daemon=True)
        worker.start()
        worker.join(GUARD_S)
        assert not worker.is_alive(), "the loop waits for the sink"
    return listener.ages_s


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_results_are_out_within_two_frame_times_though_the_sink_blocks(
    blocked: tuple[BlockedSink, BackgroundSink], share: float
) -> None:
    sink, background = blocked
    ages_s = run(share * PERIOD_S, sink, background)
    assert len(ages_s) == FRAMES
    assert max(ages_s) < 2 * PERIOD_S
    # All but what waits, and the one in the sink's hands.
    assert background.lost == FRAMES - CAPACITY - 1


def test_a_network_slower_than_the_source_adds_one_frame_time_at_most(
    blocked: tuple[BlockedSink, BackgroundSink],
) -> None:
    sink, background = blocked
    inference_s = 3.3 * PERIOD_S
    ages_s = run(inference_s, sink, background)
    assert len(ages_s) == FRAMES
    assert max(ages_s) <= inference_s + PERIOD_S
