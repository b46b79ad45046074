from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.contract import Backoff
from device.contract import Camera as ProfileCamera
from device.contract.profile import JITTER
from device.core.clock import ManualClock
from device.core.errors import MissingDependencyError, SourceError, SourceReason, UsageError
from device.core.resources import Resource
from device.protocols import Frame, FrameSource, Interruption, SourceSpec
from device.sources.base import SourceOptions
from device.sources.opening import open_frames
from device.sources.supervisor import RetryPolicy, SupervisedSource
from device.sources.uri import names_camera

URI = "fake:camera"
TIMEOUT_S = 5.0
PERIOD_S = 0.1
POLICY = RetryPolicy(stall_timeout_s=5.0, frozen_timeout_s=60.0, give_up_after_s=120.0, backoff=Backoff(first_s=1.0, max_s=8.0))

STALL, GONE, DAMAGED, FREEZE, DARK, END = "stall", "gone", "damaged", "freeze", "dark", "end"
Step = int | str
"""A number is so many good frames; a word is a fault that lasts until the source is closed, but for `DAMAGED`: one frame."""


FLAPPING: list[list[Step]] = [[1, GONE]]


class Camera(Resource):
    """Gives frames and faults by a script, on a clock that it turns."""

    def __init__(self, clock: ManualClock, steps: Sequence[Step], *, is_recorded: bool = False, uri: str = URI) -> None:
        self._uri = uri
        self._clock = clock
        self._is_recorded = is_recorded
        self._steps: Iterator[str] = iter(
            [word for step in steps for word in (["good"] * step if isinstance(step, int) else [step])]
        )
        self._fault = ""
        self._index = 0
        self.closes = 0

    @property
    def spec(self) -> SourceSpec:
        return SourceSpec(uri=self._uri, is_live=True, rate_fps=1 / PERIOD_S, is_recorded=self._is_recorded)

    def read(self, timeout_s: float) -> Frame | None:
        word = self._fault or next(self._steps, STALL)
        if word == END:
            self._fault = word
            return None
        if word == STALL:
            self._fault = word
            self._clock.advance(timeout_s)
            raise SourceError(URI, f"no frame within {timeout_s:g} s", remedy="unplug it", reason="stalled")
        self._clock.advance(PERIOD_S)
        if word == GONE:
            raise SourceError(URI, "the camera is gone", reason="ended")
        if word == DAMAGED:
            raise SourceError(URI, "the JPEG is truncated", reason="decode")
        pixels = np.full((8, 8, 3), 0 if word == DARK else 200, np.uint8)
        if word not in (FREEZE, DARK):
            pixels[0, 0] = self._clock.now_ns() // 10**8 % 16, self._clock.now_ns() // 1_600_000_000 % 16, 1
        frame = Frame(pixels, self._clock.now_ns(), self._index)
        self._index += 1
        return frame

    def close(self) -> None:
        self.closes += 1


class Bench:
    """A supervised camera whose lives are scripted: each opening takes the next script, or raises the next error."""

    def __init__(self, *lives: Sequence[Step] | Exception, policy: RetryPolicy = POLICY) -> None:
        self.clock = ManualClock(start_ns=10**12)
        self.lives = list(lives)
        self.cameras: list[Camera] = []
        self.opened_s: list[float] = []
        self.told: list[Interruption] = []
        self.source = SupervisedSource(
            self.open(), self.open, policy, clock=self.clock, on_interruption=self.told.append, chance=lambda: 0.5
        )

    def open(self) -> Camera:
        self.opened_s.append(self.now_s)
        life = self.lives.pop(0) if self.lives else SourceError(URI, "no such camera", reason="missing")
        if isinstance(life, Exception):
            raise life
        camera = Camera(self.clock, life)
        self.cameras.append(camera)
        return camera

    @property
    def now_s(self) -> float:
        return (self.clock.now_ns() - 10**12) / 1e9

    def read(self, frames: int) -> list[Frame]:
        """Reads until there are so many good frames, over whatever interruptions."""
        found: list[Frame] = []
        while len(found) < frames:
            try:
                frame = self.source.read(TIMEOUT_S)
            except SourceError as error:
                if error.reason not in ("interrupted", "decode"):
                    raise
                continue
            if frame is None:
                break
            found.append(frame)
        return found

    @property
    def ended(self) -> list[Interruption]:
        return [one for one in self.told if one.duration_s is not None]


