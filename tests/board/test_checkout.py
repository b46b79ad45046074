"""A bare board that makes itself a service from a checkout: ``make install``, without a network and without a compiler.

Then what runs there: picamera2 under the unit as it was installed, on libcamera's virtual camera; what libcamera does for a
Pi's camera beyond that, in the daemon's place; and the store, while the daemon that writes it is killed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from converter.deploy.payload import fetch_wheels, kind_of, read_bundle
from converter.deploy.probe import BoardProbe, probe
from converter.deploy.transport import SshTransport
from device.bundle import open_bundle
from device.contract import Power, Telemetry
from device.meters.fnirsi import UDEV_RULE
from device.runtimes.native import build as native
from device.sources.isp import choose_stream_sizes
from tests.unit.bundles import copy_bundle, write_fp32_bundle

from .conftest import PROGRAMS, require_tools
from .harness.bare import bare_image
from .harness.cache import Cache
from .harness.camera import VirtualCamera, describe
from .harness.machine import Machine
from .harness.tree import REPOSITORY, VIRTUAL_CAMERA_FILE
from .service_facts import HIGHEST_EXPOSURE, STATE, UNIT, WATTS

pytestmark = pytest.mark.board

CHECKOUT = "/home/pi/ghostwatt"
WHEELS = "/home/pi/wheels"
BUNDLE = "/home/pi/bundle"
RESULTS = 8
INSTALL_LIMIT_S = 900.0
RESULTS_LIMIT_S = 240.0

KILLS = int(os.environ.get("GHOSTWATT_KILLS", "4"))
"""Some seconds each, after a start of some more."""
KILL_LIMIT_S = 60.0
"""For one, with the start before it and the look at the store after it: an emulated board's host may be busy."""


# --- the board, and what is copied to it ---


@pytest.fixture(scope="module")
def pi_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Pi 4's bundle, for a camera on the ribbon cable, slow enough for emulated cores, and the board's sensor."""
    profile = open_bundle(bundle).manifest.profile
    camera = msgspec.structs.replace(profile.camera, uri="picamera2:0", rate_fps=1.0, stall_timeout_s=10.0)
    power = Power(meters=({"kind": "ina2xx", "shunt_ohm": 0.1, "scope": "board"},), sample_rate_hz=10.0)
    runtime = msgspec.structs.replace(profile.runtime, threads=1)
    root = tmp_path_factory.mktemp("bundles") / "pi"
    return copy_bundle(bundle, root, camera=camera, power=power, runtime=runtime)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree's own files, with the native library as ``make native ARCH=aarch64`` leaves it."""
    require_tools("aarch64-linux-gnu-g++")
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("without git, the checkout's own files are unknown: make setup-board")
    root = tmp_path_factory.mktemp("checkout") / "ghostwatt"
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    native.build("aarch64", out=root / "device/runtimes/native/lib/aarch64")
    return root


@pytest.fixture(scope="module")
def board(
    cache: Cache, pi_bundle: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory, report: list[str]
) -> Iterator[Machine]:
    tools = ("qemu-system-aarch64", "unshare", "mke2fs", "depmod", "cpio", "xz", "systemd-sysusers", "ssh", "ssh-keygen")
    require_tools(*tools, "timeout", "aarch64-linux-gnu-g++")
    work = tmp_path_factory.mktemp("board")
    life_limit_s = 3600.0 + KILLS * KILL_LIMIT_S
    with Machine(bare_image(cache), work, life_limit_s=life_limit_s) as machine:
        report.append(f"checkout: SSH answers {machine.power_on():.0f} s after power on")
        machine.push(checkout, CHECKOUT)
        machine.push(pi_bundle, BUNDLE)
        wheels = tmp_path_factory.mktemp("payload") / "wheels"
        wheels.mkdir()
        facts = read_bundle(pi_bundle)
        fetch_wheels(kind_of(ask(machine), facts, machine.host, ("litert",)), wheels)
        machine.push(wheels, WHEELS)
        plug_in_camera(machine, pi_bundle, work)
        yield machine


def ask(board: Machine) -> BoardProbe:
    transport = SshTransport(board.host, board.ssh_options)
    try:
        return probe(transport)
    finally:
        transport.close()


