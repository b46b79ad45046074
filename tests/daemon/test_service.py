"""The daemon under a service manager: what it says, in which order, by the real command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from .conftest import PROJECT, command, environment

SOURCE = ("--source", "synthetic:48x48@30", "--threads", "1")


class Manager:
    """Listens as the service manager does, until the daemon is gone."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.lines: list[str] = []
        self.heard = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            line = self._socket.recv(4096).decode()
            with self.heard:
                self.lines.append(line)
                self.heard.notify_all()

    def wait_for(self, beginning: str) -> None:
        with self.heard:
            said = self.heard.wait_for(lambda: any(line.startswith(beginning) for line in self.lines), timeout=60)
            assert said, self.lines


def start(
    bundle: Path, tmp_path: Path, *arguments: object, sources: Sequence[object] = SOURCE
) -> tuple[Manager, subprocess.Popen[str]]:
    manager = Manager(tmp_path / "notify")
    variables = {**environment(), "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with (tmp_path / "err").open("w") as errors:
        status = os.fstat(errors.fileno())
        variables["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        daemon = subprocess.Popen(
            command("--bundle", bundle, *sources, *arguments),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=PROJECT,
            env=variables,
        )
    return manager, daemon


def test_it_says_ready_alive_how_it_goes_and_goodbye(bundle: Path, tmp_path: Path) -> None:
    manager, daemon = start(bundle, tmp_path)
    try:
        manager.wait_for("STATUS=")
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=60)
    finally:
        daemon.kill()
    assert daemon.returncode == 0
    manager.wait_for("STOPPING=1")
    kinds = [line.partition("=")[0] for line in manager.lines]
    assert kinds[0] == "READY"
    assert kinds.count("READY") == 1
    assert kinds.index("STOPPING") > kinds.index("STATUS") > kinds.index("WATCHDOG")
    (status, *_) = [line for line in manager.lines if line.startswith("STATUS=")]
    assert "FPS" in status
    assert "no power figure" in status or " W (" in status


def test_a_daemon_that_never_had_a_frame_never_was_ready(bundle: Path, tmp_path: Path) -> None:
    manager, daemon = start(bundle, tmp_path, sources=["--source", "v4l2:/dev/video-that-is-not-there"])
    daemon.communicate(timeout=60)
    assert daemon.returncode == 20
    assert manager.lines == []
    assert (tmp_path / "err").read_text().splitlines()[-1].startswith("<3>error: ")


def test_a_camera_that_is_away_leaves_the_other_one_ready(bundle: Path, tmp_path: Path) -> None:
    away = "v4l2:/dev/video-that-is-not-there"
    manager, daemon = start(bundle, tmp_path, "--source", away, "--duration", "3")
    daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert "READY=1" in manager.lines
    assert f"<4>warning: {away}: missing" in (tmp_path / "err").read_text()


def test_a_journal_has_no_line_an_interval(bundle: Path, tmp_path: Path) -> None:
    manager, daemon = start(bundle, tmp_path, "--duration", "3")
    daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert sum(line.startswith("STATUS=") for line in manager.lines) >= 2
    assert "FPS" not in (tmp_path / "err").read_text()