def test_while_all_is_well_frames_pass_unchanged_and_nothing_is_told() -> None:
    bench = Bench([50])
    frames = bench.read(50)
    assert [frame.index for frame in frames] == list(range(50))
    assert bench.source.spec == SourceSpec(uri=URI, is_live=True, rate_fps=1 / PERIOD_S)
    assert bench.told == []
    assert len(bench.opened_s) == 1


@pytest.mark.parametrize(("fault", "reason", "noticed_after_s"), [(STALL, "stalled", 5.0), (GONE, "ended", PERIOD_S)])
def test_a_fault_is_told_and_mended(fault: str, reason: str, noticed_after_s: float) -> None:
    bench = Bench([10, fault], [10])
    frames = bench.read(20)
    began, ended = bench.told
    assert (began.source, began.reason, began.duration_s, began.is_over) == (URI, reason, None, False)
    assert began.started_ns == frames[9].timestamp_ns
    assert ended.duration_s == pytest.approx((frames[10].timestamp_ns - frames[9].timestamp_ns) / 1e9)
    assert ended.duration_s == pytest.approx(noticed_after_s + 1.0 + PERIOD_S)
    assert (ended.attempts, ended.is_over) == (1, True)
    assert bench.cameras[0].closes >= 1


def test_the_index_goes_on_over_an_interruption() -> None:
    bench = Bench([10, GONE], [10, GONE], [5])
    assert [frame.index for frame in bench.read(25)] == list(range(25))


def test_waits_between_attempts_grow_and_stay_under_the_longest() -> None:
    missing = SourceError(URI, "no such camera", reason="missing")
    bench = Bench([1, GONE], *[missing] * 6, [1])
    bench.read(2)
    waits = np.diff(bench.opened_s[1:])
    np.testing.assert_allclose(waits, [2.0, 4.0, 8.0, 8.0, 8.0, 8.0], atol=0.2)
    assert bench.ended[0].attempts == 7


@given(st.floats(0.0, 1.0))
def test_chance_moves_a_wait_by_a_fifth_at_most(chance: float) -> None:
    bench = Bench([1, GONE], [1])
    bench.source._delays._chance = lambda: chance  # the only way to chance from here
    bench.read(2)
    assert abs(bench.opened_s[1] - bench.opened_s[0] - 2 * PERIOD_S - 1.0) <= JITTER + 1e-6


def test_a_camera_that_flaps_is_opened_less_and_less_often() -> None:
    bench = Bench(*FLAPPING * 8)
    bench.read(8)
    waits = np.diff(bench.opened_s)
    assert waits[0] < 2.0
    assert waits[-1] > 8.0


def test_a_camera_that_was_well_for_long_is_opened_again_soon() -> None:
    bench = Bench(*FLAPPING * 4, [200, GONE], [1])
    bench.read(205)
    assert np.diff(bench.opened_s)[-1] == pytest.approx(1.0 + 201 * PERIOD_S, abs=0.2)


def test_gives_up_after_the_profiles_limit_and_says_why() -> None:
    bench = Bench([5, GONE])
    with pytest.raises(SourceError, match=r"no good frame for 12[0-9] s, despite [0-9]+ attempts .*no such camera") as caught:
        bench.read(6)
    assert caught.value.reason == "ended"
    assert caught.value.exit_code == 20
    assert 120.0 <= bench.now_s < 120.0 + 8.0 * (1 + JITTER) + 1.0
    bench.source.close()
    (ended,) = bench.ended
    assert not ended.is_over
    assert ended.duration_s is not None
    assert ended.duration_s >= 120.0


