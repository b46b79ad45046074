"""The user-mode lane: arm64 programs under qemu-user, on the host's kernel.

QEMU 10 from Debian 13 is taken on every host: it is static, and it fakes ``/proc/cpuinfo``. Older ones hand the host's own
through; LiteRT then finds no ARM features and leaves XNNPACK out, or stops.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from . import sandbox
from .cache import Cache, fingerprint
from .debian import Apt, unpack
from .process import Result, run_limited

# `max` has whatever QEMU can emulate; no board has it.
Cpu = Literal["cortex-a53", "cortex-a72", "cortex-a76", "max"]

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def emulator(cache: Cache) -> Path:
    """Gives the folder of Debian 13's static ``qemu-aarch64``."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            unpacked = Path(name) / "unpacked"
            unpack(Apt(Path(name) / "apt", "trixie", "amd64").fetch_alone(["qemu-user"]), unpacked)
            shutil.copy(unpacked / "usr/bin/qemu-aarch64", folder)

    here = Path(__file__)
    return cache.entry("qemu-user", [fingerprint(here, here.with_name("debian.py"))], build)


class ArmUser:
    """Runs programs of an arm64 tree.

    Args:
        tree: from `tree.board_tree`.
        qemu: from `emulator`.
    """

    def __init__(self, tree: Path, qemu: Path) -> None:
        self.tree = tree
        self._qemu = qemu

    def run(
        self,
        argv: Sequence[str],
        *,
        cpu: Cpu,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        writable: Mapping[str, Path] | None = None,
    ) -> Result:
        """Runs a program to its end, or to the limit.

        Args:
            argv: the program's absolute path inside the tree, and its arguments.
            cpu: the processor to be.
            timeout_s: killed after that.
            env: added to an environment that is otherwise bare.
            mounts: path inside the tree (one of `sandbox.MOUNT_POINTS`) -> the host's folder, read-only.
            writable: the same, writable.

        Returns:
            How it ended. ``peak_rss_bytes`` is the emulator's, program included: an upper bound of the program's own.
        """
        inner = ["/opt/qemu/qemu-aarch64", "-cpu", cpu, *argv]
        command = sandbox.inside(self.tree, inner, mounts={"opt/qemu": self._qemu, **(mounts or {})}, writable=writable)
        return run_limited(command, timeout_s=timeout_s, env=bare_environment(env))


def bare_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a service's environment holds: nothing of the developer's own comes through."""
    basic = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return basic | dict(extra or {})
