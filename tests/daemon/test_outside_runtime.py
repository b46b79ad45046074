"""A runtime from another package, which a profile or a flag names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from device.bench.plan import find_choices
from device.bundle import open_bundle
from device.core.errors import UsageError
from tests.daemon.conftest import PROJECT, Run
from tests.unit.bundles import copy_bundle, make_profile

MODULE = '''
from device.runtimes.base import BaseRuntime
from device.runtimes.litert import LiteRtRuntime

class Accelerated(BaseRuntime):
    """A driver of our own for the same files."""

    name = "accelerated"
    artefact = "litert"

    @property
    def version(self):
        return "accelerated 3.1"

    def open(self, model, *, input, output, threads):
        assert model.suffix == ".tflite", model
        return LiteRtRuntime().open(model, input=input, output=output, threads=threads)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip lays down for a package with an entry point."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "accelerator.py").write_text(MODULE)
    info = folder / "accelerator-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: accelerator\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ghostwatt.runtimes]\naccelerated = accelerator:Accelerated\n")
    return folder


@pytest.fixture(scope="module")
def chosen(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose profile names the outsider."""
    runtime = msgspec.structs.replace(make_profile().runtime, name="accelerated")
    return copy_bundle(bundle, tmp_path_factory.mktemp("build") / "chosen", runtime=runtime)


def run(command: str, *arguments: object, site: Path | None = None) -> Run:
    path = os.pathsep.join(map(str, filter(None, (PROJECT, site))))
    argv = [sys.executable, "-m", f"device.{command}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, cwd=PROJECT, env=environment)
    return Run(done.returncode, done.stdout, done.stderr)


FRAMES = ("--source", "synthetic:64x64#5", "--json")


def test_a_flag_names_it(bundle: Path, site: Path) -> None:
    done = run("run", "--bundle", bundle, "--runtime", "accelerated", *FRAMES, site=site)
    assert (done.code, done.error_lines) == (0, [])
    assert (done.summary["frames"], done.summary["runtime"]) == (5, "accelerated")
    assert done.summary["runtime_version"] == "accelerated 3.1"


def test_a_profile_names_it(chosen: Path, site: Path) -> None:
    done = run("run", "--bundle", chosen, *FRAMES, site=site)
    assert (done.code, done.error_lines) == (0, [])
    assert done.summary["runtime"] == "accelerated"
    assert run("run", "--bundle", chosen, "--self-test", site=site).out.startswith("self-test passed: accelerated")


def test_the_doctor_tries_it(chosen: Path, site: Path, tmp_path: Path) -> None:
    done = run("doctor", "--bundle", chosen, "--root", tmp_path, "--json", site=site)
    (row,) = (row for row in done.summary["checks"] if row["check"] == "runtime accelerated")
    assert row["verdict"] == "ok"
    assert "accelerated 3.1 takes the network" in row["finding"]


def test_it_is_measured_where_a_flag_or_the_profile_names_it(
    bundle: Path, chosen: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    (named,) = find_choices(open_bundle(bundle), 4, ["accelerated"], [2])
    assert (named.runtime, named.file, named.threads) == ("accelerated", open_bundle(bundle).artefact("litert").file, 2)
    assert {choice.runtime for choice in find_choices(open_bundle(bundle), 1)} == {"litert", "executorch"}
    assert {choice.runtime for choice in find_choices(open_bundle(chosen), 1)} == {"litert", "executorch", "accelerated"}


def test_where_it_is_not_installed_the_profiles_runtime_is_unknown(chosen: Path, tmp_path: Path) -> None:
    done = run("run", "--bundle", chosen, *FRAMES)
    assert done.code == UsageError.exit_code
    assert done.error_lines == ["error: runtime: 'accelerated' is not known; expected (there are: executorch, litert)"]
    done = run("doctor", "--bundle", chosen, "--root", tmp_path, "--json")
    (row,) = (row for row in done.summary["checks"] if row["check"] == "runtime accelerated")
    assert (row["verdict"], "is not known" in row["finding"]) == ("fail", True)
