"""The real picamera2, on the real libcamera, with the real bundle: on libcamera's virtual camera in a Debian 13.

``programs/virtual_camera`` makes up for what a virtual camera lacks. What the Pi's ISP does to a picture is not shown here.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from device.bundle import open_bundle
from device.contract import Backoff
from device.sources.isp import choose_stream_sizes
from tests.unit.bundles import copy_bundle

from .conftest import PROGRAMS, require_tools
from .harness import tree
from .harness.cache import Cache
from .harness.camera import CameraBoard, VirtualCamera, dma_buffers
from .harness.process import Result
from .harness.tree import REPOSITORY

pytestmark = pytest.mark.camera

LIMIT_S = 120.0
FRAMES = 40
STALL_AFTER = 20

# Colour bars from left to right. The virtual camera moves them to the left, one pixel a frame.
BARS = (
    (255, 255, 255),
    (255, 255, 0),
    (0, 255, 255),
    (0, 255, 0),
    (255, 0, 255),
    (255, 0, 0),
    (0, 0, 255),
    (0, 0, 0),
)
QUADRANTS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]], np.uint8)

# Of a colour that went through YUV, and of one that went through JPEG too.
YUV_ERROR = 6
JPEG_ERROR = 16


@pytest.fixture(scope="session")
def board(cache: Cache) -> CameraBoard:
    require_tools("unshare", "timeout", "cc")
    return CameraBoard(tree.board_tree(cache, tree.TRIXIE_AMD64, tree.CAMERA), dma_buffers(cache))


class Runner:
    """Runs programs on the board; each test has its own ``/share``."""

    def __init__(self, board: CameraBoard, share: Path, bundle: Path) -> None:
        self._board = board
        self._bundle = bundle
        self.share = share

    def run(self, arguments: list[str], cameras: list[VirtualCamera], **env: str) -> Result:
        result = self._board.run(
            arguments,
            share=self.share,
            cameras=cameras,
            timeout_s=LIMIT_S,
            env={"PYTHONPATH": "/opt/data/virtual_camera:/opt/ghostwatt", "OPENBLAS_NUM_THREADS": "1", **env},
            mounts={"opt/ghostwatt": REPOSITORY, "opt/data": PROGRAMS, "opt/bundle": self._bundle},
        )
        assert not result.timed_out, f"hung for {result.duration_s:.0f} s\n{result.stderr}"
        return result

    def program(self, arguments: list[str], cameras: list[VirtualCamera], **env: str) -> Any:
        result = self.run(["/opt/data/camera.py", *arguments], cameras, **env)
        assert result.exit_code == 0, result.stderr
        return json.loads((self.share / "seen.json").read_text())

    def daemon(self, flags: list[str], cameras: list[VirtualCamera], **env: str) -> tuple[Any, str]:
        """Runs it on the first camera; gives its summary, and what it said on stderr."""
        flags = ["--bundle", "/opt/bundle", "--source", "picamera2:0", "--threads", "1", "--json", *flags]
        flags += ["--telemetry", "/tmp/telemetry.sqlite", "--predictions", "/share/predictions.jsonl"]
        # SQLite's shared memory needs a local file system; only the finished file goes to the share.
        program = "import runpy, shutil\ntry: runpy.run_module('device.run', run_name='__main__')\n"
        program += "finally: shutil.copy('/tmp/telemetry.sqlite', '/share')"
        result = self.run(["-c", program, *flags], cameras, **env)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout), result.stderr

    def interruptions(self) -> list[dict[str, Any]]:
        with sqlite3.connect(self.share / "telemetry.sqlite") as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute("SELECT * FROM interruption ORDER BY started_ns")]
        connection.close()
        return rows

    def frame(self) -> NDArray[np.uint8]:
        frame: NDArray[np.uint8] = np.load(self.share / "frame.npy")
        return frame


@pytest.fixture
def runner(board: CameraBoard, bundle: Path, tmp_path: Path) -> Runner:
    return Runner(board, tmp_path, bundle)


def camera(*sizes_px: tuple[int, int], name: str = "Virtual0", picture: str = "") -> VirtualCamera:
    # The largest comes first: picamera2 asks for a larger picture before it is told what is wanted.
    return VirtualCamera(name, [(1280, 720), (640, 480), *sizes_px], picture=picture)


@pytest.mark.parametrize("platform", ["VC4", "PISP"])
@pytest.mark.parametrize("padded", ["", "1"])
@pytest.mark.parametrize("input_px", [224, 192])
def test_colours_are_in_order(runner: Runner, platform: str, padded: str, input_px: int) -> None:
    cameras = [camera((input_px, input_px))]
    env = {"GHOSTWATT_PLATFORM": platform, "GHOSTWATT_PADDED": padded}
    seen = runner.program(["frames", "0", str(input_px), "crop"], cameras, **env)
    pixels = runner.frame()
    assert pixels.shape == (input_px, input_px, 3)
    assert seen["uri"] == "picamera2:0"
    width = input_px // len(BARS)
    bars = np.repeat(np.array(BARS, np.int16), width, axis=0)
    moved_px = min(range(input_px), key=lambda px: int(np.abs(pixels[0] - np.roll(bars, -px, axis=0)).sum()))
    columns = [(number * width + width // 2 - moved_px) % input_px for number in range(len(BARS))]
    for row in (0, input_px // 2, input_px - 1):
        np.testing.assert_allclose(pixels[row, columns], BARS, rtol=0, atol=YUV_ERROR)


def test_top_is_up_and_left_is_left(runner: Runner) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[camera]'")
    from device.image.opencv import encode_image

    encode_image(runner.share / "picture.jpg", np.repeat(np.repeat(QUADRANTS, 128, axis=0), 128, axis=1))
    cameras = [camera((224, 224), picture="/share/picture.jpg")]
    runner.program(["frames", "0", "224", "crop"], cameras)
    corners = runner.frame()[56:224:112, 56:224:112]
    np.testing.assert_allclose(corners, QUADRANTS, rtol=0, atol=JPEG_ERROR)


def test_frames_tell_when_they_were_taken(runner: Runner) -> None:
    seen = runner.program(["frames", "0", "224", "crop"], [camera((224, 224))])
    assert 0 <= seen["age_s"] < 1.0
    assert seen["rate_fps"] == pytest.approx(30.0, rel=0.01)
    assert seen["index"] >= 7


def test_camera_is_found_by_its_model(runner: Runner) -> None:
    cameras = [camera((224, 224), name="Left"), camera((192, 192), name="Right")]
    seen = runner.program(["frames", "model of right", "192", "crop"], cameras)
    assert seen["uri"] == "picamera2:model of right"
    assert runner.frame().shape == (192, 192, 3)


def test_twenty_openings_leave_nothing_behind(runner: Runner, report: list[str]) -> None:
    seen = runner.program(["reopen", "0", "20"], [camera((256, 256), (224, 224))])
    assert len({round_["descriptors"] for round_ in seen}) == 1
    assert {round_["threads"] for round_ in seen} == {1}
    grown = seen[-1]["rss"] - seen[4]["rss"]
    report.append(f"picamera2 opened 20 times: {grown / 1e6:.1f} MB of memory more than after the 5th")
    assert grown < 8e6


def test_camera_in_use_is_told_and_can_be_had_later(runner: Runner) -> None:
    seen = runner.program(["busy", "0"], [camera((256, 256), (224, 224))])
    assert seen["reason"] == "busy"
    assert "\n" not in seen["line"]
    assert seen["first_goes_on"]
    assert seen["opens_again"]


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_daemon_runs_the_bundle_on_camera_frames(runner: Runner, bundle: Path, runtime: str, report: list[str]) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[camera]'")
    from device.image.opencv import encode_image

    preprocessing = open_bundle(bundle).manifest.model.preprocessing
    streams = choose_stream_sizes(preprocessing, (1280, 720))
    golden = open_bundle(bundle).golden()
    surest = int(np.argmax([np.ptp(scores.astype(float)) for scores in golden.logits[runtime]]))
    encode_image(runner.share / "picture.jpg", golden.pixels[surest])
    cameras = [camera(streams.lores_px, streams.main_px, picture="/share/picture.jpg")]
    summary, _ = runner.daemon(["--runtime", runtime, "--frames", str(FRAMES)], cameras)
    assert summary["frames"] == FRAMES
    assert summary["source"] == "picamera2:0"
    records = [json.loads(line) for line in (runner.share / "predictions.jsonl").read_text().splitlines()]
    indices = [record["index"] for record in records]
    assert indices == sorted(set(indices))
    assert all(0 < record["latency_s"] < 10 for record in records)
    # The same picture, so the same answer, which is the host's: a wrong order of colours or rows would give another.
    assert len({(record["labels"][0], round(record["scores"][0], 3)) for record in records}) == 1
    labels = open_bundle(bundle).labels
    assert records[0]["labels"][0] == labels[int(np.argmax(golden.logits[runtime][surest]))]
    assert runner.interruptions() == []
    report.append(f"picamera2 on {runtime}: {summary['frames']} frames of a virtual camera, {records[0]['labels'][0]}")


def test_camera_that_stalls_again_and_again_is_opened_again(
    board: CameraBoard, bundle: Path, tmp_path: Path, report: list[str]
) -> None:
    own = open_bundle(bundle).manifest.profile.camera
    impatient = msgspec.structs.replace(own, stall_timeout_s=1.0, backoff=Backoff(first_s=0.1, max_s=0.2))
    changed = copy_bundle(bundle, tmp_path / "bundle", camera=impatient)
    share = tmp_path / "share"
    share.mkdir()
    runner = Runner(board, share, changed)
    streams = choose_stream_sizes(open_bundle(changed).manifest.model.preprocessing, (1280, 720))
    cameras = [camera(streams.lores_px, streams.main_px)]
    flags = ["--runtime", "litert", "--frames", str(2 * STALL_AFTER + 1)]
    summary, errors = runner.daemon(flags, cameras, GHOSTWATT_STALL_AFTER=str(STALL_AFTER))
    assert summary["frames"] == 2 * STALL_AFTER + 1
    rows = runner.interruptions()
    # The run may end in one: the camera stalls again while the last frame is looked at.
    over = [row for row in rows if row["is_over"]]
    assert len(over) >= 2
    assert over in (rows, rows[:-1])
    for row in rows:
        assert (row["reason"], row["source"]) == ("stalled", "picamera2:0")
        assert 0.9 < row["duration_s"] < 30
    assert all(row["attempts"] >= 1 for row in over)
    assert errors.count("picamera2:0: stalled") == len(rows)
    assert errors.count("picamera2:0: well again") == len(over)
    report.append(f"picamera2 stalled {len(over)} times in {summary['frames']} frames, recovered each time")


@pytest.mark.parametrize(
    ("source", "cameras", "message"),
    [
        ("picamera2:0", [], "libcamera finds no camera"),
        ("picamera2:5", [camera((224, 224))], "no camera '5'; expected one of 0 (model of Virtual0, Virtual0)"),
    ],
)
def test_daemon_without_its_camera_says_so_in_one_line(
    runner: Runner, source: str, cameras: list[VirtualCamera], message: str
) -> None:
    result = runner.run(["-m", "device.run", "--bundle", "/opt/bundle", "--threads", "1", "--source", source], cameras)
    assert result.exit_code == 20
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in result.stderr
