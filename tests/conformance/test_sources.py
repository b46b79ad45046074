"""What every frame source must do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from device.clock import ManualClock
from device.errors import SourceError
from device.protocols import Frame, FrameSource, Interruption
from device.sources import SourceOptions, make_opener
from device.sources.supervisor import Patience, SupervisedSource

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
COLOURS = (RED, GREEN, BLUE)
TIMEOUT_S = 5.0

Spot = tuple[int, int, tuple[int, int, int]]


class Case(NamedTuple):
    """A source with a known number of frames, and pixels whose colour is known."""

    uri: str
    frames: int
    is_live: bool
    spots: Callable[[int], list[Spot]]
    realtime: bool = False
    is_supervised: bool = False

    def open(self) -> FrameSource:
        """Opens it with a clock of its own."""
        clock = ManualClock()
        rate_fps = 10.0 if self.realtime else None
        opener = make_opener(self.uri, SourceOptions(clock=clock, realtime=self.realtime, rate_fps=rate_fps))
        if not self.is_supervised:
            return opener()
        return SupervisedSource(opener(), opener, Patience(), clock=clock, on_interruption=unexpected)


def unexpected(interruption: Interruption) -> None:
    """What a source that is well has no reason to say."""
    raise AssertionError(interruption)


def make_images(folder: Path) -> Case:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")
    from device.imaging import encode_image

    (folder / "photos" / "deeper").mkdir(parents=True)
    for name, colour in zip(("a.png", "b.jpg", "deeper/c.PNG"), COLOURS, strict=True):
        encode_image(folder / "photos" / name, np.full((40, 60, 3), colour, np.uint8))
    return Case(f"images:{folder / 'photos'}", 3, False, lambda index: [(20, 30, COLOURS[index])])


def make_video(folder: Path) -> Case:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")
    path = folder / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV can't write MJPEG")
    for index in range(6):
        writer.write(np.full((48, 64, 3), COLOURS[index % 3][::-1], np.uint8))
    writer.release()
    return Case(f"video:{path}", 6, False, lambda index: [(24, 32, COLOURS[index % 3])])


def bars(index: int) -> list[Spot]:
    return [(47, 4, RED), (47, 12, GREEN), (47, 20, BLUE)]


def in_real_time(make: Callable[[Path], Case]) -> Callable[[Path], Case]:
    return lambda folder: make(folder)._replace(is_live=True, realtime=True)


MAKERS: dict[str, Callable[[Path], Case]] = {
    "images": make_images,
    "images-realtime": in_real_time(make_images),
    "video": make_video,
    "video-realtime": in_real_time(make_video),
    "synthetic": lambda folder: Case("synthetic:64x48#6", 6, False, bars),
    "synthetic-live": lambda folder: Case("synthetic:64x48@30#6", 6, True, bars),
    "synthetic-supervised": lambda folder: Case("synthetic:64x48@30#6", 6, True, bars, is_supervised=True),
}


@pytest.fixture(params=sorted(MAKERS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return MAKERS[request.param](tmp_path)


@pytest.fixture
def source(case: Case) -> Iterator[FrameSource]:
    with case.open() as source:
        yield source


def read_all(source: FrameSource) -> list[Frame]:
    frames = []
    while (frame := source.read(TIMEOUT_S)) is not None:
        frames.append(frame)
    return frames


def test_spec_says_what_was_asked_for(source: FrameSource, case: Case) -> None:
    assert source.spec.uri == case.uri
    assert source.spec.is_live is case.is_live
    assert (source.spec.rate_fps is not None) is case.is_live


def test_frames_are_contiguous_rgb_bytes(source: FrameSource) -> None:
    for frame in read_all(source):
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3
        assert frame.pixels.shape[2] == 3
        assert frame.pixels.flags.c_contiguous
        assert frame.pixels.flags.writeable


def test_channels_are_in_order_red_green_blue(source: FrameSource, case: Case) -> None:
    for frame in read_all(source):
        for row, column, colour in case.spots(frame.index):
            # JPEG is off by a few levels; swapped channels are off by 255.
            assert np.abs(frame.pixels[row, column].astype(int) - colour).max() < 10


def test_frames_come_in_order_to_the_end(source: FrameSource, case: Case) -> None:
    frames = read_all(source)
    assert [frame.index for frame in frames] == list(range(case.frames))
    times = [frame.timestamp_ns for frame in frames]
    assert times == sorted(times)


def test_end_of_stream_stays_the_end(source: FrameSource) -> None:
    read_all(source)
    assert source.read(TIMEOUT_S) is None
    assert source.read(TIMEOUT_S) is None


def test_a_frame_is_its_holders_own(source: FrameSource) -> None:
    first = source.read(TIMEOUT_S)
    assert first is not None
    kept = first.pixels.copy()
    rest = read_all(source)
    np.testing.assert_array_equal(first.pixels, kept)
    assert not any(np.shares_memory(first.pixels, frame.pixels) for frame in rest)


def test_what_a_holder_draws_is_in_no_later_frame(case: Case) -> None:
    def read_two(paint: bool) -> Frame:
        with case.open() as source:
            first, second = source.read(TIMEOUT_S), source.read(TIMEOUT_S)
            assert first is not None
            assert second is not None
            if paint:
                first.pixels[:] = 77
                second = source.read(TIMEOUT_S) or second
            else:
                second = source.read(TIMEOUT_S) or second
            return second

    np.testing.assert_array_equal(read_two(paint=True).pixels, read_two(paint=False).pixels)


def test_origin_names_the_file_and_is_empty_without_one(source: FrameSource, case: Case) -> None:
    kind, _, rest = case.uri.partition(":")
    for frame in read_all(source):
        assert Path(frame.origin).is_file() and frame.origin.startswith(rest) if kind != "synthetic" else not frame.origin


def test_close_may_be_called_twice(source: FrameSource) -> None:
    source.read(TIMEOUT_S)
    source.close()
    source.close()


def test_read_after_close_is_an_error(source: FrameSource) -> None:
    source.close()
    with pytest.raises(SourceError, match="close") as caught:
        source.read(TIMEOUT_S)
    assert caught.value.reason == "closed"


def test_close_from_another_thread(source: FrameSource) -> None:
    source.read(TIMEOUT_S)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(TIMEOUT_S)
    assert not closer.is_alive()
    with pytest.raises(SourceError):
        source.read(TIMEOUT_S)


def test_two_readings_are_the_same(case: Case) -> None:
    def read() -> list[Frame]:
        with case.open() as source:
            return read_all(source)

    for one, other in zip(read(), read(), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
