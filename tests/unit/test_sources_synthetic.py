"""The test pattern: what it shows, and how it keeps time."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from device.core.clock import ManualClock
from device.core.errors import SourceError
from device.protocols import Image
from device.sources.base import SourceOptions
from device.sources.synthetic import BAR_COLOURS, MARK_COLOUR
from device.sources.uri import open_source


def test_pattern_shows_colours_geometry_and_movement() -> None:
    with open_source("synthetic:160x96") as source:
        first, second = source.read(1.0), source.read(1.0)
    assert first is not None
    assert second is not None
    assert first.pixels[0, 0].tolist() == list(MARK_COLOUR)
    for corner in (first.pixels[-1, 0], first.pixels[0, -1], first.pixels[-1, -1]):
        assert corner.tolist() != list(MARK_COLOUR)
    assert first.pixels[65, :, 0].tolist() == sorted(first.pixels[65, :, 0])
    assert [first.pixels[65, column].tolist() for column in (0, -1)] == [[0] * 3, [255] * 3]
    assert [first.pixels[90, 20 * bar + 10].tolist() for bar in range(8)] == [list(colour) for colour in BAR_COLOURS]
    assert (first.pixels != second.pixels).any()


def symmetries(image: Image) -> list[Image]:
    """The picture turned and mirrored in every way there is."""
    return [np.rot90(side, quarters) for side in (image, image[:, ::-1]) for quarters in range(4)]


def look(image: Image) -> bytes:
    return repr(image.shape).encode() + image.tobytes()


@pytest.mark.parametrize("size", ["640x480", "480x640", "320x320", "224x224", "1920x1080"])
@pytest.mark.parametrize("share", [1.0, 0.875, 0.5])
def test_every_flip_turn_and_channel_order_shows_in_what_the_network_sees(size: str, share: float) -> None:
    with open_source(f"synthetic:{size}") as source:
        frame = source.read(1.0)
    assert frame is not None
    height, width = frame.pixels.shape[:2]
    part = int(min(height, width) * share)
    top, left = (height - part) // 2, (width - part) // 2
    central = frame.pixels[top : top + part, left : left + part]
    orders = list(itertools.permutations(range(3)))
    seen = {look(turned[..., order]) for turned in symmetries(central) for order in orders}
    assert len(seen) == 8 * 6


@pytest.mark.parametrize("size", ["1x1", "1x50", "50x1", "7x3"])
def test_any_size_can_be_drawn_many_times(size: str) -> None:
    with open_source(f"synthetic:{size}#50") as source:
        assert sum(1 for _ in iter(lambda: source.read(1.0), None)) == 50


def test_a_live_source_keeps_its_rate() -> None:
    clock = ManualClock()
    with open_source("synthetic:32x32@25", SourceOptions(clock=clock)) as source:
        frames = [source.read(1.0) for _ in range(101)]
    assert clock.now_ns() == 4_000_000_000
    assert [frame.timestamp_ns for frame in frames if frame] == [index * 40_000_000 for index in range(101)]


def test_frames_that_a_slow_reader_missed_are_counted() -> None:
    clock = ManualClock()
    with open_source("synthetic:32x32@10", SourceOptions(clock=clock)) as source:
        indices = []
        for pause_s in (0.0, 0.35, 0.0, 1.0):
            clock.sleep(pause_s)
            frame = source.read(1.0)
            assert frame is not None
            indices.append(frame.index)
    assert indices == [0, 3, 4, 14]


def test_a_live_source_with_an_end_ends_though_its_last_frames_were_missed() -> None:
    clock = ManualClock()
    with open_source("synthetic:32x32@10#5", SourceOptions(clock=clock)) as source:
        assert source.read(1.0) is not None
        clock.sleep(60.0)
        assert source.read(1.0) is None


def test_a_frame_that_is_not_due_in_time_is_a_stall_and_the_source_goes_on() -> None:
    clock = ManualClock()
    with open_source("synthetic:32x32@1", SourceOptions(clock=clock)) as source:
        source.read(0.1)
        with pytest.raises(SourceError) as caught:
            source.read(0.25)
        assert caught.value.reason == "stalled"
        assert clock.now_ns() == 250_000_000
        frame = source.read(1.0)
        assert frame is not None
        assert frame.index == 1


def test_close_wakes_a_reader_that_waits() -> None:
    source = open_source("synthetic:32x32@0.01")
    source.read(1.0)
    raised: list[SourceError] = []

    def wait() -> None:
        try:
            source.read(60.0)
        except SourceError as error:
            raised.append(error)

    reader = threading.Thread(target=wait, daemon=True)
    reader.start()
    source.close()
    reader.join(10.0)
    assert [error.reason for error in raised] == ["closed"]


def test_without_a_rate_no_one_waits() -> None:
    clock = ManualClock()
    with open_source("synthetic:32x32", SourceOptions(clock=clock, rate_fps=1.0)) as source:
        frames = [source.read(0.0) for _ in range(10)]
    assert [frame.index for frame in frames if frame] == list(range(10))
    assert clock.now_ns() == 0
    assert not np.shares_memory(frames[0].pixels, frames[9].pixels) if frames[0] and frames[9] else False


def test_in_real_time_a_rate_left_out_is_the_options() -> None:
    options = SourceOptions(rate_fps=12.5, realtime=True)
    with open_source("synthetic:32x32", options) as source, open_source("synthetic:32x32@20", options) as other:
        assert (source.spec.is_live, source.spec.rate_fps) == (True, 12.5)
        assert other.spec.rate_fps == 20.0
