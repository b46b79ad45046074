"""The V4L2 source over a camera that does whatever a driver may do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

from device.errors import SourceError, UsageError
from device.protocols import FrameSource, Image
from device.sources import SourceOptions, open_source, v4l2

FAST_S = 0.2
SLOW_S = 20.0


class FakeCamera:
    """Stands in for the driver: ``behaviour`` is called for each frame, and may take as long as it likes."""

    rate_fps = 30.0
    behaviour: Callable[[int], Image | None] = staticmethod(lambda number: np.full((8, 8, 3), number, np.uint8))

    def __init__(self, path: Path, *wishes: object) -> None:
        self.wishes = wishes
        self.closed = threading.Event()
        self.frames = 0
        self.timestamp_ns = 0
        opened.append(self)

    def read(self) -> Image | None:
        time.sleep(0.005)
        pixels = type(self).behaviour(self.frames)
        self.frames += 1
        self.timestamp_ns = time.monotonic_ns() - 1_000_000
        return pixels

    def close(self) -> None:
        self.closed.set()


opened: list[FakeCamera] = []


@pytest.fixture(autouse=True)
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    opened.clear()
    fake = type("Camera", (FakeCamera,), {})
    monkeypatch.setattr(v4l2, "CaptureDevice", fake)
    return fake


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node that is there until it is unplugged."""
    path = tmp_path / "video0"
    path.symlink_to("/dev/null")
    return path


def test_frames_are_newest_and_count_what_was_dropped(node: Path) -> None:
    with open_source(f"v4l2:{node}") as source:
        first = source.read(SLOW_S)
        assert first is not None
        time.sleep(0.1)
        later = source.read(SLOW_S)
    assert later is not None
    assert later.index > first.index + 1
    assert int(later.pixels[0, 0, 0]) == later.index % 256
    assert source.spec.is_live
    assert source.spec.rate_fps == FakeCamera.rate_fps


def test_same_frame_is_never_given_twice(node: Path) -> None:
    with open_source(f"v4l2:{node}") as source:
        indices = [frame.index for _ in range(20) if (frame := source.read(SLOW_S))]
    assert indices == sorted(set(indices))


def test_driver_that_hangs_does_not_hang_the_reader(node: Path, camera: type[FakeCamera]) -> None:
    release = threading.Event()

    def hang(_: int) -> None:
        release.wait(SLOW_S)

    camera.behaviour = staticmethod(hang)
    with open_source(f"v4l2:{node}") as source:
        with pytest.raises(SourceError) as caught:
            source.read(FAST_S)
        assert caught.value.reason == "stalled"
        release.set()


def test_camera_that_comes_back_is_read_on(node: Path, camera: type[FakeCamera]) -> None:
    camera.behaviour = staticmethod(lambda number: None if number < 3 else np.zeros((8, 8, 3), np.uint8))
    with open_source(f"v4l2:{node}") as source:
        assert source.read(SLOW_S) is not None


def read_to_the_end(source: FrameSource) -> None:
    while source.read(SLOW_S):
        pass


def test_unplugged_camera_ends(node: Path, camera: type[FakeCamera]) -> None:
    camera.behaviour = staticmethod(lambda number: np.zeros((8, 8, 3), np.uint8) if number < 3 else None)
    with open_source(f"v4l2:{node}") as source:
        node.unlink()
        with pytest.raises(SourceError) as caught:
            read_to_the_end(source)
        assert caught.value.reason == "ended"


def test_driver_that_never_opens_is_given_up(node: Path, camera: type[FakeCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(v4l2, "OPEN_TIMEOUT_S", FAST_S)
    monkeypatch.setattr(v4l2, "CLOSE_TIMEOUT_S", FAST_S)

    class SlowCamera(FakeCamera):
        def __init__(self, path: Path, *wishes: object) -> None:
            release.wait(SLOW_S)
            super().__init__(path, *wishes)

    monkeypatch.setattr(v4l2, "CaptureDevice", SlowCamera)
    with pytest.raises(SourceError) as caught:
        open_source(f"v4l2:{node}")
    assert caught.value.reason == "stalled"
    release.set()


def test_close_lets_go_of_the_camera(node: Path) -> None:
    source = open_source(f"v4l2:{node}")
    source.close()
    source.close()
    assert opened[0].closed.wait(SLOW_S)
    with pytest.raises(SourceError) as caught:
        source.read(FAST_S)
    assert caught.value.reason == "closed"


def test_close_from_another_thread_ends_a_read(node: Path, camera: type[FakeCamera]) -> None:
    camera.behaviour = staticmethod(lambda _: None)
    source = open_source(f"v4l2:{node}")
    closer = threading.Timer(FAST_S, source.close)
    closer.start()
    with pytest.raises(SourceError) as caught:
        source.read(SLOW_S)
    assert caught.value.reason == "closed"
    closer.join()


def test_options_and_format_reach_the_camera(node: Path) -> None:
    options = SourceOptions(width_px=1280, height_px=720, rate_fps=15.0)
    with open_source(f"v4l2:{node}#MJPG", options) as source:
        assert source.spec.uri == f"v4l2:{node}#MJPG"
    assert opened[0].wishes == (1280, 720, 15.0, "MJPG")


@pytest.mark.parametrize("rest", ["", "video0", "#MJPG", "/dev/video0#MJPEG", "0/dev/video0", "-1"])
def test_uri_that_names_no_camera_is_refused(rest: str) -> None:
    with pytest.raises(UsageError, match="v4l2:DEVICE"):
        open_source(f"v4l2:{rest}")


def test_camera_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such camera"):
        open_source(f"v4l2:{tmp_path / 'video9'}")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="not a device"):
        open_source(f"v4l2:{tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("stamp_ns", "expected_ns"), [(9_000_000_000, 9_000_000_000), (0, 10_000_000_000), (11_000_000_000, 10_000_000_000)]
)
def test_stamp_of_another_clock_gives_way_to_the_arrival(stamp_ns: int, expected_ns: int) -> None:
    assert v4l2._choose_timestamp_ns(stamp_ns, 10_000_000_000) == expected_ns
