"""Images and videos: what is found, and what damaged files do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device.core.clock import ManualClock
from device.core.errors import SourceError, UsageError
from device.protocols import Frame, FrameSource
from device.sources.base import SourceOptions
from device.sources.uri import open_source

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")

from device.image.opencv import VideoFile, decode_image, encode_image  # noqa: E402

TIMEOUT_S = 5.0


def noise(height: int = 48, width: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encode_image(path, noise())


def origins(source: FrameSource, folder: Path) -> list[str]:
    found = []
    while (frame := source.read(TIMEOUT_S)) is not None:
        found.append(str(Path(frame.origin).relative_to(folder)))
    return found


def reason_of(action: Callable[[], object]) -> str:
    with pytest.raises(SourceError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def read_to_the_end(source: FrameSource, frames: list[Frame] | None = None) -> None:
    while (frame := source.read(TIMEOUT_S)) is not None:
        if frames is not None:
            frames.append(frame)


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_to_its_bottom_in_order(tmp_path: Path) -> None:
    write_images(tmp_path, "b/2.png", "b/1.jpg", "a.png", "c/d/e.webp", "b.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_bytes(b"shadow")
    with open_source(f"images:{tmp_path}") as source:
        assert origins(source, tmp_path) == ["a.png", "b/1.jpg", "b/2.png", "b.png", "c/d/e.webp"]


def test_a_glob_takes_what_it_names(tmp_path: Path) -> None:
    write_images(tmp_path, "a/1.png", "a/2.png", "b/1.png", "deep/er/1.png")
    for pattern, expected in [
        ("*/1.png", ["a/1.png", "b/1.png"]),
        ("**/1.png", ["a/1.png", "b/1.png", "deep/er/1.png"]),
        ("[ab]", ["a/1.png", "a/2.png", "b/1.png"]),
        ("a/1.png", ["a/1.png"]),
    ]:
        with open_source(f"images:{tmp_path}/{pattern}") as source:
            assert origins(source, tmp_path) == expected


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "[2024] trip/a.png")
    with open_source(f"images:{tmp_path}/[2024] trip") as source:
        assert origins(source, tmp_path) == ["[2024] trip/a.png"]


def test_a_file_named_outright_needs_no_ending(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "a.png").rename(tmp_path / "capture")
    with open_source(f"images:{tmp_path}/capture") as source:
        assert source.read(TIMEOUT_S) is not None


def test_nothing_there_and_nothing_in_it_differ(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert reason_of(lambda: open_source(f"images:{tmp_path}")) == "empty"
    assert reason_of(lambda: open_source(f"images:{tmp_path}/*.png")) == "empty"
    assert reason_of(lambda: open_source(f"images:{tmp_path}/gone")) == "missing"
    with pytest.raises(UsageError):
        open_source("images:")


@pytest.mark.unprivileged
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "locked").chmod(0)
    try:
        assert reason_of(lambda: open_source(f"images:{tmp_path}")) == "missing"
    finally:
        (tmp_path / "locked").chmod(0o755)


def test_a_bad_file_is_an_error_and_the_source_goes_on(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_bytes(b"this is no image")
    with open_source(f"images:{tmp_path}") as source:
        assert source.read(TIMEOUT_S) is not None
        with pytest.raises(SourceError, match=r"b\.png") as caught:
            source.read(TIMEOUT_S)
        assert caught.value.reason == "decode"
        frame = source.read(TIMEOUT_S)
        assert frame is not None
        assert frame.index == 2
        assert source.read(TIMEOUT_S) is None


def test_a_file_that_vanishes_is_an_error_and_the_source_goes_on(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    with open_source(f"images:{tmp_path}") as source:
        (tmp_path / "a.png").unlink()
        assert reason_of(lambda: source.read(TIMEOUT_S)) == "decode"
        assert source.read(TIMEOUT_S) is not None


def test_loop_begins_again(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    with open_source(f"images:{tmp_path}", SourceOptions(loop=True)) as source:
        frames = [source.read(TIMEOUT_S) for _ in range(5)]
    assert [(frame.index, Path(frame.origin).name) for frame in frames if frame] == [
        (0, "a.png"),
        (1, "b.png"),
        (2, "a.png"),
        (3, "b.png"),
        (4, "a.png"),
    ]


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    target = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        os.rename(tmp_path / "a.png", target)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with open_source(f"images:{tmp_path}") as source:
        frame = source.read(TIMEOUT_S)
    assert frame is not None
    frame.origin.encode()


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_an_image_that_breaks_off_is_noticed(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    encode_image(path, noise(200, 200))
    assert decode_image(path).shape == (200, 200, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert reason_of(lambda: decode_image(path)) == "decode"


def write_jpeg(path: Path, *options: int) -> bytes:
    is_encoded, data = cv2.imencode(".jpg", noise(64, 64), list(options))
    assert is_encoded
    path.write_bytes(data.tobytes())
    return path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)],
    ids=["baseline", "progressive", "restarts"],
)
def test_whole_jpegs_of_any_kind_are_taken_and_cut_ones_refused(tmp_path: Path, options: tuple[int, ...]) -> None:
    path = tmp_path / "a.jpg"
    whole = write_jpeg(path, *options)
    assert decode_image(path).shape == (64, 64, 3)
    for size in range(len(whole) // 4, len(whole), 97):
        path.write_bytes(whole[:size])
        assert reason_of(lambda: decode_image(path)) == "decode"


def test_an_end_marker_inside_a_thumbnail_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    whole = write_jpeg(path)
    thumbnail = b"Exif\0\0" + whole[:600] + b"\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert decode_image(path).shape == (64, 64, 3)
    path.write_bytes((whole[:2] + segment + whole[2:])[:-200])
    assert reason_of(lambda: decode_image(path)) == "decode"


def test_bytes_behind_the_end_of_a_jpeg_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(write_jpeg(path) + b"a phone's depth map")
    assert decode_image(path).shape == (64, 64, 3)


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(SourceError, match="empty file"):
        decode_image(tmp_path / "a.jpg")


def test_grey_and_transparent_images_become_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((8, 8), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((8, 8, 4), (10, 20, 30, 0), np.uint8))
    assert decode_image(tmp_path / "grey.png")[0, 0].tolist() == [90, 90, 90]
    assert decode_image(tmp_path / "alpha.png")[0, 0].tolist() == [30, 20, 10]


# --- video ------------------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: int = 20) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV can't write MJPEG")
    for _ in range(frames):
        writer.write(noise())
    writer.release()
    return path.read_bytes()


def test_a_video_that_breaks_off_says_at_which_frame_and_then_ends(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    whole = write_video(path)
    path.write_bytes(whole[: len(whole) // 2])
    with open_source(f"video:{path}") as source:
        frames: list[Frame] = []
        with pytest.raises(SourceError, match=r"ends early, at frame \d+; expected 20 frames") as caught:
            read_to_the_end(source, frames)
        assert caught.value.reason == "ended"
        assert f"frame {len(frames)};" in str(caught.value)
        assert 5 <= len(frames) < 20
        assert source.read(TIMEOUT_S) is None


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    assert reason_of(lambda: open_source(f"video:{tmp_path}/notes.mp4")) == "decode"
    assert reason_of(lambda: open_source(f"video:{tmp_path}/empty.mp4")) == "decode"
    assert reason_of(lambda: open_source(f"video:{tmp_path}/gone.mp4")) == "missing"
    assert reason_of(lambda: open_source(f"video:{tmp_path}")) == "missing"
    with pytest.raises(UsageError):
        open_source("video:")


def test_a_damaged_video_writes_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "clip.mkv"
    whole = write_video(path)
    path.write_bytes(whole[: len(whole) // 2])
    capfd.readouterr()
    with open_source(f"video:{path}") as source, pytest.raises(SourceError):
        read_to_the_end(source)
    assert capfd.readouterr() == ("", "")


def test_a_video_loops(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", frames=3)
    with open_source(f"video:{tmp_path}/clip.avi", SourceOptions(loop=True)) as source:
        frames = [source.read(TIMEOUT_S) for _ in range(7)]
    assert [frame.index for frame in frames if frame] == list(range(7))


def test_a_relative_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "clip.avi", frames=2)
    (tmp_path / "clip.avi").rename(tmp_path / "10:30.avi")
    monkeypatch.chdir(tmp_path)
    with open_source("video:10:30.avi") as source:
        assert source.read(TIMEOUT_S) is not None


# --- in real time -----------------------------------------------------------------------------------------------------

LEVEL_STEP = 10


def write_numbered_video(path: Path, frames: int, rate_fps: float = 10.0) -> None:
    """Each frame's grey says which it is."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate_fps, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV can't write MJPEG")
    for index in range(frames):
        writer.write(np.full((48, 64, 3), LEVEL_STEP * index, np.uint8))
    writer.release()


