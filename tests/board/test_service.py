"""A board out of its box, reached by real SSH: the service is deployed, watched, killed, fed bad bundles, switched off hard.

The tests tell one story, in order, on one board. Its camera is vivid at one frame a second, slower than the network on emulated
cores: a dropped frame is a fault.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device.bundle import GOLDEN_NAME, MANIFEST_NAME, Golden, open_bundle, write_golden
from device.bundle.store import MAX_STARTS
from device.contract import Power
from device.daemon.trial import PROVEN_AFTER
from device.service.unit import RESTART_S, WATCHDOG_S
from tests.unit.bundles import change_manifest, copy_bundle, write_fp32_bundle

from .conftest import require_tools
from .harness.bare import bare_image
from .harness.cache import Cache
from .harness.machine import Machine
from .harness.tree import REPOSITORY
from .service_facts import HIGHEST_EXPOSURE, PROFILE, STATE, UNIT, WATTS

pytestmark = pytest.mark.board

DEPLOY_LIMIT_S = 900.0
READY_LIMIT_S = 240.0
BUNDLE_LIMIT_S = 300.0
POWER_CUTS = int(os.environ.get("GHOSTWATT_POWER_CUTS", "1"))
"""Mid-run, and as many mid-update. Each takes a minute."""


# --- the board ---


@pytest.fixture(scope="module")
def board(cache: Cache, tmp_path_factory: pytest.TempPathFactory, report: list[str]) -> Iterator[Machine]:
    tools = ("qemu-system-aarch64", "unshare", "mke2fs", "depmod", "cpio", "xz", "systemd-sysusers", "ssh", "ssh-keygen")
    require_tools(*tools, "timeout", "aarch64-linux-gnu-g++")
    with Machine(bare_image(cache), tmp_path_factory.mktemp("board")) as machine:
        report.append(f"service: SSH answers {machine.power_on():.0f} s after power on")
        yield machine


def deploy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "converter.deploy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEPLOY_LIMIT_S, cwd=REPOSITORY)


def deploy_to(board: Machine, bundle: Path, *arguments: str) -> dict[str, Any]:
    options = " ".join(board.ssh_options)
    done = deploy("--host", board.host, "--bundle", str(bundle), "--ssh-options", options, "--json", *arguments)
    assert done.stdout, done.stderr
    (result,) = json.loads(done.stdout)
    found: dict[str, Any] = {**result, "exit_code": done.returncode, "said": done.stderr}
    return found


def show(board: Machine, *names: str, unit: str = UNIT) -> dict[str, str]:
    text = board.output(f"systemctl show {unit} --property={','.join(names)}")
    return dict(line.partition("=")[::2] for line in text.splitlines())


def main_pid(board: Machine) -> int:
    return int(show(board, "MainPID")["MainPID"])


def wait_until_active(board: Machine, unit: str = UNIT, *, other_than: int = -1) -> float:
    pid = f"$(systemctl show {unit} --property=MainPID --value)"
    return board.wait_for(f"systemctl is-active --quiet {unit} && test {pid} != {other_than}", limit_s=READY_LIMIT_S)


def journal(board: Machine, *flags: str) -> str:
    return board.output(f"sudo journalctl --no-pager --output=cat {' '.join(flags)}")


def current(board: Machine) -> str:
    return board.output(f"basename $(sudo readlink -f {STATE}/profiles/{PROFILE}/current)").strip()


def prove_whole(board: Machine) -> None:
    """What ``current`` points to is what its manifest says, to the last byte."""
    opening = f"open_bundle(Path('{STATE}/profiles/{PROFILE}/current'))"
    script = f"from pathlib import Path; from device.bundle import open_bundle; {opening}"
    board.output(f'sudo "$(readlink -f /opt/ghostwatt/current)/bin/python" -I -c "{script}"')


def wait_until_proven(board: Machine) -> None:
    board.wait_for(f"! sudo test -e {STATE}/profiles/{PROFILE}/trial.json", limit_s=READY_LIMIT_S)


# --- bundles ---


def copied(source: Path, root: Path, **changes: Any) -> Path:
    """The same network under another hash."""
    copy_bundle(source, root)
    change_manifest(root, **changes)
    return root


@pytest.fixture(scope="module")
def first(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Pi 4's bundle, for a board with this camera and this sensor."""
    profile = open_bundle(bundle).manifest.profile
    camera = msgspec.structs.replace(profile.camera, uri="v4l2:/dev/video0", rate_fps=1.0, stall_timeout_s=10.0)
    power = Power(meters=({"kind": "ina2xx", "shunt_ohm": 0.1, "scope": "board"},), sample_rate_hz=10.0)
    runtime = msgspec.structs.replace(profile.runtime, threads=1)
    changed = msgspec.structs.replace(profile, camera=camera, power=power, runtime=runtime)
    return copied(bundle, tmp_path_factory.mktemp("bundles") / "first", profile=changed)


