"""Runs ``python -m device.bench`` as a person does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device.bench.child import run_in_child
from device.bench.plan import find_choices
from device.bench.result import BenchResult, read_result
from device.bench.rounds import RoundJob
from device.bundle import open_bundle
from tests.daemon.conftest import PROJECT, Run, environment, import_on_the_base_install


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "device.bench", *(str(argument) for argument in arguments)]


def bench(*arguments: object) -> Run:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=300, cwd=PROJECT, env=environment()
    )
    return Run(done.returncode, done.stdout, done.stderr)


def refused(run: Run, code: int, *words: str) -> None:
    assert run.code == code, run.err
    assert len(run.error_lines) == 1, run.err
    for word in words:
        assert word in run.error_lines[0]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def measured(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, BenchResult]:
    """A quick benchmark of every choice."""
    out = tmp_path_factory.mktemp("bench") / "new" / "folder"
    run = bench("--bundle", bundle, "--quick", "--out", out)
    assert run.code == 0, run.err
    return run, read_result(out / "bench.json")


def test_every_choice_is_measured_in_processes_of_its_own(measured: tuple[Run, BenchResult]) -> None:
    _, result = measured
    assert result.is_complete
    found = {(one.choice.runtime, one.choice.threads) for one in result.choices}
    assert found == {(name, threads) for name in ("executorch", "litert") for threads in range(1, (os.cpu_count() or 1) + 1)}
    for one in result.choices:
        if one.failure and one.failure.reason == "not_installed":
            continue  # in a place without that runtime its row says so
        assert one.failure is None
        assert len(one.rounds) == 3
        assert one.latency is not None
        assert 0 < one.latency.p50_s.low <= one.latency.p50_s.median <= one.latency.p50_s.high
        assert all(taken.threads == one.choice.threads for taken in one.rounds)
        # With the other runtime in the same process it would be more.
        assert one.peak_rss_bytes is not None
        assert 20e6 < one.peak_rss_bytes < 70e6
        assert (one.energy is None) == bool(one.energy_missing_reason)
        assert "too_short" in [flag.code for flag in one.flags]


def test_a_person_gets_a_table_that_names_the_machine_and_the_method(measured: tuple[Run, BenchResult]) -> None:
    run, result = measured
    assert run.out.startswith(result.machine.processor) or str(result.machine.board) in run.out
    assert "litert" in run.out
    assert "too_short" in run.out
    assert "75.0% confidence" in run.out
    assert f"governor {result.machine.governor}" in run.out or "no cpufreq" in run.out


def test_json_is_the_file(bundle: Path, tmp_path: Path) -> None:
    run = bench(
        "--bundle", bundle, "--quick", "--runtime", "litert", "--threads", "1", "--no-energy", "--json", "--out", tmp_path
    )
    assert run.code == 0, run.err
    assert json.loads(run.out) == json.loads((tmp_path / "bench.json").read_text())
    (choice,) = json.loads(run.out)["choices"]
    assert choice["energy"] is None
    assert choice["energy_missing_reason"] == "--no-energy was given"


def test_a_network_that_does_not_load_is_a_row_and_the_others_are_measured(bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((root / "manifest.json").read_bytes())
    for artefact in manifest["artefacts"]:
        if artefact["runtime"] == "executorch":
            artefact["input"]["name"] = "something else"
            artefact["input"]["shape"] = [1, 33, 33, 3]
    (root / "manifest.json").write_text(json.dumps(manifest))
    run = bench("--bundle", root, "--quick", "--threads", "1", "--out", tmp_path)
    assert run.code == 0, run.err
    found = {one.choice.runtime: one for one in read_result(tmp_path / "bench.json").choices}
    executorch, litert = found["executorch"], found["litert"]
    assert executorch.failure is not None
    assert executorch.failure.reason in ("signature", "not_installed", "not_loadable")
    assert litert.latency is not None
    assert "failed: executorch, 1, int8" in run.out


def test_where_every_choice_fails_the_command_fails(bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((root / "manifest.json").read_bytes())
    for artefact in manifest["artefacts"]:
        artefact["input"]["shape"] = [1, 33, 33, 3]
    (root / "manifest.json").write_text(json.dumps(manifest))
    refused(bench("--bundle", root, "--quick", "--threads", "1", "--out", tmp_path), 70, "every choice failed")


def test_a_process_that_crashes_is_a_failure_with_its_signal(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A sitecustomize that kills the child as soon as it asks for the native library's module.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, signal\n"
        "class Trap:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'device.runtimes.litert':\n"
        "            sys.stderr.write('about to crash\\n'); sys.stderr.flush()\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "sys.meta_path.insert(0, Trap())\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{PROJECT}")
    choice = next(choice for choice in find_choices(open_bundle(bundle), 1) if choice.runtime == "litert")
    outcome = run_in_child(RoundJob(str(bundle), choice, 0.0, 0.1, None))
    assert outcome.failure is not None
    assert outcome.failure.reason == "crashed"
    assert outcome.failure.message == "its process ended with signal SIGSEGV: about to crash"


def test_a_process_that_hangs_is_ended_and_said_so(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{PROJECT}")
    monkeypatch.setattr("device.bench.child._limit_s", lambda _job: 2.0)
    outcome = run_in_child(RoundJob(str(bundle), find_choices(open_bundle(bundle), 1)[0], 0.0, 0.1, None))
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.message) == ("hung", "no answer within 2 s")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_a_bundle_that_is_changed_meanwhile_is_not_measured(bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    choice = find_choices(open_bundle(root), 1)[0]
    with (root / "manifest.json").open("a") as file:
        file.write("\n")
    outcome = run_in_child(RoundJob(str(root), choice, 0.0, 0.1, None))
    assert outcome.failure is not None
    assert outcome.failure.reason == "changed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process_and_keeps_what_was_measured(number: signal.Signals, bundle: Path, tmp_path: Path) -> None:
    arguments = command("--bundle", bundle, "--quick", "--runtime", "litert", "--no-energy", "--out", tmp_path)
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=environment()
    )
    assert process.stderr is not None
    assert any(line.startswith("round 1 of 3") for line in iter(process.stderr.readline, ""))  # the first of several
    deadline_s = time.monotonic() + 30
    while not (children := children_of(process.pid)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert children
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    result = read_result(tmp_path / "bench.json")
    assert not result.is_complete
    assert [flag.code for flag in result.choices[0].flags if flag.code == "interrupted"]
    assert "INTERRUPTED" in out


def test_strict_and_quick_exclude_each_other(bundle: Path) -> None:
    refused(bench("--bundle", bundle, "--strict", "--quick"), 2, "too short")


def test_bad_flags_and_folders_are_one_line(bundle: Path, tmp_path: Path) -> None:
    refused(bench("--bundle", bundle, "--runtime", "litertt"), 2, "did you mean 'litert'")
    refused(bench("--bundle", bundle, "--threads", "500"), 2, "500", "cores")
    refused(bench("--bundle", tmp_path / "none"), 11, "is no bundle")
    (tmp_path / "file").write_text("")
    refused(bench("--bundle", bundle, "--quick", "--out", tmp_path / "file"), 70, "--out")


def test_importing_it_takes_the_base_install_only() -> None:
    imported = import_on_the_base_install("device.bench.__main__", "device.tune.__main__")
    assert "device.bench.runner" in imported
