"""The instruction counter counts right, and the network's work stays within its budget."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .arm_cost import BUDGET, Costs, format_table, identify, measure_all, overruns
from .conftest import PROGRAMS, require_tools
from .harness import cost
from .harness.cache import Cache
from .harness.packages import require
from .harness.user import ArmUser, Cpu

TOLERANCE = 0.01

# Of programs/classes.S; what marks the region itself is two scalar moves and a supervisor call.
EXECUTED = {
    "dot_product": 6,
    "integer_multiply_simd": 15,
    "float_multiply_simd": 21,
    "other_simd": 22,
    "load_store": 26,
    "branch": 17 + 1,
    "other_scalar": 19 + 2,
}


@pytest.fixture(scope="module")
def counter(cache: Cache, trixie: ArmUser) -> cost.ArmCounter:
    require_tools("cc", "aarch64-linux-gnu-g++")
    return cost.ArmCounter(trixie, cost.counter(cache))


@pytest.mark.arm
@pytest.mark.parametrize(("cpu", "matrix"), [("cortex-a76", 0), ("max", 23)])
def test_counter_tells_the_classes_apart(counter: cost.ArmCounter, tmp_path: Path, cpu: Cpu, matrix: int) -> None:
    program = tmp_path / "classes"
    flags = ["-nostdlib", "-static", *(["-DMATRIX"] if matrix else [])]
    subprocess.run([require("aarch64-linux-gnu-g++"), *flags, "-o", program, PROGRAMS / "classes.S"], check=True)
    done, regions = counter.run(["/opt/data/classes"], cpu=cpu, timeout_s=60, mounts={"opt/data": tmp_path})
    assert done.exit_code == 0, done
    (region,) = regions
    assert region.classes == {**EXECUTED, "matrix_multiply": matrix}
    assert region.total == sum(region.classes.values())


@pytest.mark.arm
def test_work_stays_within_its_budget(
    counter: cost.ArmCounter, cache: Cache, installation: Path, bundle: Path, report: list[str]
) -> None:
    if not BUDGET.is_file():
        pytest.skip(f"{BUDGET.name} is not there: make arm-cost ARGS=--update")
    budget = json.loads(BUDGET.read_text())
    if identify(bundle) != budget["identity"]:
        pytest.skip(f"the budget is of {budget['identity']}, the bundle holds {identify(bundle)}")
    costs = measure_all(cache, installation, bundle)
    report.extend(format_table(costs))
    found = overruns(costs, budget["instructions"], TOLERANCE)
    assert not found, "\n".join([*found, "if that is meant: make arm-cost ARGS=--update"])


def make_costs(total: int) -> Costs:
    return {"litert": {"cortex-a72": {"branch": total, "total": total}}}


def test_growth_beyond_one_per_cent_is_named() -> None:
    assert overruns(make_costs(1010), make_costs(1000), TOLERANCE) == []
    (line,) = overruns(make_costs(1011), make_costs(1000), TOLERANCE)
    assert "litert on cortex-a72: +1.1%" in line
    assert "branch +11" in line


def test_less_work_passes() -> None:
    assert overruns(make_costs(500), make_costs(1000), TOLERANCE) == []
