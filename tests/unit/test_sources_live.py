"""What every live source does, over a device that does whatever it likes."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.core.clock import ManualClock
from device.core.errors import SourceError, SourceReason
from device.protocols import Frame, FrameSource, Image
from device.sources import live
from device.sources.base import SourceOptions
from device.sources.live import MAX_DAMAGES, Damage, LiveSource, Picture, choose_timestamp_ns, picture_or_damage
from tests.unit.fake_v4l2 import wait_until
from tests.unit.tally import Tally

FAST_S = 0.2
SLOW_S = 20.0
MANY = 1000


def picture(number: int, stamp_ns: int | None = None, skipped: int = 0) -> Picture:
    return Picture(np.full((4, 4, 3), number % 256, np.uint8), stamp_ns, skipped)


class FakeCapture:
    """A device: ``behaviour`` is called for each picture, and may take as long as it likes."""

    rate_fps: float | None = 25.0

    def __init__(self, behaviour: Callable[[int], Picture | None]) -> None:
        self._behaviour = behaviour
        self.threads = {threading.get_ident()}
        self.calls = 0
        self.closed = threading.Event()

    def read(self) -> Picture | None:
        time.sleep(0.002)
        self.threads.add(threading.get_ident())
        self.calls += 1
        return self._behaviour(self.calls - 1)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        assert not self.closed.is_set()
        self.closed.set()


class Device:
    """Opens captures, and keeps them for the test to look at."""

    def __init__(self) -> None:
        self.behaviour: Callable[[int], Picture | None] = picture
        self.captures: list[FakeCapture] = []
        self.release = threading.Event()

    def open(self) -> FakeCapture:
        self.captures.append(FakeCapture(self.behaviour))
        return self.captures[-1]

    def hang(self, *_: object) -> None:
        self.release.wait(SLOW_S)

    def source(self, options: SourceOptions | None = None) -> LiveSource:
        return LiveSource("fake:", self.open, options or SourceOptions(), open_timeout_s=SLOW_S, remedy="turn it off and on")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(live, "CLOSE_TIMEOUT_S", FAST_S)
    device = Device()
    yield device
    device.release.set()


def read(source: FrameSource) -> Frame:
    frame = source.read(SLOW_S)
    assert frame is not None
    return frame


def refuse(source: FrameSource, timeout_s: float = SLOW_S) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_to_the_end(source, timeout_s)
    return caught.value


def read_to_the_end(source: FrameSource, timeout_s: float) -> None:
    for _ in range(MANY):
        source.read(timeout_s)


def test_frames_are_newest_and_count_what_was_dropped(device: Device) -> None:
    with device.source() as source:
        first = read(source)
        wait_until(lambda: device.captures[0].calls >= first.index + 20)
        later = read(source)
    assert later.index >= first.index + 18
    assert int(later.pixels[0, 0, 0]) == later.index % 256


def test_same_frame_is_never_given_twice(device: Device) -> None:
    with device.source() as source:
        indices = [read(source).index for _ in range(20)]
    assert indices == sorted(set(indices))


def test_pictures_that_the_device_skipped_count(device: Device) -> None:
    device.behaviour = lambda call: picture(call, skipped=9)
    with device.source() as source:
        assert read(source).index % 10 == 9


def test_spec_says_what_the_device_promises(device: Device) -> None:
    with device.source(SourceOptions(rate_fps=30.0)) as source:
        assert source.spec.is_live
        assert source.spec.rate_fps == 25.0
        assert source.spec.uri == "fake:"


def test_device_that_hangs_as_it_opens_is_given_up(device: Device) -> None:
    def open_slowly() -> FakeCapture:
        device.hang()
        return device.open()

    with pytest.raises(SourceError) as caught:
        LiveSource("fake:", open_slowly, SourceOptions(), open_timeout_s=FAST_S)
    assert caught.value.reason == "stalled"
    device.release.set()
    # What opened too late is let go of.
    wait_until(lambda: bool(device.captures))
    assert device.captures[0].closed.wait(SLOW_S)


@pytest.mark.parametrize("reason", ["missing", "busy", "decode"])
def test_error_at_opening_is_the_devices_own(device: Device, reason: SourceReason) -> None:
    def fail() -> FakeCapture:
        raise SourceError("fake:", "will not", reason=reason)

    with pytest.raises(SourceError, match="will not") as caught:
        LiveSource("fake:", fail, SourceOptions())
    assert caught.value.reason == reason


def test_device_that_hangs_as_it_reads_hangs_no_reader(device: Device) -> None:
    device.behaviour = device.hang
    source = device.source()
    error = refuse(source, FAST_S)
    assert error.reason == "stalled"
    assert "turn it off and on" in str(error)
    source.close()
    assert not device.captures[0].closed.is_set()


def test_device_that_hangs_as_it_closes_hangs_nobody(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    closing = threading.Event()

    def hang_closing(_: FakeCapture) -> None:
        closing.set()
        device.hang()

    monkeypatch.setattr(FakeCapture, "close", hang_closing)
    source = device.source()
    read(source)
    source.close()
    assert closing.is_set()
    assert refuse(source).reason == "closed"


def test_device_without_news_is_asked_again(device: Device) -> None:
    device.behaviour = lambda call: picture(call) if call >= 3 else None
    with device.source() as source:
        assert read(source).index == 0
        assert device.captures[0].calls >= 4


def read_past_damage(source: FrameSource) -> Frame:
    for _ in range(MANY):
        with contextlib.suppress(SourceError):
            return read(source)
    pytest.fail("no good frame after the damaged ones")


def damage_first(call: int) -> Picture:
    if call < 3:
        raise SourceError("fake:", "cut", reason="decode")
    return picture(call)


def test_damaged_picture_is_told_and_then_read_on(device: Device) -> None:
    seen = threading.Event()

    def damage_until_seen(call: int) -> Picture:
        if not seen.is_set():
            raise SourceError("fake:", "cut", reason="decode")
        return picture(call)

    device.behaviour = damage_until_seen
    with device.source() as source:
        assert refuse(source).reason == "decode"
        seen.set()
        assert read_past_damage(source).index == 0


def test_damage_is_told_of_though_a_frame_came(device: Device) -> None:
    device.behaviour = damage_first
    with device.source() as source:
        wait_until(lambda: device.captures[0].calls >= 6)
        damaged = [refuse(source).reason for _ in range(3)]
    assert damaged == ["decode"] * 3


class Steps:
    """A device that goes one step at a time, and a source that has taken in each before the next."""

    rate_fps: float | None = None

    def __init__(self) -> None:
        self._next: queue.Queue[Picture | Damage | SourceError] = queue.Queue()
        self._is_ready = threading.Semaphore(0)

    def read(self) -> Picture | Damage | None:
        self._is_ready.release()
        given = self._next.get(timeout=SLOW_S)
        if isinstance(given, SourceError):
            raise given
        return given

    def close(self) -> None:
        """Holds nothing."""

    def give(self, *given: Picture | Damage | SourceError) -> None:
        for one in given:
            assert self._is_ready.acquire(timeout=SLOW_S)
            self._next.put(one)
        assert self._is_ready.acquire(timeout=SLOW_S)
        self._is_ready.release()

    def end(self) -> None:
        self._next.put(SourceError("fake:", "gone", reason="ended"))


@pytest.fixture
def steps() -> Iterator[Steps]:
    steps = Steps()
    yield steps
    steps.end()


def damage(words: str = "cut", skipped: int = 0) -> Damage:
    return Damage(SourceError("fake:", words, reason="decode"), skipped)


READ, GOOD, DAMAGED, RAISED = "read", "good", "damaged", "raised"
EVENTS = st.lists(
    st.tuples(st.sampled_from([READ, RAISED]), st.just(0)) | st.tuples(st.sampled_from([GOOD, DAMAGED]), st.integers(0, 3)),
    max_size=120,
)


def make(kind: str, skipped: int) -> Picture | Damage | SourceError:
    if kind == GOOD:
        return picture(0, None, skipped)
    return damage("cut", skipped) if kind == DAMAGED else damage().error


@given(EVENTS)
@settings(deadline=None)
def test_every_picture_is_looked_at_or_dropped_or_damaged(events: list[tuple[str, int]]) -> None:
    steps, tally = Steps(), Tally()
    with LiveSource("fake:", lambda: steps, SourceOptions()) as source:
        came = damaged = 0
        for kind, skipped in [*events, (GOOD, 0)]:
            if kind == READ:
                tally.read(source)
                continue
            came += skipped + 1
            damaged += kind != GOOD
            steps.give(make(kind, skipped))
        steps.end()
        while tally.reason != "ended":
            tally.read(source, SLOW_S)
    assert tally.total == came
    assert tally.damaged == damaged or len(events) > MAX_DAMAGES
    assert tally.damaged <= damaged


def test_damage_that_nobody_reads_is_dropped_in_the_end(steps: Steps) -> None:
    with LiveSource("fake:", lambda: steps, SourceOptions()) as source:
        steps.give(*(damage(str(number)) for number in range(MAX_DAMAGES + 5)), picture(0))
        assert read(source).index == 5
        words = [refuse(source).found for _ in range(MAX_DAMAGES)]
    assert words == [str(number) for number in range(5, MAX_DAMAGES + 5)]


def test_frames_and_damage_take_turns(steps: Steps) -> None:
    tally = Tally()
    with LiveSource("fake:", lambda: steps, SourceOptions()) as source:
        for _ in range(10):
            steps.give(damage(), damage(), picture(0))
            tally.read(source)
    assert (tally.looked_at, tally.damaged) == (5, 5)


def test_damage_that_waits_holds_no_picture(steps: Steps) -> None:
    def convert(pixels: Image) -> Image:
        raise SourceError("fake:", f"cut after {pixels.size} bytes", reason="decode")

    pixels = np.zeros(100, np.uint8)
    kept = weakref.ref(pixels)
    found = picture_or_damage(functools.partial(convert, pixels), None, 0)
    with LiveSource("fake:", lambda: steps, SourceOptions()) as source:
        steps.give(found)
        del pixels
        assert kept() is None
        assert refuse(source).reason == "decode"


@pytest.mark.parametrize("reason", ["ended", "format"])
def test_other_errors_end_the_source(device: Device, reason: SourceReason) -> None:
    def end(call: int) -> Picture:
        if call == 3:
            raise SourceError("fake:", "gone", reason=reason)
        return picture(call)

    device.behaviour = end
    with device.source() as source:
        assert refuse(source).reason == reason
        assert refuse(source).reason == reason
    assert device.captures[0].closed.is_set()


def test_fault_in_our_own_code_reaches_the_reader(device: Device) -> None:
    def break_down(call: int) -> Picture:
        raise ZeroDivisionError

    device.behaviour = break_down
    with device.source() as source, pytest.raises(ZeroDivisionError):
        source.read(SLOW_S)


def test_one_thread_uses_the_device_and_ends_with_the_source(device: Device) -> None:
    with device.source() as source:
        read(source)
    (capture,) = device.captures
    assert capture.closed.wait(SLOW_S)
    assert len(capture.threads) == 1
    assert threading.get_ident() not in capture.threads
    assert not [thread for thread in threading.enumerate() if thread.ident in capture.threads]


def test_close_may_be_called_twice_and_nothing_is_read_after(device: Device) -> None:
    source = device.source()
    source.close()
    source.close()
    assert refuse(source).reason == "closed"


def test_close_from_another_thread_ends_a_read(device: Device) -> None:
    device.behaviour = device.hang
    source = device.source()
    closer = threading.Timer(FAST_S, source.close)
    closer.start()
    assert refuse(source).reason == "closed"
    closer.join()


def test_stamp_is_the_devices_own_where_it_is_of_our_clock(device: Device) -> None:
    clock = ManualClock()
    clock.advance(100.0)
    device.behaviour = lambda call: picture(call, clock.now_ns() - 30_000_000)
    with device.source(SourceOptions(clock=clock)) as source:
        assert read(source).timestamp_ns == clock.now_ns() - 30_000_000


def test_picture_without_a_stamp_is_stamped_as_it_arrives(device: Device) -> None:
    clock = ManualClock()
    clock.advance(100.0)
    with device.source(SourceOptions(clock=clock)) as source:
        assert read(source).timestamp_ns == clock.now_ns()


@pytest.mark.parametrize(
    ("stamp_ns", "expected_ns"),
    [
        (9_000_000_000, 9_000_000_000),
        (10_000_000_000, 10_000_000_000),
        (4_999_999_999, 10_000_000_000),
        (0, 10_000_000_000),
        (10_000_000_001, 10_000_000_000),
        (None, 10_000_000_000),
    ],
)
def test_stamp_of_another_clock_gives_way_to_the_arrival(stamp_ns: int | None, expected_ns: int) -> None:
    assert choose_timestamp_ns(stamp_ns, 10_000_000_000) == expected_ns