@pytest.fixture(scope="module")
def light(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network for the same profile: an emulated core keeps up with the camera; a dropped frame is a fault."""
    folder = tmp_path_factory.mktemp("light")
    write_fp32_bundle(folder / "tiny", {"litert": "tiny_fp32.tflite", "executorch": "tiny_fp32.pte"})
    profile = open_bundle(first).manifest.profile
    return copied(folder / "tiny", folder / "light", profile=profile)


def sha256(root: Path) -> str:
    return open_bundle(root).manifest_sha256


# --- the story ---


def test_deploys_over_ssh_and_comes_up(board: Machine, first: Path, report: list[str]) -> None:
    flags = "--camera --predictions /var/lib/ghostwatt/predictions.jsonl"
    board.output(f"sudo mkdir -p /etc/ghostwatt; echo 'GHOSTWATT_ARGS=\"{flags}\"' | sudo tee /etc/ghostwatt/{PROFILE}.env")
    result = deploy_to(board, first)
    assert result["state"] == "installed", result
    assert show(board, "ActiveState", "SubState", "Result") == {
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
    }
    assert current(board) == sha256(first)
    report.append(f"service: deployed in {result['duration_s']:.0f} s: {result['detail']}")


def test_again_changes_nothing(board: Machine, first: Path) -> None:
    pid = main_pid(board)
    result = deploy_to(board, first)
    assert result["state"] == "unchanged", result
    assert main_pid(board) == pid


def test_boards_of_a_file_each_have_a_row(board: Machine, first: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{board.host}\nssh://pi@127.0.0.1:9\n")
    options = " ".join(board.ssh_options)
    done = deploy("--hosts", str(hosts), "--bundle", str(first), "--ssh-options", options, "--canary")
    assert done.returncode == 81
    assert [line.split()[2] for line in done.stdout.splitlines()[1:]] == ["unchanged", "failed"]
    assert "Connection refused" in done.stdout


def test_what_is_installed_stays_small(board: Machine, report: list[str]) -> None:
    total = int(board.output("sudo du -sb /opt/ghostwatt | cut -f1"))
    packages = "$(readlink -f /opt/ghostwatt/current)/lib/python*/site-packages"
    names = board.output(f"cd {packages} && sudo du -sb cv2 opencv* | cut -f1")
    opencv = sum(int(line) for line in names.split())
    bundle = int(board.output(f"sudo du -sb {STATE}/bundles | cut -f1"))
    without = total + bundle - opencv
    report.append(
        f"service: {total / 1e6:.0f} MB of software with both runtimes, of which OpenCV {opencv / 1e6:.0f} MB, "
        f"and {bundle / 1e6:.0f} MB of bundle; without OpenCV {without / 1e6:.0f} MB"
    )
    assert without < 90e6
    assert total + bundle < 150e6


def test_status_shows_fps_and_watts(board: Machine, report: list[str]) -> None:
    board.wait_for(f"systemctl status {UNIT} | grep -q 'Status:.*FPS'", limit_s=60.0)
    (line,) = [line.strip() for line in board.output(f"systemctl status {UNIT}").splitlines() if "Status:" in line]
    assert f"{WATTS:.2f} W (ina219 (hwmon), board, measured)" in line
    report.append(f"service: {line}")
    rows = json.loads(board.output("sudo ghostwatt service status --json"))["profiles"]
    assert [(row["profile"], row["ActiveState"]) for row in rows] == [(PROFILE, "active")]


def test_it_is_as_closed_as_promised_while_camera_and_sensor_work(board: Machine, report: list[str]) -> None:
    text = board.output(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    exposure = float(text.partition("service:")[2].split()[0])
    assert exposure <= HIGHEST_EXPOSURE
    report.append(f"service: systemd-analyze security {exposure} (systemd {board.output('systemctl --version').split()[1]})")


def test_the_other_runtime_works_under_the_same_restrictions(board: Machine) -> None:
    # Among them MemoryDenyWriteExecute: neither runtime writes code of its own.
    board.output(f"sudo sed -i 's/--camera/--camera --runtime executorch/' /etc/ghostwatt/{PROFILE}.env")
    board.output(f"sudo systemctl restart {UNIT}", limit_s=READY_LIMIT_S)
    board.output(f"sudo sed -i 's/ --runtime executorch//' /etc/ghostwatt/{PROFILE}.env")
    board.output(f"sudo systemctl restart {UNIT}", limit_s=READY_LIMIT_S)
    wait_until_proven(board)


def test_the_journal_has_fields_for_programs(board: Machine) -> None:
    board.wait_for(
        f"sudo journalctl --unit {UNIT} --output=json GHOSTWATT_PROFILE={PROFILE} | grep -q GHOSTWATT_FPS", limit_s=120.0
    )
    line = journal(board, f"--unit {UNIT}", "--lines=1", f"GHOSTWATT_PROFILE={PROFILE}", "--output=json").splitlines()[-1]
    entry = json.loads(line)
    assert float(entry["GHOSTWATT_POWER_W"]) == pytest.approx(WATTS, rel=0.01)
    assert entry["GHOSTWATT_POWER_IS_ESTIMATE"] == "0"
    assert "FPS over" in entry["MESSAGE"]


def test_a_hung_daemon_is_started_anew_by_the_watchdog(board: Machine, report: list[str]) -> None:
    pid = main_pid(board)
    board.output(f"sudo kill -STOP {pid}")
    took_s = wait_until_active(board, other_than=pid)
    assert show(board, "NRestarts")["NRestarts"] == "1"
    said = journal(board, f"_PID=1 UNIT={UNIT}")
    assert "Watchdog timeout" in said
    report.append(f"service: SIGSTOP to READY again {took_s:.0f} s (watchdog {WATCHDOG_S} s, restart after {RESTART_S} s)")


def test_a_killed_daemon_is_started_anew(board: Machine, report: list[str]) -> None:
    pid = main_pid(board)
    board.output(f"sudo kill -KILL {pid}")
    took_s = wait_until_active(board, other_than=pid)
    assert show(board, "NRestarts")["NRestarts"] == "2"
    report.append(f"service: kill -9 to READY again {took_s:.0f} s")


def test_a_new_bundle_proves_itself_and_the_old_one_can_come_back(board: Machine, first: Path, light: Path) -> None:
    result = deploy_to(board, light)
    assert result["state"] == "installed", result
    wait_until_proven(board)
    assert f"has proven itself: {PROVEN_AFTER} results" in journal(board, f"--unit {UNIT}", "--lines=100")
    board.output("sudo ghostwatt bundle rollback")
    assert current(board) == sha256(first)
    board.output(f"sudo ghostwatt bundle switch {sha256(light)[:12]}")
    assert current(board) == sha256(light)
    board.output(f"sudo systemctl restart {UNIT}", limit_s=READY_LIMIT_S)
    wait_until_proven(board)


BAD = {
    "tampered": "sha256",
    "truncated": "bytes",
    "no manifest": MANIFEST_NAME,
    "newer schema": "schema",
    "drifting": "scores differ",
    "traversal": "plain name",
    "link": "plain file",
    "stranger": "manifest",
    "half an archive": "archive",
}


def make_bad(kind: str, light: Path, folder: Path) -> Path:
    root = copied(light, folder / "bad", versions={"kind": kind})
    model = root / open_bundle(root).artefact("litert").file
    archive = folder / "bad.tar"
    if kind == "tampered":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    elif kind == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif kind == "no manifest":
        (root / MANIFEST_NAME).unlink()
    elif kind == "newer schema":
        manifest = json.loads((root / MANIFEST_NAME).read_text())
        (root / MANIFEST_NAME).write_text(json.dumps({**manifest, "schema": 999}))
    elif kind == "drifting":
        golden = open_bundle(root).golden()
        wrong = {name: scores + 5.0 for name, scores in golden.logits.items()}
        write_golden(root / GOLDEN_NAME, Golden(golden.pixels, wrong))
        change_manifest(root)
    else:
        with tarfile.open(archive, "w") as tar:
            for path in root.iterdir():
                tar.add(path, f"../../etc/{path.name}" if kind == "traversal" else path.name)
            if kind == "stranger":
                tar.add(root / MANIFEST_NAME, "run-me.py")
            if kind == "link":
                link = tarfile.TarInfo("extra")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
                tar.addfile(link)
        if kind == "half an archive":
            archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
        return archive
    return root


def test_bad_bundles_are_refused_while_the_old_one_drops_no_frame(
    board: Machine, light: Path, tmp_path: Path, report: list[str]
) -> None:
    wait_until_proven(board)
    before = show(board, "MainPID", "NRestarts")
    kept = board.output(f"sudo ls -A {STATE}/bundles").split()
    began = int(board.output(f"sudo cat {STATE}/predictions.jsonl | wc -l"))
    for number, (kind, words) in enumerate(BAD.items()):
        there = board.push(make_bad(kind, light, tmp_path / str(number)), f"/var/tmp/bad-{number}")
        done = board.run(f"sudo ghostwatt bundle install {there}", limit_s=BUNDLE_LIMIT_S)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode in (11, 33), (kind, done.stderr)
        assert words in line, (kind, line)
        board.output(f"rm -rf {there}")
    assert show(board, "MainPID", "NRestarts") == before
    assert current(board) == sha256(light)
    assert board.output(f"sudo ls -A {STATE}/bundles").split() == kept
    lines = board.output(f"sudo tail -n +{began + 1} {STATE}/predictions.jsonl").splitlines()
    indices = [json.loads(line)["index"] for line in lines]
    assert len(indices) > 10
    dropped = indices[-1] - indices[0] + 1 - len(indices)
    report.append(f"service: {len(BAD)} kinds of bad bundles refused; {dropped} of {len(indices)} frames dropped meanwhile")
    assert dropped == 0


def test_a_bundle_that_dies_again_and_again_is_taken_back(board: Machine, light: Path, tmp_path: Path) -> None:
    new = copied(light, tmp_path / "new", versions={"kind": "dies"})
    board.output(f"sudo ghostwatt bundle install {board.push(new, '/var/tmp/dies')}", limit_s=BUNDLE_LIMIT_S)
    assert current(board) == sha256(new)
    board.output(f"sudo systemctl restart {UNIT}", limit_s=READY_LIMIT_S)
    for _ in range(MAX_STARTS):
        assert current(board) == sha256(new)
        pid = main_pid(board)
        board.output(f"sudo kill -SEGV {pid}")
        wait_until_active(board, other_than=pid)
    assert current(board) == sha256(light)
    said = journal(board, f"--unit {UNIT}", "--lines=200", "--priority=warning")
    assert f"was started {MAX_STARTS} times and never proved itself: back to {sha256(light)[:12]}" in said


def test_another_profile_is_one_command(board: Machine, light: Path, tmp_path: Path) -> None:
    profile = msgspec.structs.replace(open_bundle(light).manifest.profile, name="rpi4-eco")
    eco = copied(light, tmp_path / "eco", profile=profile)
    board.output(f"sudo ghostwatt bundle install {board.push(eco, '/var/tmp/eco')}", limit_s=BUNDLE_LIMIT_S)
    for name, other in (("rpi4-eco", PROFILE), (PROFILE, "rpi4-eco")):
        board.output(f"sudo ghostwatt service use {name}", limit_s=READY_LIMIT_S)
        assert show(board, "ActiveState", unit=f"ghostwatt@{name}.service")["ActiveState"] == "active"
        assert show(board, "ActiveState", unit=f"ghostwatt@{other}.service")["ActiveState"] == "inactive"


def prove_that_it_came_back(board: Machine) -> float:
    """After a power cut: it boots, runs by itself, and what it kept is whole."""
    boot_s = board.power_on()
    ready_s = boot_s + wait_until_active(board)
    prove_whole(board)
    opening = f"sqlite3.connect('{STATE}/telemetry-{PROFILE}.sqlite')"
    script = f"import sqlite3; print({opening}.execute('PRAGMA integrity_check').fetchone()[0])"
    assert board.output(f'sudo python3 -c "{script}"').strip() == "ok"
    return ready_s


def test_power_that_goes_off_mid_run_harms_nothing(board: Machine, report: list[str]) -> None:
    for _ in range(POWER_CUTS):
        time.sleep(random.uniform(0.0, 3.0))
        board.cut_power()
        report.append(f"service: power cut mid-run; READY {prove_that_it_came_back(board):.0f} s after power on")


def test_power_that_goes_off_mid_update_harms_nothing(board: Machine, light: Path, tmp_path: Path, report: list[str]) -> None:
    known = {sha256(light)}
    for number in range(POWER_CUTS):
        new = copied(light, tmp_path / str(number), versions={"cut": str(number)})
        known.add(sha256(new))
        there = board.push(new, f"/var/tmp/cut-{number}")
        board.output("sync")
        # Past the self-test, which takes the longest, to where files move and links turn.
        back = f"ghostwatt bundle rollback --profile {PROFILE}"
        loop = f"while ghostwatt bundle install {there}; do {back}; done"
        board.output(f"sudo sh -c '{loop}' </dev/null >/dev/null 2>&1 &")
        time.sleep(random.uniform(1.0, 40.0))
        board.cut_power()
        ready_s = prove_that_it_came_back(board)
        assert current(board) in known
        report.append(f"service: power cut mid-update; READY {ready_s:.0f} s after power on, on {current(board)[:12]}")


def test_uninstall_leaves_only_data_that_it_names(board: Machine) -> None:
    said = board.output("sudo ghostwatt service uninstall")
    assert f"data was left in {STATE}, /etc/ghostwatt" in said
    traces = "sudo find / -xdev -name '*ghostwatt*' -not -path '/proc/*' -not -path '/var/log/*'"
    left = board.output(f"{traces} -not -path '{STATE}*' -not -path '/etc/ghostwatt*' -not -path '/var/tmp/*'").split()
    assert left == []
    assert board.run("getent passwd ghostwatt").returncode == 2
    assert board.output(f"sudo find {STATE} /etc/ghostwatt -not -user root").split() == []
