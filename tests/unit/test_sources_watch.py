from __future__ import annotations

import numpy as np
import pytest

from device.protocols import Frame, Image
from device.sources.watch import DARK_LEVEL, DARK_TIMEOUT_S, FrameWatch, digest, is_dark

SECOND_NS = 10**9


def noise(seed: int, level: int = 200) -> Image:
    return np.random.default_rng(seed).integers(0, level, (48, 64, 3), dtype=np.uint8)


def at(second: float, pixels: Image) -> Frame:
    return Frame(pixels, round(second * SECOND_NS), 0)


def test_pictures_with_a_cameras_noise_are_told_apart() -> None:
    assert len({digest(noise(seed)) for seed in range(500)}) == 500
    assert digest(noise(1)) == digest(noise(1).copy())


def test_the_same_picture_is_frozen_once_the_time_is_over_and_until_another_comes() -> None:
    watch = FrameWatch(frozen_timeout_s=10.0)
    seen = [watch.is_frozen(at(second, noise(1))) for second in range(3, 16)]
    assert seen == [False] * 10 + [True] * 3
    assert watch.changed_ns == 3 * SECOND_NS
    assert not watch.is_frozen(at(16, noise(2)))
    assert watch.changed_ns == 16 * SECOND_NS


def test_without_a_limit_nothing_is_frozen() -> None:
    watch = FrameWatch(frozen_timeout_s=None)
    assert not any(watch.is_frozen(at(second, noise(1))) for second in range(1000))


def test_darkness_is_never_frozen() -> None:
    watch = FrameWatch(frozen_timeout_s=10.0)
    black = np.zeros((48, 64, 3), np.uint8)
    assert not any(watch.is_frozen(at(second, black)) for second in range(1000))


@pytest.mark.parametrize(("level", "dark"), [(0, True), (DARK_LEVEL, True), (DARK_LEVEL + 1, False), (255, False)])
def test_dark_is_what_video_calls_black(level: int, dark: bool) -> None:
    assert is_dark(np.full((480, 640, 3), level, np.uint8)) is dark


def test_a_lamp_in_a_dark_room_is_light() -> None:
    room = np.zeros((480, 640, 3), np.uint8)
    room[100:110, 100:110] = 255
    assert not is_dark(room)


def test_darkness_is_told_of_from_its_first_picture_on() -> None:
    watch = FrameWatch(None)
    black = np.zeros((48, 64, 3), np.uint8)
    frames = [(1.0, noise(1)), *((float(second), black) for second in range(5, 5 + int(DARK_TIMEOUT_S)))]
    frames += [(5 + DARK_TIMEOUT_S, black), (60.0, noise(2)), (61.0, black)]
    seen: list[int | None] = []
    for second, pixels in frames:
        watch.look_for_light(at(second, pixels))
        seen.append(watch.dark_since_ns)
    assert seen == [None] * (1 + int(DARK_TIMEOUT_S)) + [5 * SECOND_NS, None, None]