def test_does_not_give_up_before_it_has_tried_once() -> None:
    # Patient with still pictures, but not for as long with a camera that gives none.
    bench = Bench([5, *[FREEZE] * 3100], [5], policy=POLICY._replace(frozen_timeout_s=300.0))
    bench.read(5 + 3000 + 5)
    (ended,) = bench.ended
    assert (ended.reason, ended.attempts, ended.is_over) == ("frozen", 1, True)


def test_a_daemon_that_was_stopped_for_long_opens_its_camera_again() -> None:
    # As by Ctrl-Z: no frame came, since nobody ran.
    bench = Bench([5], [5])
    bench.read(5)
    bench.clock.advance(1000.0)
    bench.read(5)
    assert [one.attempts for one in bench.ended] == [1]


@pytest.mark.parametrize("camera", [{"rate_fps": 0.1}, {"rate_fps": 0.2}, {"rate_fps": 2, "stall_timeout_s": 0.4}])
def test_a_profile_whose_camera_would_stall_between_two_frames_is_refused(camera: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match="stall_timeout_s longer than a frame"):
        msgspec.convert({"uri": URI, **camera}, ProfileCamera)
    patient = msgspec.convert({"uri": URI, **camera, "stall_timeout_s": 11.0}, ProfileCamera)
    assert patient.rate_fps == camera["rate_fps"]


def test_nobody_waits_for_long_for_a_camera_that_is_away() -> None:
    bench = Bench([1, GONE], policy=POLICY._replace(backoff=Backoff(first_s=60.0, max_s=60.0)))
    bench.read(1)
    for _ in range(5):
        before_s = bench.now_s
        with pytest.raises(SourceError, match="is being opened again"):
            bench.source.read(TIMEOUT_S)
        assert bench.now_s - before_s < 0.5


def test_without_a_limit_it_tries_for_ever() -> None:
    missing = SourceError(URI, "no such camera", reason="missing")
    bench = Bench([5, GONE], *[missing] * 300, [1], policy=POLICY._replace(give_up_after_s=None))
    bench.read(6)
    assert bench.now_s > 2000.0


class Opener:
    """Stands for `make_opener`: opens a camera, unless there is none, and counts."""

    def __init__(self, *lives: Sequence[Step], is_recorded: bool = False) -> None:
        self.clock = ManualClock(start_ns=10**12)
        self.openings = 0
        self._lives = list(lives)
        self._is_recorded = is_recorded

    def __call__(self) -> Camera:
        self.openings += 1
        if not self._lives:
            raise SourceError(URI, "no such camera", reason="missing")
        return Camera(self.clock, self._lives.pop(0), is_recorded=self._is_recorded)

    def open_frames(self, monkeypatch: pytest.MonkeyPatch) -> FrameSource:
        monkeypatch.setattr("device.sources.opening.make_opener", lambda uri, options: self)
        (source,) = open_frames([URI], ProfileCamera(uri=URI), SourceOptions(clock=self.clock), lambda _: None)
        return source


def test_the_first_opening_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener()
    with pytest.raises(SourceError, match="no such camera"):
        opener.open_frames(monkeypatch)
    assert opener.openings == 1


def test_a_camera_is_opened_once_and_again_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener([1, GONE], [1])
    with opener.open_frames(monkeypatch) as source:
        assert isinstance(source, SupervisedSource)
        assert source.read(TIMEOUT_S)
        assert opener.openings == 1
        for _ in range(2):
            with pytest.raises(SourceError, match="is being opened again"):
                source.read(0.0)
        opener.clock.advance(TIMEOUT_S)
        assert source.read(TIMEOUT_S)
        assert opener.openings == 2


def test_a_recording_is_not_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener([1, END], is_recorded=True)
    with opener.open_frames(monkeypatch) as source:
        assert isinstance(source, Camera)
    assert opener.openings == 1


