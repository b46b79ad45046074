"""Runs on the virtual camera, through the product's own source, and writes down what it saw. Judges nothing.

    camera.py frames CAMERA INPUT_PX FIT     a frame, its age and what the source promises
    camera.py reopen CAMERA TIMES            descriptors, threads and memory after each close
    camera.py busy CAMERA                    opens it twice, then once more after the first was closed

Leaves ``/share/seen.json``, and of ``frames`` the pixels in ``/share/frame.npy``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device.contract import Preprocessing
from device.core.errors import SourceError
from device.sources.base import SourceOptions
from device.sources.uri import open_source

SHARE = Path("/share")
TIMEOUT_S = 20.0
WARM_FRAMES = 8


def main(what: str, *arguments: str) -> None:
    programs: dict[str, Callable[..., Any]] = {"frames": frames, "reopen": reopen, "busy": busy}
    seen = programs[what](*arguments)
    (SHARE / "seen.json").write_text(json.dumps(seen))


def frames(camera: str, input_px: str, fit: str) -> dict[str, Any]:
    preprocessing = Preprocessing(input_px=int(input_px), fit=fit, crop_fraction=1.0)  # type: ignore[arg-type]
    with open_source(f"picamera2:{camera}", SourceOptions(rate_fps=30.0, preprocessing=preprocessing)) as source:
        for _ in range(WARM_FRAMES):
            frame = source.read(TIMEOUT_S)
        assert frame is not None
        age_s = (time.monotonic_ns() - frame.timestamp_ns) / 1e9
        np.save(SHARE / "frame.npy", frame.pixels)
        return {"uri": source.spec.uri, "rate_fps": source.spec.rate_fps, "age_s": age_s, "index": frame.index}


def reopen(camera: str, times: str) -> list[dict[str, int]]:
    options = SourceOptions(rate_fps=30.0, preprocessing=Preprocessing())
    seen = []
    for _ in range(int(times)):
        with open_source(f"picamera2:{camera}", options) as source:
            for _ in range(WARM_FRAMES):
                source.read(TIMEOUT_S)
        seen.append({"descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "rss": rss_bytes()})
    return seen


def busy(camera: str) -> dict[str, Any]:
    options = SourceOptions(rate_fps=30.0, preprocessing=Preprocessing())
    with open_source(f"picamera2:{camera}", options) as source:
        try:
            open_source(f"picamera2:{camera}", options)
        except SourceError as error:
            seen = {"reason": error.reason, "line": str(error)}
        first = source.read(TIMEOUT_S)
    with open_source(f"picamera2:{camera}", options) as source:
        second = source.read(TIMEOUT_S)
    return seen | {"first_goes_on": first is not None, "opens_again": second is not None}


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(*sys.argv[1:])
