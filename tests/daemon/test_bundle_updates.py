"""Bundles that are pushed to a board: taken in, tried, taken back; by the real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from device.bundle import GOLDEN_NAME, Golden, open_bundle, write_golden
from device.bundle.store import MAX_STARTS, BundleStore
from tests.unit.bundles import change_manifest, write_tiny_bundle

from .conftest import PROJECT, Run, daemon, environment

SOURCE = ("--source", "synthetic:48x48", "--threads", "1")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "host"
    write_tiny_bundle(root)
    return root


def renumbered(good: Path, folder: Path, number: int) -> Path:
    """The same network under another hash."""
    root = folder / f"bundle-{number}"
    shutil.copytree(good, root)
    change_manifest(root, versions={"number": str(number)})
    return root


def drifting(good: Path, folder: Path) -> Path:
    """A bundle whose golden scores no runtime gives."""
    root = renumbered(good, folder, 1000)
    golden = open_bundle(root).golden()
    write_golden(root / GOLDEN_NAME, Golden(golden.pixels, {name: scores + 1.0 for name, scores in golden.logits.items()}))
    change_manifest(root)
    return root


def command(store: Path, *arguments: object) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "device.bundle", "--store", store, "--config", store / "etc", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=PROJECT,
        env=environment(),
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store(good: Path, tmp_path: Path) -> Path:
    """A store whose bundle has proven itself."""
    root = tmp_path / "state"
    assert command(root, "install", good).code == 0
    run = daemon("--store", root, *SOURCE, "--frames", "40", "--json")
    assert run.code == 0, run.err
    assert "has proven itself: 30 results" in run.err
    return root


def roles(store: Path) -> dict[str, str]:
    listed = command(store, "list", "--json")
    entries = json.loads(listed.out)
    return {
        entry["sha256"]: "trial" if entry["on_trial"] else "current" if entry["is_current"] else "previous"
        for entry in entries
        if entry["is_current"] or entry["is_previous"]
    }


def test_a_new_bundle_is_tried_proves_itself_and_the_old_one_is_kept(store: Path, good: Path, tmp_path: Path) -> None:
    old, new = open_bundle(good).manifest_sha256, renumbered(good, tmp_path, 1)
    installed = command(store, "install", new)
    assert installed.code == 0, installed.err
    sha256 = open_bundle(new).manifest_sha256
    assert roles(store) == {sha256: "trial", old: "previous"}
    run = daemon("--store", store, *SOURCE, "--frames", "40", "--json", "--telemetry", tmp_path / "t.sqlite")
    assert run.code == 0, run.err
    assert roles(store) == {sha256: "current", old: "previous"}
    back = command(store, "rollback")
    assert back.code == 0
    assert old[:12] in back.out
    assert roles(store) == {old: "current"}


def test_a_run_too_short_to_prove_it_leaves_it_on_trial(store: Path, good: Path, tmp_path: Path) -> None:
    new = renumbered(good, tmp_path, 1)
    command(store, "install", new)
    for _ in range(MAX_STARTS + 2):
        assert daemon("--store", store, *SOURCE, "--frames", "5", "--json").code == 0
    assert roles(store)[open_bundle(new).manifest_sha256] == "trial"


def test_a_bundle_that_drifts_is_refused_at_the_door(store: Path, good: Path, tmp_path: Path) -> None:
    before = roles(store)
    refused = command(store, "install", drifting(good, tmp_path))
    assert refused.code == 33
    (line,) = refused.error_lines
    assert "scores differ" in line
    assert roles(store) == before


def test_a_bundle_that_drifts_behind_the_door_is_taken_back(store: Path, good: Path, tmp_path: Path) -> None:
    # As where the runtime on the board was upgraded between the two.
    before = roles(store)
    keeper = BundleStore(store)
    bundle = keeper.install(drifting(good, tmp_path), trust=None, prove=lambda _: None)
    keeper.switch(bundle.manifest_sha256)
    run = daemon("--store", store, *SOURCE, "--frames", "40", "--json")
    assert run.code == 33
    assert "the new bundle failed" in run.err
    assert roles(store) == before
    assert daemon("--store", store, *SOURCE, "--frames", "5", "--json").code == 0


def test_a_bundle_that_crashes_is_taken_back(store: Path, good: Path, tmp_path: Path) -> None:
    before = roles(store)
    command(store, "install", renumbered(good, tmp_path, 1))
    script = (
        "import os, signal, device.daemon.pipeline as p\n"
        "p.Pipeline._process = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "from device.run import main\nmain()\n"
    )
    for _ in range(MAX_STARTS):
        done = subprocess.run(
            [sys.executable, "-c", script, "--store", store, *SOURCE, "--frames", "40"],
            env=environment(),
            check=False,
            timeout=60,
        )
        assert done.returncode < 0
    run = daemon("--store", store, *SOURCE, "--frames", "5", "--json")
    assert run.code == 0
    assert f"was started {MAX_STARTS} times and never proved itself" in run.err
    assert roles(store) == before


def test_a_bundle_that_rots_on_the_card_is_left_for_the_previous_one(store: Path, good: Path, tmp_path: Path) -> None:
    new = renumbered(good, tmp_path, 1)
    command(store, "install", new)
    assert daemon("--store", store, *SOURCE, "--frames", "40", "--json").code == 0
    model = store / "bundles" / open_bundle(new).manifest_sha256 / "tiny_int8.tflite"
    model.write_bytes(model.read_bytes()[:-100])
    run = daemon("--store", store, *SOURCE, "--frames", "5", "--json")
    assert run.code == 0
    assert f"back to {open_bundle(good).manifest_sha256[:12]}" in run.err
    (store / "bundles" / open_bundle(good).manifest_sha256 / "tiny_int8.tflite").unlink()
    run = daemon("--store", store, *SOURCE, "--frames", "5")
    assert run.code == 11
    assert "tiny_int8.tflite" in run.err, "not only that there is no other one"


def test_with_signers_named_only_their_bundles_are_taken(store: Path, good: Path, tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen: apt install openssh-client")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (store / "etc").mkdir()
    (store / "etc" / "allowed_signers").write_text(f"me {(tmp_path / 'key.pub').read_text()}")
    new = renumbered(good, tmp_path, 1)
    refused = command(store, "install", new)
    assert refused.code == 11
    assert "is not signed" in refused.err
    assert command(store, "sign", new, "--key", key).code == 0
    assert command(store, "verify", new).out.count("signed by me") == 1
    assert command(store, "install", new).code == 0


def test_packed_into_one_file_it_installs_too(store: Path, good: Path, tmp_path: Path) -> None:
    new = renumbered(good, tmp_path, 1)
    assert command(store, "pack", new, tmp_path / "new.tar.xz").code == 0
    assert command(store, "install", tmp_path / "new.tar.xz").code == 0
    assert roles(store)[open_bundle(new).manifest_sha256] == "trial"


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    run = daemon("--store", tmp_path / "empty", *SOURCE)
    assert run.code == 2
    assert "0 profiles have a bundle" in run.err
    assert "takes one in" in command(tmp_path / "empty", "list").out