def test_cameras_that_differ_in_what_is_masked_alone_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the channels of a recorder whose path is /user=me&password=secret&channel=2.
    opener = Opener([1], [GONE], [1])
    monkeypatch.setattr("device.sources.opening.make_opener", lambda uri, options: opener)
    told: list[Interruption] = []
    uris = [f"fake:camera?{channel}" for channel in "abc"]
    first, second, third = open_frames(uris, ProfileCamera(uri=URI), SourceOptions(clock=opener.clock), told.append)
    assert [source.spec.uri for source in (first, second, third)] == [URI, f"{URI} (2)", f"{URI} (3)"]
    with pytest.raises(SourceError) as caught:
        second.read(TIMEOUT_S)
    assert caught.value.where == told[0].source == f"{URI} (2)"


def test_the_same_camera_twice_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener([1], [1])
    monkeypatch.setattr("device.sources.opening.make_opener", lambda uri, options: opener)
    with pytest.raises(UsageError, match="named twice"):
        open_frames([URI, URI], ProfileCamera(uri=URI), SourceOptions(clock=opener.clock), lambda _: None)


@pytest.mark.parametrize("error", [UsageError("x", "y", reason="flags"), MissingDependencyError("x", "y", reason="abi")])
def test_a_later_opening_that_fails_in_any_way_of_ours_is_tried_again(error: Exception) -> None:
    bench = Bench([1, GONE], error, [1])
    assert len(bench.read(2)) == 2


def test_a_damaged_frame_among_good_ones_is_a_bad_frame() -> None:
    bench = Bench([3, DAMAGED, 3])
    bench.read(3)
    with pytest.raises(SourceError) as caught:
        bench.source.read(TIMEOUT_S)
    assert caught.value.reason == "decode"
    assert len(bench.read(3)) == 3
    assert bench.told == []


def test_nothing_but_damaged_frames_is_a_stall() -> None:
    bench = Bench([3, *[DAMAGED] * 100], [1])
    bench.read(4)
    assert bench.ended[0].reason == "decode"
    assert bench.opened_s[1] == pytest.approx(3 * PERIOD_S + 5.0 + 1.0, abs=0.3)


def test_damaged_frames_after_a_reopening_are_given_time_too() -> None:
    bench = Bench([3, GONE], [*[DAMAGED] * 20, 5])
    bench.read(8)
    assert len(bench.opened_s) == 2
    assert [one.reason for one in bench.ended] == ["ended"]


def test_a_frozen_picture_is_no_picture() -> None:
    bench = Bench([10, FREEZE, *[FREEZE] * 700], [10])
    frames = bench.read(10 + 600)
    bench.read(10)
    (ended,) = bench.ended
    assert ended.reason == "frozen"
    assert ended.started_ns == frames[10].timestamp_ns
    assert ended.duration_s == pytest.approx(60.0 + 1.0, abs=0.3)


def test_a_picture_that_is_frozen_still_after_a_reopening_does_not_end_the_interruption() -> None:
    bench = Bench([10, *[FREEZE] * 700], [FREEZE] * 5, [FREEZE] * 5, [10])
    bench.read(10 + 600 + 10)
    (ended,) = bench.ended
    assert (ended.attempts, ended.is_over) == (3, True)


def test_a_frozen_picture_may_be_allowed() -> None:
    bench = Bench([FREEZE] * 5000, policy=POLICY._replace(frozen_timeout_s=None))
    assert len(bench.read(5000)) == 5000
    assert bench.told == []


def test_darkness_is_told_and_frames_go_on() -> None:
    bench = Bench([5, *[DARK] * 150, 5])
    assert len(bench.read(160)) == 160
    began, ended = bench.told
    assert (began.reason, began.duration_s) == ("dark", None)
    assert ended.duration_s == pytest.approx(150 * PERIOD_S, abs=0.2)
    assert len(bench.opened_s) == 1


def test_a_night_is_no_frozen_picture() -> None:
    # Without light, and with its noise filtered out, a camera gives black to the last bit.
    bench = Bench([5, *[DARK] * 2000, 5])
    assert len(bench.read(2010)) == 2010
    assert [one.reason for one in bench.told] == ["dark", "dark"]
    assert len(bench.opened_s) == 1


