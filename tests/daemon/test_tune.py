"""Runs ``python -m device.tune`` as a person does; and ``device.bench`` with a meter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from converter.profiles import FOLDER, load_profile
from device.bench.result import read_result
from device.contract import Profile
from device.contract.profile import Power
from device.tune.profile_text import FIRST_LINE
from device.tune.result import TuneResult
from tests.daemon.conftest import PROJECT, Run, environment
from tests.daemon.meters import POWER_W, install_meters
from tests.unit.bundles import make_profile, write_tiny_bundle

ATTEMPTS = 5


def run(module: str, *arguments: object, env: dict[str, str] | None = None, cwd: Path = PROJECT) -> Run:
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=cwd, env=env or environment())
    return Run(done.returncode, done.stdout, done.stderr)


def tune(*arguments: object, env: dict[str, str] | None = None, cwd: Path = PROJECT) -> Run:
    return run("device.tune", "--quick", *arguments, env=env, cwd=cwd)


def refused(done: Run, code: int, *words: str) -> None:
    assert done.code == code, done.err
    assert len(done.error_lines) == 1, done.err
    for word in words:
        assert word in done.error_lines[0]


def with_meter(kind: str) -> Profile:
    return msgspec.structs.replace(make_profile(), power=Power(meters=({"kind": kind},), sample_rate_hz=20.0))


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose profile names a meter that always reads 3 W."""
    root = tmp_path_factory.mktemp("metered") / "host"
    write_tiny_bundle(root, with_meter("steady"))
    return root


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install_meters(tmp_path_factory.mktemp("meters") / "path")


def load(path: Path, tmp_path: Path) -> Profile:
    folder = tmp_path / "profiles"
    shutil.copytree(FOLDER, folder)
    shutil.copy(path, folder)
    return load_profile(path.stem, folder).profile


def test_most_frames_becomes_a_profile_with_its_reasons(bundle: Path, tmp_path: Path) -> None:
    done = tune("--for", "fps", "--bundle", bundle, "--threads", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    path = tmp_path / "host-tuned-fps.yaml"
    text = path.read_text()
    assert text.startswith(FIRST_LINE)
    assert "=>" in text
    assert "A QUICK LOOK" in text
    assert "=>" in done.out
    assert "too_short" in done.out
    # The tiny network is smaller than a profile may ask for; all else is read.
    path.write_text(text.replace("input_px: 32", "input_px: 224"))
    profile = load(path, tmp_path)
    assert (profile.inherits, profile.runtime.threads, profile.limits.max_rate_fps) == ("host", 1, None)
    assert f"  name: {profile.runtime.name}\n" in text
    # Its own file it writes over; a person's it does not.
    assert tune("--for", "fps", "--bundle", bundle, "--threads", "1", "--runtime", "litert", "--out", path).code == 0
    path.write_text("name: mine\n")
    refused(tune("--for", "fps", "--bundle", bundle, "--out", path), 70, "not written by tune", "--out")
    assert path.read_text() == "name: mine\n"


def test_a_rate_at_least_power(metered: Path, env: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "five.yaml"
    flags = ("--bundle", metered, "--threads", "1", "--runtime", "litert", "--json", "--out", out)
    done = tune("--fps", "5", *flags, env=env)
    assert done.code == 0, done.err
    result = msgspec.json.decode(done.out, type=TuneResult)
    assert result.pick == 0
    (point,) = result.points
    assert point.rate_fps is not None
    assert point.rate_fps.median == pytest.approx(5.0, rel=0.02)
    assert point.power_w is not None
    assert point.power_w.median == pytest.approx(POWER_W)
    assert point.energy_j == pytest.approx(POWER_W / point.rate_fps.median)
    assert result.profile == out.read_text()
    assert "max_rate_fps: 5\n" in out.read_text()


def test_what_cannot_be_is_said_with_the_table_and_no_profile(metered: Path, env: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "one.yaml"
    flags = ("--bundle", metered, "--threads", "1", "--runtime", "litert", "--out", out)
    refused(tune("--watts", "1", *flags, env=env), 70, "within 1 W")
    assert not out.exists()


def test_an_estimate_is_said_everywhere(env: dict[str, str], tmp_path: Path) -> None:
    root, out = tmp_path / "host", tmp_path / "guessed.yaml"
    write_tiny_bundle(root, with_meter("guess"))
    done = tune("--for", "efficiency", "--bundle", root, "--threads", "1", "--runtime", "litert", "--out", out, env=env)
    assert done.code == 0, done.err
    assert "power is an ESTIMATE" in done.err
    assert "ESTIMATE, not measured: steady" in done.out
    assert "ESTIMATE, not measured: steady" in out.read_text()


@pytest.mark.parametrize("aim", [("--for", "efficiency"), ("--fps", "5"), ("--watts", "3")])
def test_without_a_meter_aims_of_power_are_refused_with_the_reason(aim: tuple[str, str], bundle: Path, tmp_path: Path) -> None:
    refused(tune(*aim, "--bundle", bundle, cwd=tmp_path), 70, "no power figure", "names no meter", "--for fps")


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        ((), 2, "one of the arguments"),
        (("--for", "fps", "--watts", "3"), 2, "not allowed"),
        (("--fps", "0"), 2, "not above 0"),
        (("--watts", "nan"), 2, "not above 0"),
        (("--for", "beauty"), 2, "invalid choice"),
        (("--fps", "1000"), 2, "at most 30"),
    ],
)
def test_aims_that_make_no_sense(flags: tuple[str, ...], code: int, word: str, bundle: Path) -> None:
    done = tune(*flags, "--bundle", bundle)
    assert done.code == code
    assert word in done.err


def test_files_that_can_be_no_profile(bundle: Path, tmp_path: Path) -> None:
    refused(tune("--for", "fps", "--bundle", bundle, "--out", tmp_path / "x.txt"), 2, ".yaml")
    refused(tune("--for", "fps", "--bundle", bundle, "--out", tmp_path / "My Board.yaml"), 2, "valid profile name")
    refused(tune("--for", "fps", "--bundle", bundle, "--out", tmp_path / "none" / "x.yaml"), 70, "writable folder")


def test_more_threads_than_a_profile_of_the_board_may_ask_for(bundle: Path) -> None:
    refused(tune("--for", "fps", "--bundle", bundle, "--threads", "500"), 2, "500")


def test_bench_with_a_meter_gives_energy_and_says_whose(metered: Path, env: dict[str, str], tmp_path: Path) -> None:
    flags = ("--bundle", metered, "--threads", "1", "--runtime", "litert", "--out", tmp_path)
    # On a busy machine samples come too late for a figure, and the result says so: then another try.
    for _ in range(ATTEMPTS):
        done = run("device.bench", "--quick", *flags, env=env)
        assert done.code == 0, done.err
        result = read_result(tmp_path / "bench.json")
        (choice,) = result.choices
        if choice.energy or "steady covered" not in str(choice.energy_missing_reason):
            break
    assert choice.energy is not None, choice.energy_missing_reason
    assert choice.energy.power_w.median == pytest.approx(POWER_W)
    assert choice.energy.source == "steady"
    windows = [taken.energy for taken in choice.rounds if taken.energy]
    expected_j = sorted(POWER_W * window.duration_s / window.inferences for window in windows)
    assert choice.energy.gross_j.median == pytest.approx(expected_j[1])
    assert all(window.power and window.power.samples > 20 for window in windows)
    assert result.idle is not None
    assert result.idle.power is not None
    assert result.idle.power.power_w == pytest.approx(POWER_W)
    assert "energy: measured: steady, scope board" in done.out
