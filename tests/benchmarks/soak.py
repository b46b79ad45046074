"""``python -m tests.benchmarks.soak``: runs the daemon for long, and looks whether it grows.

The slope is a straight line through the samples of the last three quarters: a process takes a while to find its size.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from device.core.errors import UsageError, exit_with_one_line
from tests.benchmarks.__main__ import machine

SETTLED_AFTER = 0.25


class Sample(NamedTuple):
    """Of the daemon's process, at one moment."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    written_mb: float
    cpu_s: float


def look(pid: int, started_s: float) -> Sample:
    """Reads ``/proc``: proc_pid_status(5), proc_pid_io(5), proc_pid_stat(5)."""
    process = Path("/proc") / str(pid)
    status = dict(line.partition(":")[::2] for line in (process / "status").read_text().splitlines())
    io = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
    ticks = (process / "stat").read_text().rpartition(")")[2].split()
    return Sample(
        at_s=time.monotonic() - started_s,
        rss_mb=int(status["VmRSS"].split()[0]) * 1024 / 1e6,
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        written_mb=int(io["wchar"]) / 1e6,
        cpu_s=(int(ticks[11]) + int(ticks[12])) / 100,
    )


def slope_an_hour(samples: Sequence[Sample], name: str) -> float:
    """Least squares, over those that came once the process had settled."""
    settled = [sample for sample in samples if sample.at_s >= samples[-1].at_s * SETTLED_AFTER]
    if len(settled) < 2:
        return 0.0
    slope, _ = np.polyfit([sample.at_s for sample in settled], [getattr(sample, name) for sample in settled], 1)
    return float(slope) * 3600


def run(command: Sequence[str], duration_s: float, period_s: float) -> tuple[list[Sample], str]:
    """Runs the daemon, looks at it now and then, and ends it as systemd would; gives its summary too."""
    started_s = time.monotonic()
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples: list[Sample] = []
    try:
        while (now_s := time.monotonic() - started_s) < duration_s:
            time.sleep(min(period_s, duration_s - now_s))
            if daemon.poll() is not None:
                raise UsageError("the daemon", f"ended with code {daemon.returncode} after {now_s:.0f} s", reason="flags")
            samples.append(look(daemon.pid, started_s))
            print(f"\r{now_s / 60:6.1f} min  {samples[-1].rss_mb:.1f} MB", end="", file=sys.stderr, flush=True)
        daemon.send_signal(signal.SIGTERM)
        summary, _ = daemon.communicate(timeout=60)
    finally:
        daemon.kill()
        daemon.wait()
    print(file=sys.stderr)
    return samples, summary


def main() -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("--bundle", type=Path, default=Path("build/host"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="(default: %(default)s)")
    parser.add_argument("--period", type=float, default=10.0, metavar="S", help="between looks (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every sample")
    parser.add_argument("flags", nargs="*", help="the daemon's own, behind --: --source URI, --telemetry FILE, ...")
    flags = parser.parse_args()
    if not flags.flags:
        raise UsageError("flags", "none", expected="-- --source URI --telemetry FILE", reason="no_source")
    command = [sys.executable, "-m", "device.run", "--bundle", str(flags.bundle), "--json", *flags.flags]
    samples, text = run(command, flags.minutes * 60, flags.period)
    summary = json.loads(text)
    if flags.json:
        print(json.dumps({"machine": machine(), "samples": [sample._asdict() for sample in samples], "summary": summary}))
        return 0
    settled = next(sample for sample in samples if sample.at_s >= samples[-1].at_s * SETTLED_AFTER)
    print(f"{machine()}; {summary['source']}; {summary['frames']} frames in {samples[-1].at_s / 60:.0f} min")
    print(f"{'':<14}{'settled':>12}{'end':>12}{'most':>12}{'slope an hour':>16}")
    for name in ("rss_mb", "descriptors", "threads", "written_mb"):
        values = [getattr(sample, name) for sample in samples]
        line = f"{name:<14}{getattr(settled, name):>12.1f}{values[-1]:>12.1f}{max(values):>12.1f}"
        print(f"{line}{slope_an_hour(samples, name):>16.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
