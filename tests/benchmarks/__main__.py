"""``python -m tests.benchmarks``: ratios in one run, with the machine named."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from device.errors import exit_with_one_line
from tests.benchmarks import daemon_overhead


def machine() -> str:
    """The processor's name, and how many cores it shows."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="The daemon's rate beside the bare session's."
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/host"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--runtime", action="append", choices=("litert", "executorch"), help="(default: both)")
    parser.add_argument("--duration", type=float, default=5.0, metavar="S", help="of each measurement (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    results = {
        runtime: daemon_overhead.summarise(daemon_overhead.measure(flags.bundle, runtime, flags.duration))
        for runtime in flags.runtime or ("litert", "executorch")
    }
    if flags.json:
        print(json.dumps({"machine": machine(), "daemon_overhead": results}))
        return 0
    print(machine())
    print(
        f"{'runtime':<12}{'bare FPS':>10}{'daemon FPS':>12}{'daemon / bare':>15}   (least .. most of {daemon_overhead.ROUNDS})"
    )
    for runtime, figures in results.items():
        print(
            f"{runtime:<12}{figures['bare_fps']:>10.1f}{figures['daemon_fps']:>12.1f}{figures['ratio']:>15.1%}"
            f"   ({figures['ratio_min']:.1%} .. {figures['ratio_max']:.1%})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
