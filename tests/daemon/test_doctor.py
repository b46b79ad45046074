"""``python -m device.doctor`` as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from device.core.errors import DoctorError
from device.runtimes.registry import RUNTIMES
from tests.daemon.conftest import Run, environment


def doctor(*arguments: object, cwd: Path) -> Run:
    command = [sys.executable, "-m", "device.doctor", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd, env=environment())
    return Run(done.returncode, done.stdout, done.stderr)


def test_a_healthy_bundle_is_tried_in_each_runtime_that_is_here(bundle: Path, runtime: str, tmp_path: Path) -> None:
    done = doctor("--bundle", bundle, "--json", cwd=tmp_path)
    rows = {row["check"]: row for row in done.summary["checks"]}
    row = rows[f"runtime {runtime}"]
    assert row["verdict"] == "ok", row
    assert RUNTIMES.load(runtime)().version in row["finding"]
    assert "takes the network" in row["finding"]
    assert rows["bundle"]["verdict"] == "ok"
    failed = [name for name, found in rows.items() if found["verdict"] == "fail"]
    assert done.summary["verdict"] == ("fail" if failed else done.summary["verdict"])
    assert done.code == (DoctorError.exit_code if failed else 0)
    assert len(done.error_lines) == bool(failed)


def test_a_tampered_bundle_fails_and_the_rest_is_still_checked(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    for path in bundle.iterdir():
        (tmp_path / "bundle" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bundle/labels.txt").write_text("other\n")
    done = doctor("--bundle", tmp_path / "bundle", cwd=tmp_path)
    assert done.code == DoctorError.exit_code
    assert "bundle" in done.error_lines[0]
    lines = done.out.splitlines()
    assert any(line.startswith("FAIL  bundle") for line in lines)
    assert any(line.startswith("ok    python") for line in lines)


def test_nothing_at_all_is_no_failure(tmp_path: Path) -> None:
    done = doctor("--root", tmp_path, "--telemetry", tmp_path, "--json", cwd=tmp_path)
    assert json.loads(done.out)["kind"] == "ghostwatt doctor"
    rows = {row["check"]: row["verdict"] for row in done.summary["checks"]}
    assert (rows["bundle"], rows["temperature"], rows["governor"], rows["service"]) == ("warn", *["unsupported"] * 3)
    assert "fail" not in {verdict for name, verdict in rows.items() if name not in ("disk", "glibc", "python")}
