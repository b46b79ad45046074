from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from device.contract import Preprocessing, RateLimits
from device.core.clock import ManualClock, SystemClock
from device.core.errors import InferenceError, SourceError
from device.core.resources import Resource
from device.daemon.pipeline import Pipeline, Turns
from device.protocols import (
    Clock,
    Event,
    Frame,
    FrameDamaged,
    FrameDone,
    FrameSource,
    Image,
    Prediction,
    SourceSpec,
    StageTimes,
    Tick,
)
from tests.unit.fakes import LABELS, SIDE_PX, ColourSession, ListSource, coloured


class Log:
    """Remembers what the loop says."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        self.times: list[StageTimes] = []
        self.bad: list[SourceError] = []
        self.dropped_by_source: dict[str, int] = {}
        self.ticks = 0

    @property
    def dropped(self) -> int:
        return sum(self.dropped_by_source.values())

    def __call__(self, event: Event) -> None:
        if isinstance(event, FrameDone):
            self.predictions.append(event.prediction)
            self.times.append(event.times)
        elif isinstance(event, FrameDamaged):
            self.bad.append(event.error)
        elif isinstance(event, Tick):
            self.dropped_by_source = dict(event.dropped)
            self.ticks += 1


def make_pipeline(
    *sources: FrameSource,
    session: ColourSession | None = None,
    clock: Clock | None = None,
    limits: RateLimits | None = None,
    labels: tuple[str, ...] = LABELS,
    temperature: float = 1.0,
    unknown_below: float | None = None,
    rotate_deg: int = 0,
) -> Pipeline:
    return Pipeline(
        sources,
        session or ColourSession(),
        preprocessing=Preprocessing(input_px=SIDE_PX),
        labels=labels,
        limits=limits or RateLimits(),
        clock=clock or SystemClock(),
        stall_timeout_s=5.0,
        temperature=temperature,
        unknown_below=unknown_below,
        rotate_deg=rotate_deg,
    )


def test_every_frame_of_a_file_gets_its_own_label_in_order() -> None:
    colours = ["red", "blue", "dark", "green"] * 5
    log = Log()
    make_pipeline(ListSource([coloured(colour) for colour in colours])).run(log)
    assert [prediction.labels[0] for prediction in log.predictions] == colours
    assert [prediction.origin for prediction in log.predictions] == [f"{index}.png" for index in range(20)]
    assert log.dropped == 0


def test_a_frame_of_another_size_is_fitted() -> None:
    log = Log()
    make_pipeline(ListSource([coloured("green", 100)])).run(log)
    assert log.predictions[0].labels[0] == "green"


def test_an_unsure_frame_is_unknown_and_keeps_its_scores() -> None:
    log = Log()
    # Red scores 3 against 0.5, 0 and 0; dark scores 0.5 against three times 0.
    make_pipeline(ListSource([coloured("red"), coloured("dark")]), unknown_below=0.5).run(log)
    red, dark = log.predictions
    assert (red.label, red.is_unknown) == ("red", False)
    assert (dark.label, dark.is_unknown) == ("unknown", True)
    assert dark.labels[0] == "dark"
    assert dark.scores[0] < 0.5 < red.scores[0]


def test_the_weights_temperature_shapes_the_scores() -> None:
    log = Log()
    make_pipeline(ListSource([coloured("red")]), temperature=0.5, unknown_below=0.9).run(log)
    make_pipeline(ListSource([coloured("red")]), temperature=3.0, unknown_below=0.9).run(log)
    sure, unsure = log.predictions
    assert (sure.label, unsure.label) == ("red", "unknown")
    assert sure.labels == unsure.labels


def test_a_class_that_is_called_unknown_is_a_class() -> None:
    log = Log()
    labels = ("dark", "unknown", "green", "blue")
    make_pipeline(ListSource([coloured("red"), coloured("dark")]), labels=labels, unknown_below=0.5).run(log)
    named, rejected = log.predictions
    assert named.label == rejected.label == "unknown"
    assert (named.is_unknown, rejected.is_unknown) == (False, True)


def test_without_a_threshold_everything_is_named() -> None:
    log = Log()
    make_pipeline(ListSource([coloured("dark")]), temperature=100.0).run(log)
    assert log.predictions[0].label == "dark"


def test_damaged_frames_are_told_and_left_out_wherever_they_stand() -> None:
    bad = SourceError("x.jpg", "no image", reason="decode")
    log = Log()
    make_pipeline(ListSource([bad, coloured("red"), bad, coloured("blue"), bad])).run(log)
    assert [prediction.labels[0] for prediction in log.predictions] == ["red", "blue"]
    assert log.bad == [bad, bad, bad]


def test_what_ends_the_source_is_raised_after_its_last_good_frame() -> None:
    stall = SourceError("camera", "no frame for 5 s", reason="stalled")
    log = Log()
    with pytest.raises(SourceError) as caught:
        make_pipeline(ListSource([coloured("red"), coloured("blue"), stall, coloured("green")])).run(log)
    assert caught.value is stall
    assert len(log.predictions) == 2


def test_a_failing_network_ends_the_run() -> None:
    class Broken(ColourSession):
        def run(self, pixels: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
            raise InferenceError("session", "broken", reason="failed")

    with pytest.raises(InferenceError):
        make_pipeline(ListSource([coloured("red")] * 3), session=Broken()).run(Log())


def test_ends_after_the_given_number_of_frames() -> None:
    session = ColourSession()
    log = Log()
    make_pipeline(ListSource([coloured("red")] * 50), session=session).run(log, max_frames=7)
    assert len(log.predictions) == session.runs == 7


def test_ends_after_the_given_time() -> None:
    clock = ManualClock()
    log = Log()
    session = ColourSession(clock, duration_s=0.3)
    make_pipeline(ListSource([coloured("red")] * 50, clock=clock), session=session, clock=clock).run(log, max_duration_s=1.0)
    assert len(log.predictions) == 4  # the fourth begins at 0.9 s


class LiveSource(Resource):
    """Gives a frame whenever the test lets it."""

    def __init__(self) -> None:
        self.spec = SourceSpec(uri="live:", is_live=True)
        self.given = 0
        self.allowed = threading.Semaphore(0)

    def read(self, timeout_s: float) -> Frame | None:
        if not self.allowed.acquire(timeout=timeout_s):
            raise SourceError("live", "no frame", reason="stalled")
        self.given += 1
        return Frame(coloured("red"), 0, self.given - 1)


class ReleasingSession(ColourSession):
    """Lets three frames come while it works, and waits until they have."""

    def __init__(self, source: LiveSource, enough: threading.Event) -> None:
        super().__init__()
        self._source = source
        self._enough = enough

    def run(self, pixels: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        for _ in range(3):
            self._source.allowed.release()
        wanted = 3 * (self.runs + 1)
        while self._source.given <= wanted - 1:
            self._enough.wait(0.001)
        return super().run(pixels)


def test_a_live_source_overtakes_a_slow_network_and_the_newest_frame_is_taken() -> None:
    source = LiveSource()
    log = Log()
    source.allowed.release()
    make_pipeline(source, session=ReleasingSession(source, threading.Event())).run(log, max_frames=4)
    indices = [prediction.index for prediction in log.predictions]
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert log.dropped >= indices[-1] - len(indices) + 1
    assert log.dropped > 0


def test_frames_that_the_source_dropped_itself_are_counted() -> None:
    class Skipping(ListSource):
        def read(self, timeout_s: float) -> Frame | None:
            frame = super().read(timeout_s)
            return frame and Frame(frame.pixels, frame.timestamp_ns, frame.index * 3, frame.origin)

    log = Log()
    make_pipeline(Skipping([coloured("red")] * 5)).run(log)
    assert [prediction.index for prediction in log.predictions] == [0, 3, 6, 9, 12]
    assert log.dropped == 8


def test_every_frame_of_several_sources_is_looked_at_and_knows_its_own() -> None:
    log = Log()
    many, few = ListSource([coloured("red")] * 30, uri="list:many"), ListSource([coloured("blue")] * 5, uri="list:few")
    make_pipeline(many, few).run(log)
    assert sorted(prediction.source for prediction in log.predictions) == ["list:few"] * 5 + ["list:many"] * 30
    assert all(prediction.label == ("red" if prediction.source == "list:many" else "blue") for prediction in log.predictions)


def test_sources_that_all_have_frames_take_turns() -> None:
    sources = [ListSource([coloured("red")] * 8, uri=f"list:{name}") for name in "abc"]
    order: list[str] = []
    with Turns(sources, SystemClock(), stall_timeout_s=5.0) as turns:
        for _ in range(18):
            deadline_s = time.monotonic() + 30.0
            while not all(reader.has_news for reader in turns._readers) and time.monotonic() < deadline_s:
                time.sleep(0.001)
            captured = turns.take(1.0)
            assert captured is not None
            order.append(captured.source)
    assert order == ["list:a", "list:b", "list:c"] * 6


def test_a_source_that_gives_nothing_does_not_slow_another() -> None:
    stalled = LiveSource()
    log = Log()
    make_pipeline(stalled, ListSource([coloured("blue")] * 50, uri="list:well")).run(log, max_frames=50)
    assert [prediction.source for prediction in log.predictions] == ["list:well"] * 50
    assert log.dropped_by_source == {"live:": 0, "list:well": 0}
    stalled.allowed.release()


def test_the_failure_of_one_source_ends_the_run() -> None:
    stall = SourceError("camera", "no frame for 120 s", reason="stalled")
    live = LiveSource()
    with pytest.raises(SourceError) as caught:
        make_pipeline(live, ListSource([coloured("red"), stall], uri="list:bad")).run(Log())
    assert caught.value is stall
    live.allowed.release()


def test_a_source_that_mends_itself_is_read_on() -> None:
    again = SourceError("camera", "is being opened again", reason="interrupted")
    log = Log()
    make_pipeline(ListSource([coloured("red"), again, again, coloured("blue")])).run(log)
    assert [prediction.label for prediction in log.predictions] == ["red", "blue"]
    assert not log.bad


def test_frames_are_turned_as_the_profile_says() -> None:
    # A network that sees the top half only: red above, turned by half it is blue that it sees.
    class TopHalf(ColourSession):
        def run(self, pixels: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
            top = np.repeat(pixels[:, : SIDE_PX // 2], 2, axis=1)
            return super().run(top)

    picture = np.concatenate([coloured("red")[: SIDE_PX // 2], coloured("blue")[: SIDE_PX // 2]])
    upright, turned = Log(), Log()
    make_pipeline(ListSource([picture]), session=TopHalf()).run(upright)
    make_pipeline(ListSource([picture]), session=TopHalf(), rotate_deg=180).run(turned)
    assert (upright.predictions[0].label, turned.predictions[0].label) == ("red", "blue")


def test_stop_ends_a_source_that_never_does() -> None:
    source = LiveSource()
    pipeline = make_pipeline(source)
    worker = threading.Thread(target=pipeline.run, args=(Log(),))
    worker.start()
    source.allowed.release()
    pipeline.stop()
    worker.join(timeout=10.0)
    assert not worker.is_alive()


def test_keeps_to_the_profiles_rate() -> None:
    clock = ManualClock()
    log = Log()
    session = ColourSession(clock, duration_s=0.05)
    pipeline = make_pipeline(
        ListSource([coloured("red")] * 5, clock=clock), session=session, clock=clock, limits=RateLimits(max_rate_fps=2.0)
    )
    pipeline.run(log)
    # Four waits of half a second; a fifth if the end was seen late.
    assert 2.0 <= clock.now_ns() / 1e9 <= 2.6


def test_heat_holds_the_loop_to_a_lower_rate_until_it_is_lifted() -> None:
    clock = ManualClock()
    sessions = ColourSession(clock, duration_s=0.05)
    frames = [coloured("red")] * 9
    pipeline = make_pipeline(
        ListSource(frames, clock=clock), session=sessions, clock=clock, limits=RateLimits(max_rate_fps=4.0)
    )

    class Hot(Log):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, FrameDone):
                pipeline.limit_rate(1.0 if 3 <= event.prediction.index < 6 else None)

    log = Hot()
    pipeline.run(log)
    # Three periods of a second, five of a quarter; one more if the end was seen late.
    assert 4.2 <= clock.now_ns() / 1e9 <= 4.7


def test_times_of_the_stages_are_told_apart() -> None:
    clock = ManualClock()
    log = Log()
    make_pipeline(ListSource([coloured("red")], clock=clock), session=ColourSession(clock, 0.25), clock=clock).run(log)
    assert log.times[0].inference_s == 0.25
    assert log.times[0].preprocess_s == log.times[0].postprocess_s == 0.0
    assert log.predictions[0].latency_s == 0.25


SLOW = RateLimits(max_rate_fps=0.1)


def test_a_low_rate_does_not_lengthen_the_given_time() -> None:
    clock = ManualClock()
    frames = ListSource([coloured("red")] * 5, clock=clock)
    make_pipeline(frames, clock=clock, limits=SLOW).run(Log(), max_duration_s=3.0)
    assert clock.now_ns() == 3 * 10**9


def test_after_the_last_of_the_given_frames_nothing_is_waited_for() -> None:
    clock = ManualClock()
    log = Log()
    make_pipeline(ListSource([coloured("red")] * 5, clock=clock), clock=clock, limits=SLOW).run(log, max_frames=2)
    assert len(log.predictions) == 2
    assert clock.now_ns() == 10 * 10**9


def test_every_reader_is_told_to_stop_before_one_is_waited_for() -> None:
    told = threading.Event()

    class Blocked(LiveSource):
        """Its driver hangs until the other source was told."""

        def read(self, timeout_s: float) -> Frame | None:
            told.wait(60.0)
            return None

    class Waiting(ListSource):
        """Its second frame is asked for once the first was taken, or the reader was told to stop."""

        def read(self, timeout_s: float) -> Frame | None:
            if self._next:
                told.set()
            return super().read(timeout_s)

    turns = Turns([Blocked(), Waiting([coloured("red")] * 2)], SystemClock(), stall_timeout_s=5.0)
    turns.close()
    assert not any(reader._thread.is_alive() for reader in turns._readers)
