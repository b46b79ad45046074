"""Runs a command inside an unpacked tree, in mounts and processes of its own.

Nothing that it mounts is seen outside, and all of it is gone when the command ends. The tree is read-only there: runs share it.
Works as root, and as an ordinary user where the kernel lets users make namespaces.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from .packages import require

# Where a tree offers room for what a run brings along.
MOUNT_POINTS = (
    "proc",
    "sys",
    "dev",
    "tmp",
    "run",
    "root",
    "share",
    "opt/ghostwatt",
    "opt/bundle",
    "opt/data",
    "opt/lib",
    "opt/qemu",
)


def prepare(root: Path) -> None:
    """Makes the mount points in a tree; to be done before it becomes read-only."""
    for point in MOUNT_POINTS:
        (root / point).mkdir(parents=True, exist_ok=True)


def private(script: str) -> list[str]:
    """Gives the command that runs a shell script as root of its own mounts and processes."""
    identity = [] if os.geteuid() == 0 else ["--map-root-user"]
    return [require("unshare"), *identity, "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-euc", script]


def inside(
    root: Path,
    argv: Sequence[str],
    *,
    mounts: Mapping[str, Path] | None = None,
    writable: Mapping[str, Path] | None = None,
) -> list[str]:
    """Gives the command that runs ``argv`` inside a tree.

    Args:
        root: the tree; it has been through `prepare`.
        argv: found inside the tree.
        mounts: path inside the tree -> the host's file or folder, read-only.
        writable: the same, writable.
    """
    mount = require("mount")
    lines = [_bind(root, root, "ro")]
    lines += [f"{mount} -t tmpfs tmpfs {_quoted(root, point)}" for point in ("tmp", "run")]
    lines.append(f"{mount} -t proc proc {_quoted(root, 'proc')}")
    # Without /sys, XNNPACK finds no processor and takes no graph.
    lines += [f"{mount} --rbind /{point} {_quoted(root, point)}" for point in ("dev", "sys")]
    for mode, table in (("ro", mounts or {}), ("rw", writable or {})):
        lines += [_bind(source, root / target.lstrip("/"), mode) for target, source in table.items()]
    lines.append(f"exec {require('chroot')} {shlex.quote(str(root))} {shlex.join(argv)}")
    return private("\n".join(lines))


def _bind(source: Path, target: Path, mode: str) -> str:
    mount, to = require("mount"), shlex.quote(str(target))
    line = f"{mount} --bind {shlex.quote(str(source))} {to}"
    return line if mode == "rw" else f"{line}\n{mount} -o remount,bind,ro {to}"


def _quoted(root: Path, point: str) -> str:
    return shlex.quote(str(root / point))
