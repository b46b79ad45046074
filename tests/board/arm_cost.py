"""Instructions per inference on a Pi 4's and a Pi 5's processor, against the budget that is committed.

    python -m tests.board.arm_cost [--bundle DIR] [--update]

A figure of work, by class of instruction. It is neither time nor energy: it knows no cache and no pipeline.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from device.bundle import open_bundle

from .harness import cost, tree, user
from .harness.cache import Cache
from .harness.tree import REPOSITORY
from .harness.user import Cpu

BUDGET = Path(__file__).with_name("arm_budget.json")
CPUS: tuple[Cpu, ...] = ("cortex-a72", "cortex-a76")
RUNTIMES = ("litert", "executorch")
REPEATS = 5
LIMIT_S = 600.0

# A budget is of one network: another one does other work.
Identity = dict[str, str | int]
Costs = dict[str, dict[str, dict[str, int]]]


def identify(bundle: Path) -> Identity:
    """What the budget depends on: the network's shape, and who runs it."""
    manifest = open_bundle(bundle).manifest
    return {
        "model": manifest.model.name,
        "input_px": manifest.model.preprocessing.input_px,
        "num_classes": manifest.model.num_classes,
        **{f"{artefact.runtime} precision": artefact.precision for artefact in manifest.artefacts},
    }


def measure(counter: cost.ArmCounter, installation: Path, bundle: Path, runtime: str, cpu: Cpu) -> dict[str, int]:
    """Counts one inference, warm, on one thread: for each class the median of several.

    Returns:
        Class -> instructions, and their sum as ``total``.

    Raises:
        RuntimeError: the program failed, or marked fewer regions than it was asked to.
    """
    argv = ["/usr/bin/python3", "/opt/ghostwatt/programs/inferences.py", "/opt/bundle", runtime, str(REPEATS)]
    env = {"PYTHONPATH": "/opt/ghostwatt", "OPENBLAS_NUM_THREADS": "1"}
    mounts = {"opt/ghostwatt": installation, "opt/bundle": bundle}
    done, regions = counter.run(argv, cpu=cpu, timeout_s=LIMIT_S, env=env, mounts=mounts)
    if done.exit_code or len(regions) != REPEATS:
        raise RuntimeError(f"{runtime} on {cpu}: exit code {done.exit_code}, {len(regions)} regions\n{done.stderr}")
    names = regions[0].classes
    middle = {name: round(statistics.median(region.classes[name] for region in regions)) for name in names}
    return {**middle, "total": round(statistics.median(region.total for region in regions))}


def measure_all(cache: Cache, installation: Path, bundle: Path) -> Costs:
    """Counts every runtime on every processor."""
    board = user.ArmUser(tree.board_tree(cache, tree.TRIXIE), user.emulator(cache))
    counter = cost.ArmCounter(board, cost.counter(cache))
    return {runtime: {cpu: measure(counter, installation, bundle, runtime, cpu) for cpu in CPUS} for runtime in RUNTIMES}


def install(root: Path) -> None:
    """Lays out what a board has of this project, with the programs of the tests beside it."""
    command = [sys.executable, "-m", "device.runtimes.native.build", "--arch", "aarch64"]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(REPOSITORY / "device", root / "device", ignore=shutil.ignore_patterns("__pycache__", "x86_64"))
    programs = Path(__file__).parent / "programs"
    shutil.copytree(programs, root / "programs", ignore=shutil.ignore_patterns("__pycache__"))


def overruns(costs: Costs, budget: Costs, tolerance: float) -> list[str]:
    """Says where more is executed than budgeted.

    Args:
        costs: measured.
        budget: committed.
        tolerance: share of the budget by which the total may exceed it.
    """
    lines = []
    for runtime, by_cpu in costs.items():
        for cpu, measured in by_cpu.items():
            allowed = budget[runtime][cpu]
            growth = measured["total"] / allowed["total"] - 1
            if growth > tolerance:
                parts = ", ".join(f"{name} {measured[name] - allowed[name]:+d}" for name in measured if name != "total")
                lines.append(f"{runtime} on {cpu}: {growth:+.1%} instructions ({parts})")
    return lines


def format_table(costs: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """One line a runtime and processor, in millions."""
    names = next(iter(next(iter(costs.values())).values()))
    header = "million instructions per inference   " + " ".join(f"{name:>21}" for name in names)
    rows = [
        f"{runtime:<12} {cpu:<24}" + " ".join(f"{count / 1e6:>21.3f}" for count in counts.values())
        for runtime, by_cpu in costs.items()
        for cpu, counts in by_cpu.items()
    ]
    return [header, *rows]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.board.arm_cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=REPOSITORY / "build" / "rpi4", help="default: build/rpi4")
    parser.add_argument("--update", action="store_true", help="make what is measured the budget")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        install(Path(root))
        costs = measure_all(Cache(), Path(root), flags.bundle.absolute())
    print("\n".join(format_table(costs)))
    if flags.update:
        BUDGET.write_text(json.dumps({"identity": identify(flags.bundle), "instructions": costs}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