def plug_in_camera(board: Machine, bundle: Path, work: Path) -> None:
    """Gives the board libcamera's virtual camera, and what that lacks to be a Pi's; every Python of the board will find it."""
    streams = choose_stream_sizes(open_bundle(bundle).manifest.model.preprocessing, (1280, 720))
    plug = work / "plug"
    plug.mkdir()
    (plug / "virtual.yaml").write_text(describe([VirtualCamera("Virtual0", [(1280, 720), (640, 480), streams.lores_px])]))
    (plug / "virtual_camera.pth").write_text("import virtual_camera\n")
    shutil.copy(PROGRAMS / "virtual_camera/sitecustomize.py", plug / "virtual_camera.py")
    packages = "$(python3 -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')"
    script = [f"cd {board.push(plug, '/var/tmp/plug')}"]
    script += [f"sudo install -D -m 644 virtual.yaml {VIRTUAL_CAMERA_FILE}"]
    script += [f"sudo install -D -m 644 -t {packages} virtual_camera.py virtual_camera.pth"]
    # Its memory for frames: there are no heaps here, and no udev rule of a Pi's that gives this to the group of cameras.
    script += ["sudo chgrp video /dev/udmabuf", "sudo chmod 660 /dev/udmabuf"]
    board.output(" && ".join(script))


def make_install(board: Machine, become: str = "") -> dict[str, Any]:
    """Runs it as a person would who has no network: pip's own variables say where the wheels are."""
    pip = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS}"
    done = board.run(f"cd {CHECKOUT} && {become} {pip} make install BUNDLE={BUNDLE} ARGS=--json", limit_s=INSTALL_LIMIT_S)
    assert done.stdout, done.stderr
    (result,) = json.loads(done.stdout)
    found: dict[str, Any] = {**result, "exit_code": done.returncode}
    return found


def show(board: Machine, name: str, unit: str = UNIT) -> str:
    return board.output(f"systemctl show {unit} --property={name} --value").strip()


# --- make install ---


def test_make_install_needs_no_network_and_no_compiler(board: Machine, pi_bundle: Path, report: list[str]) -> None:
    flags = f"--camera --predictions {STATE}/predictions.jsonl"
    board.output(f"sudo mkdir -p /etc/ghostwatt; echo 'GHOSTWATT_ARGS=\"{flags}\"' | sudo tee /etc/ghostwatt/rpi4.env")
    result = make_install(board)
    assert (result["state"], result["exit_code"]) == ("installed", 0), result
    assert show(board, "ActiveState") == "active"
    sha256 = open_bundle(pi_bundle).manifest_sha256
    assert board.output(f"basename $(sudo readlink -f {STATE}/profiles/rpi4/current)").strip() == sha256
    report.append(f"checkout: make install in {result['duration_s']:.0f} s: {result['detail']}")


def test_make_install_by_root_changes_nothing_of_that(board: Machine) -> None:
    pid = show(board, "MainPID")
    result = make_install(board, "sudo")
    assert (result["state"], result["exit_code"]) == ("unchanged", 0), result
    assert show(board, "MainPID") == pid


def test_after_root_a_user_is_told_whose_the_files_are(board: Machine) -> None:
    board.output(f"sudo chown -R root:root {CHECKOUT}/build")
    result = make_install(board)
    assert (result["state"], result["exit_code"]) == ("failed", 2), result
    assert "Permission denied" in result["detail"]
    assert f"{CHECKOUT}/build" in result["detail"]


# --- what a camera needs, under the unit ---