def number_of(frame: Frame | None) -> int:
    """Which frame of the file it is, by its pixels."""
    assert frame is not None
    return round(float(frame.pixels.mean()) / LEVEL_STEP)


class CountingFile(VideoFile):
    """Counts what is asked of it."""

    reads = skips = 0

    def read(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
        CountingFile.reads += 1
        return super().read()

    def skip(self) -> bool:
        CountingFile.skips += 1
        return super().skip()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[CountingFile]:
    CountingFile.reads = CountingFile.skips = 0
    monkeypatch.setattr("device.image.opencv.VideoFile", CountingFile)
    return CountingFile


class TickingClock(ManualClock):
    """Time passes whenever someone looks."""

    def now_ns(self) -> int:
        self.advance(0.01)
        return super().now_ns()


def realtime(clock: ManualClock, *, loop: bool = False, rate_fps: float | None = None) -> SourceOptions:
    return SourceOptions(realtime=True, clock=clock, loop=loop, rate_fps=rate_fps)


def test_a_video_in_real_time_keeps_its_own_rate(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "clip.avi", frames=9, rate_fps=8.0)
    with open_source(f"video:{tmp_path}/clip.avi", realtime(ManualClock(), rate_fps=30.0)) as source:
        assert source.spec.rate_fps == 8.0
        frames: list[Frame] = []
        read_to_the_end(source, frames)
    assert [number_of(frame) for frame in frames] == list(range(9))
    assert [frame.timestamp_ns for frame in frames] == [index * 125_000_000 for index in range(9)]


def test_a_slow_reader_of_a_video_misses_frames_at_little_cost(tmp_path: Path, counting: type[CountingFile]) -> None:
    write_numbered_video(tmp_path / "clip.avi", frames=20)
    clock = ManualClock()
    seen = []
    with open_source(f"video:{tmp_path}/clip.avi", realtime(clock)) as source:
        for pause_s in (0.0, 0.35, 0.0, 0.99):
            clock.advance(pause_s)
            frame = source.read(TIMEOUT_S)
            assert frame is not None
            seen.append((frame.index, number_of(frame), frame.timestamp_ns // 1_000_000))
        clock.advance(60.0)
        assert source.read(TIMEOUT_S) is None
        assert source.read(TIMEOUT_S) is None
    assert seen == [(0, 0, 0), (3, 3, 300), (4, 4, 400), (13, 13, 1300)]
    assert counting.reads == 4
    # Frames 1, 2, 5 to 12, 14 to 19, and once the end.
    assert counting.skips == 17


def test_a_looped_video_in_real_time_goes_round_though_hours_were_missed(tmp_path: Path, counting: type[CountingFile]) -> None:
    write_numbered_video(tmp_path / "clip.avi", frames=7)
    clock = ManualClock()
    with open_source(f"video:{tmp_path}/clip.avi", realtime(clock, loop=True)) as source:
        frames = [source.read(TIMEOUT_S) for _ in range(16)]
        assert [number_of(frame) for frame in frames] == [index % 7 for index in range(16)]
        assert [(frame.index, frame.timestamp_ns) for frame in frames if frame] == [
            (index, index * 100_000_000) for index in range(16)
        ]
        clock.advance(3600.0)
        frame = source.read(TIMEOUT_S)
    assert frame is not None
    assert frame.index == 36015
    assert number_of(frame) == 36015 % 7
    assert counting.skips <= 7 + 1


def test_frames_that_take_too_long_to_pass_over_are_a_stall_and_the_next_read_goes_on(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "clip.avi", frames=20)
    clock = TickingClock()
    with open_source(f"video:{tmp_path}/clip.avi", realtime(clock)) as source:
        assert number_of(source.read(TIMEOUT_S)) == 0
        clock.advance(1.6)
        with pytest.raises(SourceError, match=r"must be decoded first") as caught:
            source.read(0.05)
        assert caught.value.reason == "stalled"
        frame = source.read(TIMEOUT_S)
        assert frame is not None
        assert number_of(frame) == frame.index >= 16


@pytest.mark.parametrize("told_fps", [0.0, float("nan"), 90_000.0])
def test_a_video_without_a_rate_takes_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_fps: float) -> None:
    write_numbered_video(tmp_path / "clip.avi", frames=2)
    monkeypatch.setattr(VideoFile, "rate_fps", told_fps)
    with open_source(f"video:{tmp_path}/clip.avi", realtime(ManualClock(), rate_fps=4.0)) as source:
        assert source.spec.rate_fps == 4.0
    with pytest.raises(UsageError, match="no frame rate"):
        open_source(f"video:{tmp_path}/clip.avi", realtime(ManualClock()))


def test_a_video_that_breaks_off_in_real_time_is_said_too(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    whole = write_video(path)
    path.write_bytes(whole[: len(whole) // 2])
    clock = ManualClock()
    with open_source(f"video:{path}", realtime(clock)) as source:
        assert source.read(TIMEOUT_S) is not None
        clock.advance(1.9)
        with pytest.raises(SourceError, match="ends early, at frame") as caught:
            source.read(TIMEOUT_S)
        assert caught.value.reason == "ended"
        assert source.read(TIMEOUT_S) is None


def test_close_ends_the_wait_for_a_videos_next_frame(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "clip.avi", frames=2, rate_fps=1.0)
    waits = threading.Event()

    class TellingClock(ManualClock):
        def sleep(self, duration_s: float) -> None:
            waits.set()
            threading.Event().wait(0.01)

    source = open_source(f"video:{tmp_path}/clip.avi", realtime(TellingClock()))
    source.read(TIMEOUT_S)
    raised: list[str] = []
    reader = threading.Thread(target=lambda: raised.append(reason_of(lambda: source.read(60.0))), daemon=True)
    reader.start()
    assert waits.wait(10.0)
    source.close()
    reader.join(10.0)
    assert raised == ["closed"]


def test_images_in_real_time_fall_due_at_the_rate_and_missed_ones_are_not_opened(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{index}.png" for index in range(8)))
    (tmp_path / "2.png").write_bytes(b"no image, but missed")
    (tmp_path / "5.png").write_bytes(b"no image, and looked at")
    clock = ManualClock()
    with open_source(f"images:{tmp_path}", realtime(clock, rate_fps=2.0)) as source:
        assert source.spec.rate_fps == 2.0
        first, second = source.read(TIMEOUT_S), source.read(TIMEOUT_S)
        clock.advance(1.2)
        third = source.read(TIMEOUT_S)
        frames = [frame for frame in (first, second, third) if frame]
        assert [(frame.index, Path(frame.origin).name, frame.timestamp_ns / 1e9) for frame in frames] == [
            (0, "0.png", 0.0),
            (1, "1.png", 0.5),
            (3, "3.png", 1.5),
        ]
        assert number_after_damage(source, clock) == 6
        clock.advance(60.0)
        assert source.read(TIMEOUT_S) is None


def number_after_damage(source: FrameSource, clock: ManualClock) -> int:
    """Index of the frame behind the damaged one."""
    clock.advance(0.9)
    assert reason_of(lambda: source.read(TIMEOUT_S)) == "decode"
    frame = source.read(TIMEOUT_S)
    assert frame is not None
    return frame.index


def test_looped_images_in_real_time_go_round(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    clock = ManualClock()
    with open_source(f"images:{tmp_path}", realtime(clock, loop=True, rate_fps=1.0)) as source:
        assert source.read(TIMEOUT_S) is not None
        clock.advance(3600.5)
        frame = source.read(TIMEOUT_S)
    assert frame is not None
    assert (frame.index, Path(frame.origin).name, frame.timestamp_ns) == (3600, "a.png", 3_600_000_000_000)


def test_images_in_real_time_need_a_rate(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    with pytest.raises(UsageError, match="no frame rate"):
        open_source(f"images:{tmp_path}", realtime(ManualClock()))
