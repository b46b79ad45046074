"""``python -m device.report`` as a person runs it: a process, its output, its exit code, its files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device.core.errors import MissingDependencyError, ReportError
from tests.daemon.conftest import PROJECT, Run, daemon, environment
from tests.unit.stores import power, run, second, write_store

BENCH = PROJECT / "tests/fixtures/bench/simulated-measured.json"


def report(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Run:
    """Runs the report to its end."""
    command = [sys.executable, "-m", "device.report", *(str(argument) for argument in arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd, env={**environment(), **(env or {})}
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(
        tmp_path / "t.sqlite",
        (run("aaa1", started_at_utc="2026-01-01T00:00:00+00:00"), [second(1, **power(2.0)), second(2, **power(2.0))]),
        (run("aaa2", started_at_utc="2026-01-02T00:00:00+00:00", profile="eco"), [second(1, **power(4.0))]),
        (run("bbb3", started_at_utc="2026-01-03T00:00:00+00:00", profile="short"), []),
    )


@pytest.fixture(params=["matplotlib", "jinja2"])
def no_extra(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment in which a package of the extra can't be imported."""
    folder = tmp_path / "hidden"
    (folder / request.param).mkdir(parents=True)
    (folder / request.param / "__init__.py").write_text(f"raise ImportError('No module named {request.param}')\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}"}


class TestOutputs:
    def test_a_page_by_default(self, store: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="the page needs matplotlib")
        pytest.importorskip("jinja2", reason="the page needs jinja2")
        done = report(store, BENCH, cwd=tmp_path)
        assert (done.code, done.out, done.err) == (0, "report.html\n", "")
        text = (tmp_path / "report.html").read_text()
        assert "Runs side by side" in text
        assert "Benchmarks side by side" in text
        assert [path for path in os.listdir(tmp_path) if path.startswith(".")] == []

    def test_pictures(self, store: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="pictures need matplotlib")
        assert report(f"{store}#aaa1", "--png", tmp_path / "out", cwd=tmp_path).code == 0
        assert "run-host-aaa1.png" in os.listdir(tmp_path / "out")
        assert not (tmp_path / "report.html").exists()

    def test_json_and_csv_need_no_extra(self, store: Path, tmp_path: Path, no_extra: dict[str, str]) -> None:
        found = json.loads(report(store, "--json", cwd=tmp_path, env=no_extra).out)
        assert [one["run"]["run_id"] for one in found["runs"]] == ["aaa1", "aaa2"]
        assert found["empty_runs"] == ["bbb3"]
        rows = list(csv.DictReader(io.StringIO(report(store, "--csv", cwd=tmp_path, env=no_extra).out)))
        watts = [
            (row["run_id"], float(row["value"]), row["kind"]) for row in rows if (row["of"], row["name"]) == ("run", "power_w")
        ]
        assert watts == [("aaa1", 2.0, "measured"), ("aaa2", 4.0, "measured")]

    def test_a_page_without_the_extra_says_what_to_install(self, store: Path, tmp_path: Path, no_extra: dict[str, str]) -> None:
        done = report(store, cwd=tmp_path, env=no_extra)
        assert done.code == MissingDependencyError.exit_code
        assert "pip install 'ghostwatt[report]'" in done.error_lines[0]

    def test_list(self, store: Path, tmp_path: Path) -> None:
        lines = report(store, BENCH, "--list", cwd=tmp_path).out.splitlines()
        assert [line.split()[0] for line in lines[1:4]] == ["aaa1", "aaa2", "bbb3"]
        assert "nothing recorded" in lines[3]
        assert "6 choices" in lines[5]

    def test_what_the_daemon_recorded(self, bundle: Path, runtime: str, tmp_path: Path) -> None:
        telemetry = tmp_path / "t.sqlite"
        done = daemon(
            "--bundle",
            bundle,
            "--runtime",
            runtime,
            "--source",
            "synthetic:64x64@30",
            "--duration",
            3,
            "--telemetry",
            telemetry,
            "--json",
        )
        assert done.code == 0, done.err
        found = json.loads(report(telemetry, "--json", cwd=tmp_path).out)
        (one,) = found["runs"]
        assert one["frames"] == done.summary["frames"]
        assert one["fps"] == pytest.approx(done.summary["fps"], rel=0.1)
        assert one["gaps"] == 0
        assert one["run"]["runtime"] == runtime


class TestChoice:
    @pytest.mark.parametrize(
        ("arguments", "ids"),
        [
            (["t.sqlite#aaa2"], ["aaa2"]),
            (["t.sqlite", "--run", "aaa1"], ["aaa1"]),
            (["t.sqlite#aaa1", "t.sqlite#aaa2"], ["aaa1", "aaa2"]),
            (["t.sqlite", "t.sqlite"], ["aaa1", "aaa2"]),
        ],
    )
    def test_of_runs(self, store: Path, tmp_path: Path, arguments: list[str], ids: list[str]) -> None:
        assert store.name == "t.sqlite"
        found = json.loads(report(*arguments, "--json", cwd=tmp_path).out)
        assert [one["run"]["run_id"] for one in found["runs"]] == ids

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["t.sqlite#last"], "no run has an interval"),
            (["t.sqlite#zzz"], "is no run of it"),
            (["t.sqlite#aaa"], "is the beginning of 2 runs"),
            (["t.sqlite", "--run", "a"], "is the beginning of 2 runs"),
            (["t.sqlite", "--run", "x"], "no such run"),
            (["none.sqlite"], "No such file"),
            (["t.sqlite", "notes.txt"], "is neither"),
            (["t.sqlite", "--html", "t.sqlite/page.html"], "can't be written"),
        ],
    )
    def test_that_can_not_be_met_is_one_line(self, store: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
        (tmp_path / "notes.txt").write_text("dear diary")
        done = report(*arguments, cwd=tmp_path)
        assert done.code == ReportError.exit_code
        assert len(done.error_lines) == 1
        assert reason in done.error_lines[0]

    @pytest.mark.parametrize(
        ("arguments", "ids"),
        [
            (["t.sqlite", "--run", "aaa1"], ["aaa1"]),
            (["t.sqlite", "--run", "aaa"], ["aaa1", "aaa2"]),
            (["t.sqlite#aaa2"], ["aaa2"]),
        ],
    )
    def test_holds_for_the_list_too(self, store: Path, tmp_path: Path, arguments: list[str], ids: list[str]) -> None:
        assert store.name == "t.sqlite"
        lines = report(*arguments, "--list", cwd=tmp_path).out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ids

    @pytest.mark.parametrize("how", ["--list", "--json"])
    def test_that_no_file_has_is_an_error_however_it_is_shown(self, store: Path, tmp_path: Path, how: str) -> None:
        for arguments, reason in ((("t.sqlite", "--run", "x"), "no such run"), ((f"{BENCH}#last",), "which has no runs")):
            done = report(*arguments, how, cwd=tmp_path)
            assert (done.code, len(done.error_lines)) == (ReportError.exit_code, 1)
            assert reason in done.error_lines[0]

    def test_of_a_file_that_is_no_benchmark(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("{}")
        done = report("x.json", "--json", cwd=tmp_path)
        assert done.code == ReportError.exit_code
        assert len(done.error_lines) == 1