def test_the_end_of_a_stream_is_the_end() -> None:
    bench = Bench([3, END])
    assert len(bench.read(5)) == 3
    assert bench.source.read(TIMEOUT_S) is None


def test_after_close_it_is_closed() -> None:
    bench = Bench([10])
    bench.read(1)
    bench.source.close()
    bench.source.close()
    assert bench.cameras[0].closes == 1
    with pytest.raises(SourceError) as caught:
        bench.source.read(TIMEOUT_S)
    assert caught.value.reason == "closed"


def test_closed_in_an_interruption_it_says_how_long_it_lasted() -> None:
    bench = Bench([3, GONE])
    bench.read(3)
    with pytest.raises(SourceError):
        bench.source.read(TIMEOUT_S)
    bench.clock.advance(7.0)
    bench.source.close()
    (ended,) = bench.ended
    assert ended.duration_s == pytest.approx(7.0 + PERIOD_S)
    assert not ended.is_over


class Hanging(Camera):
    """A camera whose driver never lets go."""

    def __init__(self, clock: ManualClock, released: threading.Event) -> None:
        super().__init__(clock, [1, STALL])
        self._released = released

    def close(self) -> None:
        self._released.wait(60.0)


def test_a_camera_that_hangs_in_close_does_not_hang_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.sources.supervisor.CLOSE_TIMEOUT_S", 0.05)
    released = threading.Event()
    clock = ManualClock()
    lives: list[Callable[[], Camera]] = [lambda: Hanging(clock, released), lambda: Camera(clock, [5])]
    source = SupervisedSource(lives.pop(0)(), lambda: lives.pop(0)(), POLICY, clock=clock, on_interruption=lambda _: None)
    frames = 0
    while frames < 3:
        with suppress(SourceError):
            frames += source.read(TIMEOUT_S) is not None
    released.set()
    source.close()


@given(st.lists(st.lists(st.sampled_from([1, 3, 30, DAMAGED, STALL, GONE]), min_size=1, max_size=5), min_size=1, max_size=8))
def test_whatever_happens_interruptions_are_told_in_pairs_and_never_overlap(lives: list[list[Step]]) -> None:
    bench = Bench([1], *lives, [2, END])
    with suppress(SourceError):
        bench.read(10**6)
    bench.source.close()
    assert len(bench.told) % 2 == 0
    end_ns = 0
    for began, ended in zip(bench.told[::2], bench.told[1::2], strict=True):
        assert began.duration_s is None
        assert ended.duration_s is not None
        assert (began.started_ns, began.reason) == (ended.started_ns, ended.reason)
        assert began.started_ns >= end_ns
        end_ns = ended.started_ns + round(ended.duration_s * 1e9)


# --- several cameras --------------------------------------------------------------------------------------------------


