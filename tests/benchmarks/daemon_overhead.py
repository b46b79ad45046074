"""What the daemon costs: its frames a second beside those of the bare session, in one run, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from device.bundle import open_bundle
from device.runtimes.registry import RUNTIMES

ROUNDS = 5


class Rates(NamedTuple):
    """Frames a second of one round."""

    bare_fps: float
    daemon_fps: float


def bare_fps(bundle: Path, runtime: str, duration_s: float) -> float:
    """Rate of a loop that does nothing but run the session."""
    opened = open_bundle(bundle)
    artefact = opened.artefact(runtime)
    pixels = np.random.default_rng(0).integers(0, 256, artefact.input.shape, np.uint8)
    with RUNTIMES.load(runtime)().open(
        opened.path(artefact.file), input=artefact.input, output=artefact.output, threads=1
    ) as session:
        for _ in range(20):
            session.run(pixels)
        frames = 0
        started_s = time.monotonic()
        while time.monotonic() - started_s < duration_s:
            session.run(pixels)
            frames += 1
        return frames / (time.monotonic() - started_s)


def daemon_fps(bundle: Path, runtime: str, duration_s: float) -> float:
    """Rate that ``device.run`` reports on synthetic frames of the network's size."""
    side_px = open_bundle(bundle).manifest.model.preprocessing.input_px
    command = [sys.executable, "-m", "device.run", "--bundle", str(bundle), "--source", f"synthetic:{side_px}x{side_px}"]
    command += ["--runtime", runtime, "--threads", "1", "--duration", str(duration_s), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["fps"])


def measure(bundle: Path, runtime: str, duration_s: float) -> list[Rates]:
    """Measures both in turns, so that a machine that slows down slows both."""
    return [Rates(bare_fps(bundle, runtime, duration_s), daemon_fps(bundle, runtime, duration_s)) for _ in range(ROUNDS)]


def summarise(rounds: list[Rates]) -> dict[str, float]:
    """Medians, and the ratio pair by pair."""
    ratios = [pair.daemon_fps / pair.bare_fps for pair in rounds]
    return {
        "bare_fps": statistics.median(pair.bare_fps for pair in rounds),
        "daemon_fps": statistics.median(pair.daemon_fps for pair in rounds),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
