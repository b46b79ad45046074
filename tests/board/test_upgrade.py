"""An older release on a booted board gives way to this one, and comes back: bundle, telemetry and service survive both ways.

Run by ``make test-upgrade FROM=REVISION``: the older release is a revision of this repository, deployed by its own code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device.bundle import open_bundle
from device.contract import Power
from tests.unit.bundles import change_manifest, copy_bundle

from .conftest import require_tools
from .harness.bare import bare_image
from .harness.cache import Cache
from .harness.machine import Machine
from .harness.tree import REPOSITORY
from .service_facts import PROFILE, STATE, UNIT

pytestmark = pytest.mark.upgrade

OLD = os.environ.get("GHOSTWATT_UPGRADE_FROM", "")
STORE = f"{STATE}/telemetry-{PROFILE}.sqlite"
DEPLOY_LIMIT_S = 900.0
READY_LIMIT_S = 240.0


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the older release."""
    if not OLD:
        pytest.fail("no older release: make test-upgrade FROM=REVISION", pytrace=False)
    root = tmp_path_factory.mktemp("old")
    archive = subprocess.run(["git", "archive", OLD], cwd=REPOSITORY, check=True, capture_output=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(root)], input=archive, check=True)
    return root


@pytest.fixture(scope="module")
def board(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    require_tools("qemu-system-aarch64", "unshare", "ssh", "ssh-keygen", "timeout", "aarch64-linux-gnu-g++")
    with Machine(bare_image(cache), tmp_path_factory.mktemp("board")) as machine:
        machine.power_on()
        yield machine


@pytest.fixture(scope="module")
def its_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Pi 4's bundle, for the board's camera and sensor."""
    profile = open_bundle(bundle).manifest.profile
    camera = msgspec.structs.replace(profile.camera, uri="v4l2:/dev/video0", rate_fps=1.0, stall_timeout_s=10.0)
    power = Power(meters=({"kind": "ina2xx", "shunt_ohm": 0.1, "scope": "board"},), sample_rate_hz=10.0)
    runtime = msgspec.structs.replace(profile.runtime, threads=1)
    root = tmp_path_factory.mktemp("bundles") / "camera"
    copy_bundle(bundle, root)
    change_manifest(root, profile=msgspec.structs.replace(profile, camera=camera, power=power, runtime=runtime))
    return root


def deploy(board: Machine, checkout: Path, bundle: Path) -> dict[str, Any]:
    """Deploys as somebody who stands in that checkout does."""
    options = " ".join(board.ssh_options)
    flags = ["--host", board.host, "--bundle", str(bundle), "--ssh-options", options, "--json"]
    # The checkout first on the path: not the release that the environment has installed.
    done = subprocess.run(
        [sys.executable, "-m", "converter.deploy", *flags],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEPLOY_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    found: dict[str, Any] = result
    return found


def release(board: Machine) -> str:
    return board.output("basename $(readlink -f /opt/ghostwatt/current)").strip()


def runs(board: Machine) -> set[str]:
    """The runs whose rows are in the telemetry."""
    query = "SELECT DISTINCT run_id FROM interval"
    script = f"import json, sqlite3; print(json.dumps(sqlite3.connect('{STORE}').execute('{query}').fetchall()))"
    return {run for (run,) in json.loads(board.output(f'sudo python3 -c "{script}"'))}


def wait_for_rows(board: Machine, bundle: Path) -> None:
    """The service is up, its bundle has proven itself, and rows of its run are in the store."""
    board.wait_for(f"systemctl is-active --quiet {UNIT}", limit_s=READY_LIMIT_S)
    board.wait_for(f"! sudo test -e {STATE}/profiles/{PROFILE}/trial.json", limit_s=READY_LIMIT_S)
    current = board.output(f"basename $(sudo readlink -f {STATE}/profiles/{PROFILE}/current)").strip()
    assert current == open_bundle(bundle).manifest_sha256
    board.output(f"sudo systemctl restart {UNIT}", limit_s=READY_LIMIT_S)  # its end flushes what it had


def test_an_older_release_gives_way_and_comes_back(board: Machine, old: Path, its_bundle: Path, report: list[str]) -> None:
    deploy(board, old, its_bundle)
    wait_for_rows(board, its_bundle)
    first, before = release(board), runs(board)
    assert before

    result = deploy(board, REPOSITORY, its_bundle)
    assert result["state"] == "installed", result
    assert release(board) != first
    wait_for_rows(board, its_bundle)
    after = runs(board)
    assert before < after

    deploy(board, old, its_bundle)
    assert release(board) == first
    wait_for_rows(board, its_bundle)
    again = runs(board)
    assert after < again
    report.append(f"upgrade: {OLD} to this release and back; runs in the telemetry {len(before)}, {len(after)}, {len(again)}")
