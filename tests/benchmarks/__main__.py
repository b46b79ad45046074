"""``python -m tests.benchmarks``: ratios in one run, with the machine named."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from device.bench.machine import describe_machine, format_machine
from device.core.errors import exit_with_one_line
from tests.benchmarks import camera_overhead, daemon_overhead

CAMERA_SIZES_PX = ((640, 480), (1280, 720))


def machine() -> str:
    """One line: what the ratios are true of."""
    return format_machine(describe_machine())


def run_daemon_overhead(flags: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By runtime; prints a line for each, unless JSON is wanted."""
    results = {
        runtime: daemon_overhead.summarise(daemon_overhead.measure(flags.bundle, runtime, flags.duration))
        for runtime in flags.runtime or ("litert", "executorch")
    }
    if flags.json:
        return results
    print(
        f"{'runtime':<12}{'bare FPS':>10}{'daemon FPS':>12}{'daemon / bare':>15}   (least .. most of {daemon_overhead.ROUNDS})"
    )
    for runtime, figures in results.items():
        print(
            f"{runtime:<12}{figures['bare_fps']:>10.1f}{figures['daemon_fps']:>12.1f}{figures['ratio']:>15.1%}"
            f"   ({figures['ratio_min']:.1%} .. {figures['ratio_max']:.1%})"
        )
    return results


def run_camera_overhead(flags: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """By the frames' size, then by the way that they come; prints a table for each size, unless JSON is wanted."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for size in flags.size or CAMERA_SIZES_PX:
        figures = camera_overhead.measure(flags.bundle, size, flags.frames)
        results[f"{size[0]}x{size[1]}"] = {name: figure._asdict() for name, figure in figures.items()}
        if not flags.json:
            camera_overhead.print_table(size, figures)
    return results


def size_px(text: str) -> tuple[int, int]:
    """Reads ``WIDTHxHEIGHT``; both even, as cameras' sizes are."""
    width, height = (int(part) for part in text.split("x"))
    if width % 2 or height % 2 or min(width, height) < 32:
        raise argparse.ArgumentTypeError(f"{text} is not even, or under 32")
    return width, height


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="The daemon's rate beside the bare session's, and what a frame costs outside inference.",
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/host"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--only", choices=("daemon", "camera"), help="one of the benchmarks (default: both)")
    parser.add_argument("--runtime", action="append", choices=("litert", "executorch"), help="(default: both)")
    parser.add_argument("--duration", type=float, default=5.0, metavar="S", help="of each measurement (default: %(default)s)")
    parser.add_argument(
        "--size", action="append", type=size_px, metavar="WxH", help="of cameras' frames (default: 640x480 and 1280x720)"
    )
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="of a camera, a round (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    if not flags.json:
        print(machine())
    results: dict[str, object] = {"machine": machine()}
    if flags.only != "camera":
        results["daemon_overhead"] = run_daemon_overhead(flags)
    if flags.only != "daemon":
        results["camera_overhead"] = run_camera_overhead(flags)
    if flags.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
