"""The camera lane: the real picamera2 and libcamera of Debian 13, with libcamera's virtual camera, on the host's processor.

It proves how picamera2 is used: requests, buffers, threads, errors. It proves nothing about the Pi's ISP and its sensors.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from . import sandbox
from .cache import Cache, fingerprint
from .packages import require
from .process import Result, run_limited
from .user import bare_environment

_SOURCE = Path(__file__).with_name("dma_buffers.c")


class VirtualCamera(NamedTuple):
    """One camera of libcamera's virtual pipeline.

    Attributes:
        name: its identifier.
        sizes_px: width and height of the frames that it can give.
        pattern: ``bars`` (white, yellow, cyan, green, magenta, red, blue, black) or ``lines``.
        picture: a JPEG file to show instead, by its path inside the tree.
    """

    name: str
    sizes_px: Sequence[tuple[int, int]]
    pattern: str = "bars"
    picture: str = ""


def describe(cameras: Sequence[VirtualCamera]) -> str:
    """Writes the file that the virtual pipeline reads.

    References:
        libcamera 0.4, src/libcamera/pipeline/virtual/README.md.
    """
    lines = ["%YAML 1.1", "---"]
    for camera in cameras:
        lines += [f'"{camera.name}":', "  supported_formats:"]
        for width, height in camera.sizes_px:
            lines += [f"  - width: {width}", f"    height: {height}", "    frame_rates: [10, 60]"]
        if camera.picture:
            lines += ["  frames:", f'    path: "{camera.picture}"']
        else:
            lines.append(f'  test_pattern: "{camera.pattern}"')
        lines.append(f'  model: "model of {camera.name}"')
    return "\n".join(lines) + "\n"


def dma_buffers(cache: Cache) -> Path:
    """Gives the folder of ``libdma_buffers.so``, see ``dma_buffers.c``."""

    def build(folder: Path) -> None:
        library = folder / "libdma_buffers.so"
        subprocess.run([require("cc"), "-std=gnu17", "-O2", "-Wall", "-fPIC", "-shared", "-o", library, _SOURCE], check=True)

    return cache.entry("dma-buffers", [fingerprint(_SOURCE, Path(__file__))], build)


class CameraBoard:
    """Runs programs of an amd64 tree that has virtual cameras.

    Args:
        tree: from `tree.board_tree`, of `tree.CAMERA`.
        buffers: from `dma_buffers`.
    """

    def __init__(self, tree: Path, buffers: Path) -> None:
        self._tree = tree
        self._buffers = buffers

    def run(
        self,
        arguments: Sequence[str],
        *,
        share: Path,
        cameras: Sequence[VirtualCamera],
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> Result:
        """Runs Python to its end, or to the limit.

        Args:
            arguments: of Python.
            share: the folder that is ``/share`` there.
            cameras: that libcamera finds.
            timeout_s: killed after that.
            env: added to an environment that is otherwise bare.
            mounts: see `user.ArmUser.run`.
        """
        (share / "virtual.yaml").write_text(describe(cameras))
        preload = "LD_PRELOAD=/opt/lib/libdma_buffers.so"
        inner = ["/usr/bin/env", preload, "/usr/bin/python3", *arguments]
        places = {"opt/lib": self._buffers, **(mounts or {})}
        command = sandbox.inside(self._tree, inner, mounts=places, writable={"share": share})
        return run_limited(command, timeout_s=timeout_s, env=bare_environment(env))
