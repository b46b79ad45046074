"""Real camera servers on loopback, made by others: GStreamer's RTSP server, and motion's MJPEG server.

Each plays a clip made of scikit-image's photographs in a loop, and asks for a user and a password by Digest.
``make setup-board`` installs them.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.unit.processes import ServerProcess, free_port

RATE_FPS = 10
USER, PASSWORD = "viewer", "Kanarienvogel-7f3a"

SYSTEM_PYTHON = Path("/usr/bin/python3")
RTSP_PROGRAM = Path(__file__).parent / "programs" / "rtsp_server.py"
START_LIMIT_S = 30.0

_QUESTIONS = {"http": b"GET / HTTP/1.1\r\nHost: camera\r\n\r\n", "rtsp": b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"}

_FRAMES = 200
_WIDTH_PX, _HEIGHT_PX = 320, 240


class Clip(NamedTuple):
    """The same pictures as a file and one by one.

    Attributes:
        video: motion JPEG in Matroska.
        pattern: of the pictures' names.
        length: of the clip, in pictures.
    """

    video: Path
    pattern: Path
    length: int


def make_clip(folder: Path) -> Clip:
    """A window that moves over a photograph: no two pictures in a row are the same."""
    import cv2
    from skimage import data

    photograph = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)  # type: ignore[no-untyped-call]
    video = folder / "clip.mkv"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), RATE_FPS, (_WIDTH_PX, _HEIGHT_PX))
    assert writer.isOpened()
    for index in range(_FRAMES):
        picture = np.ascontiguousarray(np.roll(photograph, 2 * index, axis=1)[120 : 120 + _HEIGHT_PX, :_WIDTH_PX])
        writer.write(picture)
        assert cv2.imwrite(str(folder / f"{index:04d}.jpg"), picture)
    writer.release()
    return Clip(video, folder / "%04d.jpg", _FRAMES)


class Server(ServerProcess):
    """A camera server: started, killed, frozen, as a camera is by its supply or its own bugs.

    Args:
        scheme: of its URI.
        path: of its URI.
        make_command: from a port and a folder of the server's own to what to run.
        folder: for what the server writes.
    """

    def __init__(self, scheme: str, path: str, make_command: Callable[[int, Path], list[str]], folder: Path) -> None:
        self.port = free_port()
        self.uri = f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{self.port}{path}"
        self.safe_uri = f"{scheme}://127.0.0.1:{self.port}{path}"
        command = make_command(self.port, folder)
        super().__init__(command, folder / "server.log", self._is_up, START_LIMIT_S)

    def _is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(_QUESTIONS[self.uri.partition(":")[0]])
                return bool(connection.recv(1))
        except OSError:
            return False


def rtsp_server(clip: Clip, folder: Path) -> Server:
    """GStreamer's RTSP server: the clip as H.264. Skips where it isn't installed."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"{SYSTEM_PYTHON} is missing: make setup-board")
    check = subprocess.run([SYSTEM_PYTHON, RTSP_PROGRAM, "--check"], capture_output=True, text=True, check=False)
    if check.returncode:
        pytest.skip(f"GStreamer's RTSP server is missing ({check.stderr.strip().splitlines()[-1]}): make setup-board")

    def make_command(port: int, _: Path) -> list[str]:
        clip_facts = (str(clip.pattern), str(clip.length), str(RATE_FPS))
        return [str(SYSTEM_PYTHON), str(RTSP_PROGRAM), str(port), *clip_facts, USER, PASSWORD]

    return Server("rtsp", "/stream", make_command, folder)


def mjpeg_server(clip: Clip, folder: Path) -> Server:
    """Motion, with the clip for a camera. Skips where it isn't installed."""
    from tests.board.harness.packages import find

    motion = find("motion")
    if motion is None:
        pytest.skip("motion is missing: make setup-board")

    def make_command(port: int, folder: Path) -> list[str]:
        configuration = folder / "motion.conf"
        configuration.write_text(
            "daemon off\nsetup_mode off\nlog_level 5\n"
            f"target_dir {folder}\npicture_output off\nmovie_output off\nwebcontrol_port 0\n"
            f"netcam_url file://{clip.video}\nwidth {_WIDTH_PX}\nheight {_HEIGHT_PX}\nframerate {RATE_FPS}\n"
            f"stream_port {port}\nstream_localhost on\nstream_maxrate {RATE_FPS}\nstream_motion off\n"
            f"stream_auth_method 2\nstream_authentication {USER}:{PASSWORD}\n"
        )
        return [str(motion), "-n", "-c", str(configuration), "-l", str(folder / "motion.log")]

    return Server("http", "/", make_command, folder)
