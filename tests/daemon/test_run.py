from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.daemon.conftest import PROJECT, command, daemon, environment, import_on_the_base_install
from tests.unit.bundles import make_profile, write_tiny_bundle


def test_photographs_become_labels_figures_and_telemetry(runtime: str, bundle: Path, photographs: Path, tmp_path: Path) -> None:
    predictions, telemetry = tmp_path / "predictions.jsonl", tmp_path / "telemetry.sqlite"
    run = daemon(
        "--bundle", bundle, "--source", f"images:{photographs}", "--runtime", runtime,
        "--predictions", predictions, "--telemetry", telemetry, "--json",
    )  # fmt: skip
    assert run.code == 0, run.err
    summary = run.summary
    assert summary["frames"] == 12
    assert summary["dropped"] == summary["bad_frames"] == 0
    assert summary["runtime"] == runtime
    assert summary["fps"] > 0
    assert set(summary["stage_s"]) == {"capture", "preprocess", "inference", "postprocess"}
    assert summary["latency_s"]["p50"] <= summary["latency_s"]["p99"]
    assert (summary["power"] is None) == (summary["energy_per_inference_j"] is None) == bool(summary["power_missing_reason"])
    assert sum(summary["labels"].values()) == 12

    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [line["source"] for line in lines] == [str(path) for path in sorted(photographs.rglob("*.png"))]
    assert all(len(line["labels"]) == len(line["scores"]) == 4 for line in lines)

    with sqlite3.connect(telemetry) as connection:
        stored = connection.execute("SELECT profile, runtime, source, manifest_sha256 FROM run").fetchall()
        frames = connection.execute("SELECT sum(frames) FROM interval").fetchone()
    assert stored[0][:2] == ("host", runtime)
    assert len(stored[0][3]) == 64
    assert frames == (12,)


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose profile names a class only where the network is wholly sure."""
    root = tmp_path_factory.mktemp("doubtful") / "host"
    write_tiny_bundle(root, make_profile(unknown_below=1.0))
    return root


def test_under_the_profiles_threshold_every_frame_is_unknown(
    runtime: str, doubtful: Path, photographs: Path, tmp_path: Path
) -> None:
    predictions, telemetry = tmp_path / "predictions.jsonl", tmp_path / "telemetry.sqlite"
    run = daemon(
        "--bundle", doubtful, "--source", f"images:{photographs}", "--runtime", runtime,
        "--predictions", predictions, "--telemetry", telemetry, "--json",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert (run.summary["unknown"], run.summary["unknown_below"], run.summary["labels"]) == (12, 1.0, {})
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert {(line["label"], line["is_unknown"]) for line in lines} == {("unknown", True)}
    assert all(len(line["labels"]) == len(line["scores"]) == 4 for line in lines)
    with sqlite3.connect(telemetry) as connection:
        assert connection.execute("SELECT unknown_below, sum(unknown) FROM run NATURAL JOIN interval").fetchone() == (1.0, 12)


@pytest.mark.parametrize("flags", [(), ("--unknown-below", "0")], ids=["no threshold", "threshold of 0"])
def test_without_a_threshold_no_frame_is_unknown(
    flags: tuple[str, ...], bundle: Path, doubtful: Path, photographs: Path, tmp_path: Path
) -> None:
    predictions = tmp_path / "predictions.jsonl"
    chosen = doubtful if flags else bundle
    run = daemon("--bundle", chosen, "--source", f"images:{photographs}", "--predictions", predictions, "--json", *flags)
    assert run.code == 0, run.err
    assert run.summary["unknown"] == 0
    assert sum(run.summary["labels"].values()) == 12
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert all(line["label"] == line["labels"][0] and not line["is_unknown"] for line in lines)


def test_a_threshold_on_the_command_line_overrides_the_profiles(bundle: Path, photographs: Path) -> None:
    run = daemon("--bundle", bundle, "--source", f"images:{photographs}", "--unknown-below", "1")
    assert run.code == 0, run.err
    assert "12 of 12 frames: best score under 1" in run.out


def test_the_bundles_temperature_shapes_the_scores(runtime: str, photographs: Path, tmp_path: Path) -> None:
    best = {}
    for temperature in (0.5, 1.0, 4.0):
        root, predictions = tmp_path / f"{temperature}", tmp_path / f"{temperature}.jsonl"
        write_tiny_bundle(root, temperature=temperature)
        run = daemon(
            "--bundle", root, "--source", f"images:{photographs}", "--runtime", runtime, "--predictions", predictions
        )  # fmt: skip
        assert run.code == 0, run.err
        lines = [json.loads(line) for line in predictions.read_text().splitlines()]
        best[temperature] = [(line["labels"], line["scores"][0]) for line in lines]
        # Golden scores are logits: no temperature touches them.
        assert daemon("--bundle", root, "--runtime", runtime, "--self-test").code == 0
    for sharp, plain, soft in zip(best[0.5], best[1.0], best[4.0], strict=True):
        assert sharp[0] == plain[0] == soft[0]
        assert sharp[1] > plain[1] > soft[1]


def test_both_runtimes_give_the_same_labels(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    found = []
    for name in ("litert", "executorch"):
        path = tmp_path / f"{name}.jsonl"
        assert (
            daemon("--bundle", bundle, "--source", f"images:{photographs}", "--runtime", name, "--predictions", path).code == 0
        )
        found.append([json.loads(line)["labels"][0] for line in path.read_text().splitlines()])
    assert found[0] == found[1]


def test_self_test_passes_with_the_bundles_golden_images(runtime: str, bundle: Path) -> None:
    run = daemon("--bundle", bundle, "--runtime", runtime, "--self-test", "--json")
    assert run.code == 0, run.err
    assert run.summary["self_test"]["images"] == 8


def test_a_person_gets_a_table(runtime: str, bundle: Path) -> None:
    run = daemon("--bundle", bundle, "--source", "synthetic:64x48", "--frames", "20", "--runtime", runtime)
    assert run.code == 0
    rows = {line.split()[0]: line for line in run.out.splitlines()}
    assert {"profile", "frames", "speed", "latency", "power", "memory", "labels"} <= set(rows)
    assert "20 in" in rows["frames"]


def test_duration_ends_the_run(bundle: Path) -> None:
    summary = daemon("--bundle", bundle, "--source", "synthetic:32x32@50", "--duration", "1", "--json").summary
    assert 0.9 < summary["duration_s"] < 30
    assert summary["frames"] > 0


LATE_SIGNAL = """
import os, signal, sys
from device import run

