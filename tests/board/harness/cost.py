"""Counts the ARM instructions of a region of a program, by class.

A figure of work: it knows no cache and no pipeline, and says nothing of time or energy. It repeats, though, to a few
instructions, which no clock does, and so shows a change of one per cent.

Debian 13's qemu-user is static and can load no plugin. Debian 12's can; its lack, that it hands the host's ``/proc/cpuinfo``
through, is made good by laying the one that QEMU 10 shows over it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from . import sandbox
from .cache import Cache, fingerprint
from .debian import Apt, unpack
from .packages import require
from .process import Result, run_limited
from .user import ArmUser, Cpu, bare_environment

_SOURCE = Path(__file__).with_name("armcount.c")
_CPUINFO_LIMIT_S = 60.0
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "lib/x86_64-linux-gnu"


class Region(NamedTuple):
    """Instructions executed between two marks.

    Attributes:
        number: that the program gave it.
        total: of all classes.
        classes: class -> instructions.
    """

    number: int
    total: int
    classes: dict[str, int]


def counter(cache: Cache) -> Path:
    """Gives a folder with Debian 12's qemu-user, its libraries, and the plugin (``armcount.so``)."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            scratch = Path(name)
            unpacked = scratch / "unpacked"
            unpack(Apt(scratch / "apt", "bookworm", "amd64").fetch(["qemu-user"]), unpacked)
            for target in ("lib", "lib64"):
                (folder / target).mkdir()
            shutil.copy(unpacked / "usr/bin/qemu-aarch64", folder)
            shutil.copy(unpacked / _LOADER, folder / _LOADER)
            shutil.copytree(unpacked / _LIBRARIES, folder / _LIBRARIES)
        build_plugin(folder / "armcount.so")

    inputs = [fingerprint(Path(__file__), _SOURCE, _SOURCE.with_name("debian.py"))]
    return cache.entry("armcount", inputs, build)


def build_plugin(output: Path) -> None:
    """Compiles the plugin for the host."""
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden"]
    subprocess.run([require("cc"), *flags, "-o", str(output), str(_SOURCE)], check=True)


class ArmCounter:
    """Runs programs of an arm64 tree and counts their marked regions.

    Args:
        user: runs the tree; asked for the processors' ``/proc/cpuinfo``.
        qemu: from `counter`.
    """

    def __init__(self, user: ArmUser, qemu: Path) -> None:
        self._user = user
        self._qemu = qemu

    def run(
        self,
        argv: Sequence[str],
        *,
        cpu: Cpu,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> tuple[Result, list[Region]]:
        """Runs a program like `ArmUser.run`.

        The program marks its regions as ``armcount.c`` says.

        Returns:
            How it ended, and the regions in the order of their ends.
        """
        with tempfile.TemporaryDirectory() as name:
            share = Path(name)
            (share / "cpuinfo").write_text(self._cpuinfo(cpu))
            inner = [f"/opt/qemu/{_LOADER}", "--library-path", f"/opt/qemu/{_LIBRARIES}", "/opt/qemu/qemu-aarch64"]
            inner += ["-cpu", cpu, "-seed", "1", "-plugin", "/opt/qemu/armcount.so,out=/share/regions.jsonl", *argv]
            command = sandbox.inside(
                self._user.tree,
                inner,
                mounts={"opt/qemu": self._qemu, **(mounts or {}), "proc/cpuinfo": share / "cpuinfo"},
                writable={"share": share},
            )
            done = run_limited(command, timeout_s=timeout_s, env=bare_environment(env))
            regions = share / "regions.jsonl"
            return done, read_regions(regions.read_text() if regions.exists() else "")

    def _cpuinfo(self, cpu: Cpu) -> str:
        done = self._user.run(["/usr/bin/cat", "/proc/cpuinfo"], cpu=cpu, timeout_s=_CPUINFO_LIMIT_S)
        if done.exit_code or "Features" not in done.stdout:
            raise RuntimeError(f"QEMU shows no /proc/cpuinfo of a {cpu}: {done.stdout}{done.stderr}")
        return done.stdout


def read_regions(text: str) -> list[Region]:
    """Reads what the plugin wrote: a JSON object a line."""
    records = [json.loads(line) for line in text.splitlines()]
    return [Region(record["region"], record["total"], record["classes"]) for record in records]
