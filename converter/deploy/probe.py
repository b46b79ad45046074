"""Asks a board about its hardware and system, and checks that the daemon can run there."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from converter.deploy.transport import Transport
from device.core.errors import DeployError

LEAST_PYTHON = (3, 11)
LEAST_SYSTEMD = 252
LEAST_FREE_BYTES = 500_000_000
"""For what travels, the new release, and the old ones beside it."""

# Runs on the board, by whatever Python 3 it has.
_SCRIPT = """
import importlib.util, json, os, platform, re, shutil, subprocess, sys
def output(*argv):
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
def text(path):
    try:
        with open(path) as file:
            return file.read().strip("\\0\\n")
    except OSError:
        return ""
systemd = output("systemctl", "--version")
found = re.search(rb"systemd (\\d+)", systemd.stdout) if systemd else None
sudo = output("sudo", "-n", "true")
free = shutil.disk_usage("/opt" if os.path.isdir("/opt") else "/").free
print(json.dumps({
    "model": text("/proc/device-tree/model"),
    "machine": platform.machine(),
    "python": list(sys.version_info[:2]),
    "glibc": platform.libc_ver()[1],
    "systemd": int(found.group(1)) if found else 0,
    "is_root": os.geteuid() == 0,
    "can_sudo": bool(sudo) and sudo.returncode == 0,
    "free_bytes": free,
    "modules": [name for name in ("picamera2", "cv2") if importlib.util.find_spec(name)],
    "release": os.path.basename(os.path.realpath("/opt/ghostwatt/current")) if os.path.exists("/opt/ghostwatt/current") else "",
}))
"""


class BoardProbe(NamedTuple):
    """Facts about a board.

    Attributes:
        model: the device tree's; empty where there is none.
        machine: as ``uname -m`` prints it.
        python: version of its Python.
        glibc: version of its C library.
        systemd: version; 0 where there is none.
        is_root: we are root there.
        can_sudo: we can become root without a password.
        free_bytes: of the disk that the software goes to.
        modules: those of picamera2 and cv2 that its distribution has installed.
        release: the current release of our software; empty if there is none.
    """

    model: str
    machine: str
    python: tuple[int, int]
    glibc: str
    systemd: int
    is_root: bool
    can_sudo: bool
    free_bytes: int
    modules: tuple[str, ...]
    release: str


def probe(transport: Transport) -> BoardProbe:
    """Asks a board.

    Raises:
        DeployError: ``ssh``; ``board``: it has no Python.
    """
    done = transport.run(f"exec python3 -I - <<'END'\n{_SCRIPT}END\n")
    try:
        found: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise DeployError(
            transport.name, f"has no Python 3 ({done.last_line})", remedy="apt install python3", reason="board"
        ) from error
    major, minor = found.pop("python")
    return BoardProbe(python=(major, minor), modules=tuple(found.pop("modules")), **found)


def require_fit(board: BoardProbe, name: str, arch: str) -> None:
    """Refuses a board that can't run it.

    Args:
        board: what it says of itself.
        name: what the user calls it.
        arch: that the profile was made for.

    Raises:
        DeployError: ``board``; the message names what is missing.
    """
    required = ".".join(map(str, LEAST_PYTHON))
    problems = [
        (board.machine != arch, f"is {board.machine}", f"{arch}, which the profile is for", "a 64-bit OS, or another PROFILE="),
        (board.python < LEAST_PYTHON, f"has Python {board.python[0]}.{board.python[1]}", f"{required} or newer", "a newer OS"),
        (board.systemd < LEAST_SYSTEMD, f"has systemd {board.systemd or 'not'}", f"{LEAST_SYSTEMD} or newer", "a newer OS"),
        (not board.glibc, "has another C library", "glibc", "Debian, Raspberry Pi OS or their kin"),
        (
            not (board.is_root or board.can_sudo),
            "asks for a password before sudo",
            "sudo without one, or root@",
            'echo "$USER ALL=(ALL) NOPASSWD: ALL" | sudo tee /etc/sudoers.d/$USER',
        ),
        (
            board.free_bytes < LEAST_FREE_BYTES,
            f"has {board.free_bytes / 1e6:.0f} MB free for /opt",
            f"{LEAST_FREE_BYTES / 1e6:.0f} MB",
            "free some space",
        ),
    ]
    for is_true, found, expected, remedy in problems:
        if is_true:
            raise DeployError(name, found, expected=expected, remedy=remedy, reason="board")
