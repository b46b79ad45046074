"""Bad input: one line, its own exit code, nothing lost."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from device.core import errors
from tests.daemon.conftest import PROJECT, Run, command, daemon, environment, write_image


def refused(run: Run, error: type[errors.GhostwattError], *words: str) -> None:
    assert run.code == error.exit_code, run.err
    assert len(run.error_lines) == 1, run.err
    for word in words:
        assert word in run.error_lines[0]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that the test may spoil."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def spoil_json(root: Path, edit: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    manifest = json.loads((root / "manifest.json").read_bytes())
    edit(manifest)
    (root / "manifest.json").write_text(json.dumps(manifest))


class TestBundles:
    def test_missing(self, tmp_path: Path) -> None:
        run = daemon("--bundle", tmp_path / "none", "--source", "synthetic:32x32")
        refused(run, errors.BundleError, "manifest.json", "make convert")

    def test_none_for_this_machine(self, tmp_path: Path) -> None:
        refused(daemon("--source", "synthetic:32x32", cwd=tmp_path), errors.BundleError, "holds no bundle", "--bundle")

    def test_truncated(self, copy: Path) -> None:
        model = copy / "tiny_int8.tflite"
        model.write_bytes(model.read_bytes()[:-100])
        refused(daemon("--bundle", copy, "--source", "synthetic:32x32"), errors.BundleError, "tiny_int8.tflite", "bytes")

    def test_tampered(self, copy: Path) -> None:
        model = copy / "tiny_int8.pte"
        model.write_bytes(model.read_bytes()[:-1] + b"?")
        refused(daemon("--bundle", copy, "--source", "synthetic:32x32"), errors.BundleError, "tiny_int8.pte", "sha256")

    def test_from_the_future(self, copy: Path) -> None:
        spoil_json(copy, lambda manifest: manifest.update(schema=9))
        refused(daemon("--bundle", copy, "--source", "synthetic:32x32"), errors.BundleError, "schema 9", "upgrade")

    def test_wrong_number_of_labels(self, copy: Path) -> None:
        spoil_json(copy, lambda manifest: manifest["model"].update(num_classes=3))
        refused(daemon("--bundle", copy, "--source", "synthetic:32x32"), errors.BundleError, "4 labels", "expected 3")

    def test_drift_is_found_by_the_self_test(self, copy: Path, runtime: str) -> None:
        from device.bundle import GOLDEN_NAME, Golden, describe_file, open_bundle, write_golden

        golden = open_bundle(copy).golden()
        write_golden(copy / GOLDEN_NAME, Golden(golden.pixels, {name: logits + 0.1 for name, logits in golden.logits.items()}))
        entry = describe_file(copy / GOLDEN_NAME)

        def adopt(manifest: dict) -> None:  # type: ignore[type-arg]
            for file in manifest["files"]:
                if file["name"] == GOLDEN_NAME:
                    file.update(size_bytes=entry.size_bytes, sha256=entry.sha256)

        spoil_json(copy, adopt)
        refused(daemon("--bundle", copy, "--runtime", runtime, "--self-test"), errors.SelfTestError, "differ")


class TestFlags:
    def test_unknown_runtime(self, bundle: Path) -> None:
        run = daemon("--bundle", bundle, "--source", "synthetic:32x32", "--runtime", "litertt")
        refused(run, errors.UsageError, "did you mean 'litert'?", "executorch")

    def test_unknown_source(self, bundle: Path) -> None:
        refused(daemon("--bundle", bundle, "--source", "imagse:x"), errors.UsageError, "did you mean 'images'?")

    def test_no_source(self, bundle: Path) -> None:
        refused(daemon("--bundle", bundle), errors.UsageError, "--camera", "--source")

    def test_more_threads_than_cores(self, bundle: Path) -> None:
        refused(daemon("--bundle", bundle, "--source", "synthetic:32x32", "--threads", "4096"), errors.UsageError, "4096")

    @pytest.mark.parametrize(
        "flag",
        [
            ("--frames", "0"),
            ("--duration", "-1"),
            ("--threads", "x"),
            ("--camera", "--source", "x:"),
            ("--unknown-below", "1.5"),
            ("--unknown-below", "-0.1"),
            ("--unknown-below", "nan"),
            ("--unknown-below", "half"),
        ],
    )
    def test_nonsense(self, bundle: Path, flag: tuple[str, ...]) -> None:
        run = daemon("--bundle", bundle, *flag)
        assert run.code == 2
        assert "Traceback" not in run.err


class TestSources:
    def test_empty_folder(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        refused(daemon("--bundle", bundle, "--source", f"images:{tmp_path / 'empty'}"), errors.SourceError, "empty")

    def test_missing_folder(self, bundle: Path, tmp_path: Path) -> None:
        refused(daemon("--bundle", bundle, "--source", f"images:{tmp_path / 'none'}"), errors.SourceError, "none")

    def test_a_file_that_is_no_image_is_told_and_the_others_still_run(
        self, bundle: Path, photographs: Path, tmp_path: Path
    ) -> None:
        (photographs / "set1" / "notes.jpg").write_text("not a picture")
        predictions = tmp_path / "predictions.jsonl"
        run = daemon("--bundle", bundle, "--source", f"images:{photographs}", "--predictions", predictions, "--json")
        refused(run, errors.SourceError, "1 could not be decoded")
        assert "notes.jpg" in run.err
        assert run.summary["frames"] == len(predictions.read_text().splitlines()) == 12
        assert run.summary["bad_frames"] == 1

    def test_a_video_that_breaks_off(self, bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
        noise = np.random.default_rng(0)
        for _ in range(40):
            writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
        writer.release()
        whole = path.read_bytes()
        assert daemon("--bundle", bundle, "--source", f"video:{path}", "--json").summary["frames"] == 40
        path.write_bytes(whole[: len(whole) // 2])
        run = daemon("--bundle", bundle, "--source", f"video:{path}", "--json")
        refused(run, errors.SourceError, "clip.avi")
        assert 0 < run.summary["frames"] < 40

    def test_not_a_video(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "clip.mp4").write_text("not a film")
        refused(daemon("--bundle", bundle, "--source", f"video:{tmp_path / 'clip.mp4'}"), errors.SourceError, "clip.mp4")


class TestSinks:
    def test_telemetry_into_a_folder(self, bundle: Path, tmp_path: Path) -> None:
        run = daemon("--bundle", bundle, "--source", "synthetic:32x32", "--frames", "3", "--telemetry", tmp_path)
        refused(run, errors.SinkError, "is a folder")

    def test_telemetry_over_another_file(self, bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "precious.txt"
        path.write_text("something else entirely")
        run = daemon("--bundle", bundle, "--source", "synthetic:32x32", "--frames", "3", "--telemetry", path)
        refused(run, errors.SinkError, "no telemetry store")
        assert path.read_text() == "something else entirely"

    def test_a_full_disk_is_told_and_the_run_goes_on(self, bundle: Path, tmp_path: Path) -> None:
        telemetry = tmp_path / "telemetry.sqlite"

        def fill_the_disk() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        done = subprocess.run(
            command("--bundle", bundle, "--source", "synthetic:32x32", "--frames", "50", "--telemetry", telemetry, "--json"),
            capture_output=True, text=True, check=False, timeout=120, cwd=PROJECT, env=environment(), preexec_fn=fill_the_disk,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["frames"] == 50
        assert "the run continues" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.unprivileged
    def test_telemetry_where_nothing_may_be_written(self, bundle: Path, tmp_path: Path) -> None:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        run = daemon("--bundle", bundle, "--source", "synthetic:32x32", "--frames", "3", "--telemetry", folder / "t.sqlite")
        assert "can't be written" in run.err

    def test_an_old_store_is_added_to(self, bundle: Path, tmp_path: Path) -> None:
        telemetry = tmp_path / "telemetry.sqlite"
        for _ in range(2):
            assert (
                daemon("--bundle", bundle, "--source", "synthetic:32x32", "--frames", "3", "--telemetry", telemetry).code == 0
            )
        with sqlite3.connect(telemetry) as connection:
            assert connection.execute("SELECT count(*) FROM run").fetchone() == (2,)


def test_one_picture_by_name(bundle: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", (255, 0, 0))
    assert daemon("--bundle", bundle, "--source", f"images:{tmp_path / 'one.png'}", "--json").summary["frames"] == 1