def test_picamera2_runs_under_the_unit_as_it_is_installed(board: Machine, report: list[str]) -> None:
    board.wait_for(f"test $(sudo cat {STATE}/predictions.jsonl | wc -l) -ge {RESULTS}", limit_s=RESULTS_LIMIT_S)
    lines = board.output(f"sudo cat {STATE}/predictions.jsonl").splitlines()
    indices = [json.loads(line)["index"] for line in lines]
    assert indices == sorted(set(indices))
    assert show(board, "DropInPaths") == ""
    assert show(board, "NRestarts") == "0"
    status = show(board, "StatusText")
    assert f"{WATTS:.2f} W (ina219 (hwmon), board, measured)" in status
    said = board.output(f"sudo journalctl --no-pager --output=cat --unit {UNIT}")
    assert " ERROR " not in said
    text = board.output(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    exposure = float(text.partition("service:")[2].split()[0])
    assert exposure <= HIGHEST_EXPOSURE
    report.append(f"checkout: picamera2 under the unit (systemd-analyze security {exposure}), {len(lines)} results: {status}")


PROBE = """\
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart=
ExecStart=/usr/bin/python3 -I /usr/local/lib/sandbox.py
"""
OWN_LIBCAMERA = "RestrictNamespaces=user net\n"
FOUND = {
    "camera's pipeline": "",
    "camera": "",
    "usb meter": "",
    "usb hub": "EACCES",
    "udev's events": "",
    "worker": "",
    "memory to write and run": "EACCES",
    "packets": "EAFNOSUPPORT",
}


def test_the_unit_lets_a_pis_libcamera_and_a_usb_meter_work(board: Machine, tmp_path: Path) -> None:
    places = {"probe": PROBE, "own": PROBE + OWN_LIBCAMERA}
    script = ["set -e", f"systemctl stop {UNIT}", "cd /var/tmp/trial"]
    # The meter's own rule, for what qemu plugs in.
    rule = re.sub(r'ATTR\{idVendor\}=="[^"]*", ATTR\{idProduct\}=="[^"]*"', 'ATTR{idVendor}=="0627"', UDEV_RULE)
    (tmp_path / "90-usb.rules").write_text(rule + "\n")
    script += ["install -m 644 -t /etc/udev/rules.d 90-usb.rules"]
    script += ["udevadm control --reload", "udevadm trigger --settle --subsystem-match=usb --action=add"]
    # The unit has a /var/tmp of its own.
    script += ["install -m 644 -t /usr/local/lib sandbox.py"]
    shutil.copy(PROGRAMS / "sandbox.py", tmp_path)
    for name, text in places.items():
        (tmp_path / name).write_text(text)
        script.append(f"install -D -m 644 {name} /etc/systemd/system/ghostwatt@{name}.service.d/50.conf")
    script += ["systemctl daemon-reload", *(f"systemctl start ghostwatt@{name}" for name in places)]
    script += [f"journalctl --no-pager --output=cat --unit ghostwatt@{name} | grep '^{{'" for name in places]
    (tmp_path / "script.sh").write_text("\n".join(script) + "\n")
    there = board.push(tmp_path, "/var/tmp/trial")
    as_installed, with_own = (json.loads(line) for line in board.output(f"sudo sh {there}/script.sh").splitlines())
    assert as_installed == FOUND | {"worker in namespaces": "EPERM"}
    assert with_own == FOUND | {"worker in namespaces": ""}


# --- kill -9 while it writes ---


def test_kill_9_at_any_moment_loses_nothing_that_was_flushed(board: Machine, tmp_path: Path, report: list[str]) -> None:
    board.output(f"sudo systemctl stop {UNIT}")
    write_fp32_bundle(tmp_path / "tiny", {"litert": "tiny_fp32.tflite"})
    copy_bundle(tmp_path / "tiny", tmp_path / "eager", telemetry=Telemetry(interval_s=0.05, flush_interval_s=0.05))
    bundle = board.push(tmp_path / "eager", "/var/tmp/eager")
    program = board.push(PROGRAMS / "kills.py", "/var/tmp/kills.py")
    folder, seed = "/var/tmp/kills", random.randrange(10**6)
    board.output(f"sudo install -d -o ghostwatt -g ghostwatt {folder}")
    python = "$(readlink -f /opt/ghostwatt/current)/bin/python"
    command = f"sudo -u ghostwatt {python} -I -B {program} {bundle} {folder} {KILLS} {seed}"
    board.output(f"{command} > /var/tmp/kills.jsonl", limit_s=KILL_LIMIT_S * (KILLS + 1))
    *kills, end = [json.loads(line) for line in board.output("cat /var/tmp/kills.jsonl").splitlines()]
    assert len(kills) == KILLS
    assert end["exit_code"] == 0, end
    for number, seen in enumerate([*kills, end]):
        where = f"seed {seed}, {number}: {seen}"
        assert seen["integrity"] == "ok", where
        assert (seen["lost"], seen["changed"]) == ([], []), where
        assert seen["rows"] == seen["rows_by_our_reader"] > 0, where
        assert not [name for name in seen["files"] if "damaged" in name], where
        assert not [word for word in ("error:", "Traceback", "telemetry") if word in seen["stderr"]], where
    for seen in kills:
        assert seen["exit_code"] == -9, seen
        assert seen["in_start"] or seen["flushed"] > 0, seen
    flushed = sum(seen["flushed"] for seen in kills)
    writing = sum(not seen["in_start"] for seen in kills)
    report.append(
        f"checkout: {len(kills)} kills, {writing} while it wrote and {len(kills) - writing} around the end of a start; "
        f"of {flushed} rows seen flushed before a kill {len(end['lost'])} are lost; {end['rows']} rows of {end['runs']} runs"
    )
