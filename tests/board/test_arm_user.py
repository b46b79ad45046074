"""The board's install on ARM code: Debian's arm64 Python, the aarch64 wheels, our cross-built library, under qemu-user.

It proves what is computed on a Pi 4 (Cortex-A72) and a Pi 5 (Cortex-A76), and nothing about time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device.core.errors import ModelLoadError
from tests.unit.bundles import write_fp32_bundle

from .conftest import PROGRAMS, RUNTIMES
from .harness.process import Result
from .harness.tree import REPOSITORY, size_bytes
from .harness.user import ArmUser, Cpu

pytestmark = pytest.mark.arm

CPUS: tuple[Cpu, ...] = ("cortex-a72", "cortex-a76")
LIMIT_S = 300.0
PYTHON = "/usr/bin/python3"

# .pte files of real-valued boundaries differ in the last bits: other kernels add in another order.
EXECUTORCH_TOLERANCE = 1e-5


def run_python(
    board: ArmUser,
    installation: Path,
    arguments: list[str],
    *,
    cpu: Cpu = "cortex-a72",
    bundle: Path | None = None,
    data: Path | None = None,
    share: Path | None = None,
) -> Result:
    """Runs Python on the board, with the installation importable and nothing else of this repository in sight."""
    mounts = {"opt/ghostwatt": installation}
    mounts |= {"opt/bundle": bundle} if bundle else {}
    mounts |= {"opt/data": data} if data else {}
    return board.run(
        [PYTHON, *arguments],
        cpu=cpu,
        timeout_s=LIMIT_S,
        env={"PYTHONPATH": "/opt/ghostwatt", "OPENBLAS_NUM_THREADS": "1"},
        mounts=mounts,
        writable={"share": share} if share else None,
    )


def require_success(result: Result) -> Result:
    assert not result.timed_out, f"hung for {result.duration_s:.0f} s\n{result.stderr}"
    assert result.exit_code == 0, f"exit code {result.exit_code}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def host_scores(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.generic]]:
    """What this machine computes for the golden images."""
    out = tmp_path_factory.mktemp("host") / "scores.npz"
    subprocess.run([sys.executable, PROGRAMS / "scores.py", bundle, out, *RUNTIMES], check=True, env={"PYTHONPATH": REPOSITORY})
    return dict(np.load(out))


@pytest.fixture(scope="module", params=CPUS)
def arm_scores(
    request: pytest.FixtureRequest,
    trixie: ArmUser,
    installation: Path,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    report: list[str],
) -> dict[str, NDArray[np.generic]]:
    """What the board computes for them. Both runtimes refuse to open what XNNPACK did not take whole."""
    share = tmp_path_factory.mktemp("arm")
    program = ["/opt/ghostwatt/programs/scores.py", "/opt/bundle", "/share/scores.npz", *RUNTIMES]
    result = require_success(run_python(trixie, installation, program, cpu=request.param, bundle=bundle, share=share))
    report.append(f"{request.param}: both runtimes at once, emulator included: {result.peak_rss_bytes / 1e6:.0f} MB of memory")
    return dict(np.load(share / "scores.npz"))


def test_litert_gives_the_hosts_bits(
    arm_scores: dict[str, NDArray[np.generic]], host_scores: dict[str, NDArray[np.generic]]
) -> None:
    assert arm_scores["litert"].dtype == np.int8, "the bundle is not int8"
    np.testing.assert_array_equal(arm_scores["litert"], host_scores["litert"])


def test_executorch_gives_the_hosts_scores(
    arm_scores: dict[str, NDArray[np.generic]], host_scores: dict[str, NDArray[np.generic]]
) -> None:
    np.testing.assert_allclose(
        arm_scores["executorch"].astype(np.float64),
        host_scores["executorch"].astype(np.float64),
        rtol=0,
        atol=EXECUTORCH_TOLERANCE,
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("cpu", CPUS)
def test_self_test_passes(trixie: ArmUser, installation: Path, bundle: Path, cpu: Cpu, runtime: str) -> None:
    command = ["-m", "device.run", "--bundle", "/opt/bundle", "--runtime", runtime, "--threads", "1", "--self-test", "--json"]
    result = require_success(run_python(trixie, installation, command, cpu=cpu, bundle=bundle))
    assert json.loads(result.stdout)["self_test"]["images"] > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("cpu", CPUS)
def test_daemon_names_photographs_as_the_host_does(
    trixie: ArmUser, installation: Path, bundle: Path, photographs: Path, tmp_path: Path, cpu: Cpu, runtime: str
) -> None:
    flags = ["-m", "device.run", "--runtime", runtime, "--threads", "1", "--json"]
    board = [*flags, "--bundle", "/opt/bundle", "--source", "images:/opt/data", "--predictions", "/share/board.jsonl"]
    result = require_success(run_python(trixie, installation, board, cpu=cpu, bundle=bundle, data=photographs, share=tmp_path))
    host = [*flags, "--bundle", str(bundle), "--source", f"images:{photographs}", "--predictions", str(tmp_path / "host.jsonl")]
    subprocess.run([sys.executable, *host], cwd=REPOSITORY, check=True, capture_output=True)

    assert json.loads(result.stdout)["runtime"] == runtime
    seen, expected = read_predictions(tmp_path / "board.jsonl"), read_predictions(tmp_path / "host.jsonl")
    assert len(seen) == len(list(photographs.iterdir()))
    assert [labels for labels, _ in seen] == [labels for labels, _ in expected]
    np.testing.assert_allclose([scores for _, scores in seen], [scores for _, scores in expected], rtol=0, atol=1e-5)


def read_predictions(path: Path) -> list[tuple[list[str], list[float]]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [(record["labels"], record["scores"]) for record in records]


def test_install_is_small_and_has_no_torch(trixie: ArmUser, installation: Path, report: list[str]) -> None:
    code = (
        "import device.run, sys, importlib.util as u; print(u.find_spec('torch'), 'cv2' in sys.modules, sys.version_info[:2])"
    )
    result = require_success(run_python(trixie, installation, ["-c", code]))
    assert result.stdout.split(maxsplit=2)[:2] == ["None", "False"]
    wheels = trixie.tree / "usr/lib/python3/dist-packages"
    assert not list(wheels.glob("torch*"))
    parts = {name: size_bytes(wheels / name) for name in ("numpy", "ai_edge_litert", "cv2")}
    parts["device"] = size_bytes(installation / "device")
    listing = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts.items())
    report.append(f"board install: {(size_bytes(wheels) + parts['device']) / 1e6:.0f} MB on disk ({listing} MB)")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_oldest_supported_system_passes_the_self_test(
    bookworm: ArmUser, installation: Path, bundle: Path, runtime: str
) -> None:
    version = require_success(run_python(bookworm, installation, ["-c", "import sys; print(sys.version_info[:2])"]))
    assert version.stdout.strip() == "(3, 11)"
    command = ["-m", "device.run", "--bundle", "/opt/bundle", "--runtime", runtime, "--threads", "1", "--self-test"]
    require_success(run_python(bookworm, installation, command, bundle=bundle))


@pytest.mark.parametrize(("runtime", "model"), [("litert", "tiny_fp32.tflite"), ("executorch", "tiny_fp32.pte")])
def test_fixture_passes_where_wholly_delegated(
    trixie: ArmUser, installation: Path, tmp_path: Path, runtime: str, model: str
) -> None:
    write_fp32_bundle(tmp_path / "bundle", {runtime: model})
    command = ["-m", "device.run", "--bundle", "/opt/bundle", "--runtime", runtime, "--self-test"]
    require_success(run_python(trixie, installation, command, bundle=tmp_path / "bundle"))


@pytest.mark.parametrize(("runtime", "model"), [("litert", "undelegated.tflite"), ("executorch", "undelegated.pte")])
def test_graph_outside_the_delegate_is_refused_on_arm(
    trixie: ArmUser, installation: Path, tmp_path: Path, runtime: str, model: str
) -> None:
    write_fp32_bundle(tmp_path / "bundle", {runtime: model})
    command = ["-m", "device.run", "--bundle", "/opt/bundle", "--runtime", runtime, "--self-test"]
    result = run_python(trixie, installation, command, bundle=tmp_path / "bundle")
    assert result.exit_code == ModelLoadError.exit_code, result
    assert "XNNPACK" in result.stderr or "delegate" in result.stderr


def test_program_that_hangs_is_cut_off(trixie: ArmUser) -> None:
    result = trixie.run([PYTHON, "-c", "import time; time.sleep(600)"], cpu="cortex-a72", timeout_s=5.0)
    assert result.timed_out
    with pytest.raises(AssertionError, match="hung"):
        require_success(result)
