"""Several sources in one daemon, and files that play as a camera would."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from tests.unit.records import read_rows

from .conftest import daemon

RUNTIME = ("--runtime", "litert", "--threads", "1")


def test_several_sources_share_the_network_and_have_records_of_their_own(bundle: Path, tmp_path: Path) -> None:
    telemetry, predictions = tmp_path / "t.sqlite", tmp_path / "p.jsonl"
    uris = ("synthetic:64x48@40#60", "synthetic:80x60@20#30", "synthetic:96x72#50")
    flags = [flag for uri in uris for flag in ("--source", uri)]
    outputs = ("--json", "--telemetry", telemetry, "--predictions", predictions)
    run = daemon("--bundle", bundle, *flags, *RUNTIME, *outputs)
    assert run.code == 0, run.err
    sources = {source["uri"]: source for source in run.summary["sources"]}
    assert set(sources) == set(uris)
    assert sources["synthetic:96x72#50"]["frames"] == 50
    for uri, count in (("synthetic:64x48@40#60", 60), ("synthetic:80x60@20#30", 30)):
        assert 0 < sources[uri]["frames"] <= count
        assert sources[uri]["frames"] + sources[uri]["dropped"] <= count
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    for uri in uris:
        assert sum(line["uri"] == uri for line in lines) == sources[uri]["frames"]
    kept = read_rows(
        telemetry, "SELECT source, sum(frames) AS frames, sum(dropped) AS dropped FROM source_interval GROUP BY source"
    )
    assert {row["source"]: (row["frames"], row["dropped"]) for row in kept} == {
        uri: (sources[uri]["frames"], sources[uri]["dropped"]) for uri in uris
    }


def test_a_source_named_twice_is_refused(bundle: Path) -> None:
    run = daemon("--bundle", bundle, "--source", "synthetic:64x48", "--source", "synthetic:64x48", *RUNTIME)
    assert run.code == 2
    (line,) = run.error_lines
    assert "named twice" in line


def test_files_may_be_looped(bundle: Path, photographs: Path) -> None:
    run = daemon("--bundle", bundle, "--source", f"images:{photographs}", "--loop", "--frames", "30", "--json", *RUNTIME)
    assert run.code == 0, run.err
    assert run.summary["frames"] == 30


def test_files_may_play_at_their_own_rate(bundle: Path, photographs: Path) -> None:
    run = daemon("--bundle", bundle, "--source", f"images:{photographs}", "--realtime", "--json", *RUNTIME)
    assert run.code == 0, run.err
    # Twelve pictures at the profile's 30 a second: the twelfth falls due after eleven periods.
    assert run.summary["duration_s"] >= 11 / 30
    assert run.summary["frames"] + run.summary["dropped"] == 12


def test_one_bad_source_among_good_ones_is_named_before_anything_runs(bundle: Path, tmp_path: Path) -> None:
    predictions = tmp_path / "p.jsonl"
    run = daemon(
        "--bundle", bundle, "--source", "synthetic:64x48", "--source", "images:/nowhere", "--predictions", predictions, *RUNTIME
    )
    assert run.code == 20
    (line,) = run.error_lines
    assert "/nowhere" in line
    assert not predictions.exists()


def test_a_video_that_breaks_off_ends_the_run_at_its_own_rate_too(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for index in range(60):
        writer.write(np.full((48, 64, 3), index * 4, np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run = daemon("--bundle", bundle, "--source", f"video:{path}", "--realtime", "--json", *RUNTIME)
    assert run.code == 20
    (line,) = run.error_lines
    assert "ends early" in line
    assert run.summary["interruptions"] == 0