class Several:
    """Cameras of a profile, each with a script for each opening; without one it is away. ``file:`` is no camera."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **lives: Sequence[Sequence[Step] | SourceError]) -> None:
        self.clock = ManualClock(start_ns=10**12)
        self.told: list[Interruption] = []
        self.attempts: Counter[str] = Counter()
        self._lives = {name: list(script) for name, script in lives.items()}
        monkeypatch.setattr("device.sources.opening.make_opener", lambda uri, options: lambda: self.open(uri.partition(":")[2]))
        monkeypatch.setattr("device.sources.opening.names_camera", lambda uri: uri.startswith("fake:"))

    def open_file(self, uri: str) -> Camera:
        kind, _, name = uri.partition(":")
        return Camera(self.clock, [1], is_recorded=True, uri=uri) if kind == "file" else self.open(name)

    def open(self, name: str) -> Camera:
        self.attempts[name] += 1
        life = self._lives[name].pop(0) if self._lives[name] else away(name)
        if isinstance(life, SourceError):
            raise life
        return Camera(self.clock, life, uri=f"fake:{name}")

    def open_frames(self, *uris: str) -> list[FrameSource]:
        return open_frames(uris, ProfileCamera(uri=URI), SourceOptions(clock=self.clock), self.told.append)


def away(name: str, reason: SourceReason = "unreachable") -> SourceError:
    return SourceError(f"fake:{name}", "can't be reached", reason=reason)


def read_for(source: FrameSource, clock: ManualClock, duration_s: float) -> int:
    """Reads as the loop does; gives how many frames came."""
    end_ns, frames = clock.now_ns() + round(duration_s * 1e9), 0
    while clock.now_ns() < end_ns:
        try:
            frames += source.read(TIMEOUT_S) is not None
        except SourceError as error:
            if error.reason != "interrupted":
                raise
    return frames


def test_one_of_several_that_is_away_at_the_start_is_told_and_taken_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Several(monkeypatch, left=[[1]], right=[away("right"), away("right"), [1000]])
    left, right = bench.open_frames("fake:left", "fake:right")
    assert left.read(TIMEOUT_S)
    assert read_for(right, bench.clock, 3.0) > 10
    began, ended = bench.told
    assert (began.source, began.reason, began.duration_s) == ("fake:right", "unreachable", None)
    assert (ended.attempts, ended.is_over) == (2, True)


def test_where_all_are_away_at_the_start_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Several(monkeypatch, left=[], right=[])
    with pytest.raises(SourceError, match="fake:left: can't be reached"):
        bench.open_frames("fake:left", "fake:right")
    assert bench.told == []


def test_a_file_does_not_stand_in_for_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Several(monkeypatch, left=[], clip=[[1]])
    monkeypatch.setattr("device.sources.opening.make_opener", lambda uri, options: lambda: bench.open_file(uri))
    with pytest.raises(SourceError, match="fake:left: can't be reached"):
        bench.open_frames("file:clip", "fake:left")


@pytest.mark.parametrize("reason", ["unauthorised", "format", "permission", "certificate"])
def test_what_somebody_must_change_is_an_error_whatever_the_others_do(
    monkeypatch: pytest.MonkeyPatch, reason: SourceReason
) -> None:
    bench = Several(monkeypatch, left=[[1]], right=[away("right", reason)])
    with pytest.raises(SourceError, match="fake:right"):
        bench.open_frames("fake:left", "fake:right")


def test_a_file_that_is_missing_is_an_error_whatever_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Several(monkeypatch, left=[[1]], clip=[away("clip", "missing")])
    with pytest.raises(SourceError, match="fake:clip"):
        bench.open_frames("fake:left", "file:clip")


def test_one_of_several_ends_the_run_only_when_no_other_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Several(monkeypatch, left=[[1, GONE]], right=[[1, GONE]])
    left, right = bench.open_frames("fake:left", "fake:right")
    assert left.read(TIMEOUT_S)
    assert right.read(TIMEOUT_S)
    assert read_for(right, bench.clock, 1000.0) == 0
    assert bench.attempts["right"] > 50
    with pytest.raises(SourceError, match="is being opened again"):
        left.read(TIMEOUT_S)
    with pytest.raises(SourceError, match=r"fake:right: no good frame for [0-9]{4} s"):
        read_for(right, bench.clock, 100.0)


def test_patience_with_all_of_them_begins_when_the_last_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Several(monkeypatch, left=[[1, GONE], [1, GONE]], right=[[1, GONE]])
    left, right = bench.open_frames("fake:left", "fake:right")
    assert left.read(TIMEOUT_S)
    assert right.read(TIMEOUT_S)
    assert read_for(right, bench.clock, 1000.0) == 0
    assert read_for(left, bench.clock, 5.0) == 1
    with pytest.raises(SourceError, match="is being opened again"):
        left.read(TIMEOUT_S)
    assert read_for(right, bench.clock, 100.0) == 0
    with pytest.raises(SourceError, match=r"fake:right: no good frame for [0-9]{4} s"):
        read_for(right, bench.clock, 100.0)


@pytest.mark.parametrize(
    ("uri", "is_camera"), [("v4l2:0", True), ("rtsp://x/y", True), ("images:x", False), ("video:x", False)]
)
def test_kinds_of_cameras_say_so(uri: str, is_camera: bool) -> None:
    assert names_camera(uri) is is_camera