finish = run.Recorder.finish

def finish_late(recorder):
    os.kill(os.getpid(), signal.SIGTERM)
    return finish(recorder)

run.Recorder.finish = finish_late
sys.exit(run.main())
"""


def test_a_signal_that_comes_while_the_run_ends_loses_nothing(bundle: Path, tmp_path: Path) -> None:
    telemetry = tmp_path / "telemetry.sqlite"
    flags = ("--bundle", bundle, "--source", "synthetic:64x48", "--frames", "5", "--telemetry", telemetry)
    done = subprocess.run(
        [sys.executable, "-c", LATE_SIGNAL, *map(str, flags)], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(telemetry) as connection:
        assert connection.execute("SELECT sum(frames) FROM interval").fetchone() == (5,)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_batch_and_prints_the_summary(number: signal.Signals, bundle: Path, tmp_path: Path) -> None:
    telemetry, predictions = tmp_path / "telemetry.sqlite", tmp_path / "predictions.jsonl"
    arguments = command(
        "--bundle", bundle, "--source", "synthetic:32x32@50", "--telemetry", telemetry, "--predictions", predictions, "--json"
    )  # fmt: skip
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=environment()
    )
    deadline_s = time.monotonic() + 60
    while not (predictions.exists() and predictions.stat().st_size) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["frames"] > 0
    with sqlite3.connect(telemetry) as connection:
        assert connection.execute("SELECT sum(frames) FROM interval").fetchone() == (summary["frames"],)
    assert len(predictions.read_text().splitlines()) == summary["frames"]


def test_without_a_bundle_the_machines_own_is_taken(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "build").symlink_to(bundle.parent)
    run = daemon("--source", "synthetic:32x32", "--frames", "3", "--json", cwd=tmp_path)
    assert run.code == 0, run.err
    assert run.summary["profile"] == "host"


def test_importing_the_daemon_takes_the_base_install_only() -> None:
    imported = import_on_the_base_install("device.run")
    assert imported.isdisjoint({"torch", "cv2"})


def test_no_torch_in_the_process(runtime: str, bundle: Path) -> None:
    code = (
        "import sys\nfrom device.run import main\n"
        f"code = main(['--bundle', {str(bundle)!r}, '--source', 'synthetic:64x64', '--frames', '3',"
        f" '--runtime', {runtime!r}])\n"
        "libraries = open('/proc/self/maps').read()\n"
        "assert 'torch' not in sys.modules and 'libtorch' not in libraries\nassert code == 0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT, env=environment()
    )
    assert done.returncode == 0, done.stderr


def test_help_names_the_sources_and_runtimes() -> None:
    run = daemon("--help")
    assert run.code == 0
    for word in ("images:", "synthetic", "litert", "executorch", "--telemetry", "--self-test"):
        assert word in run.out


def test_peak_memory_stays_under_80_mb(runtime: str, bundle: Path, photographs: Path) -> None:
    summary = daemon("--bundle", bundle, "--source", f"images:{photographs}", "--runtime", runtime, "--json").summary
    # The tiny network leaves 10 MB of the 80 for GhostNet's packed weights and activations.
    assert summary["peak_rss_bytes"] < 70e6
