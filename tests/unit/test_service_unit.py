from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from device.service.unit import GROUPS, PRIVATE_NETWORKS, allowed_networks, network_hosts, render_network, render_unit

HIGHEST_EXPOSURE = 1.5


def test_one_that_lacks_a_group_of_the_board_would_not_start() -> None:
    assert "SupplementaryGroups=video i2c\n" in render_unit(["i2c", "video", "wheel"])
    assert "SupplementaryGroups" not in render_unit([])


def test_what_a_restart_can_mend_is_restarted() -> None:
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", render_unit(GROUPS), re.MULTILINE)
    hopeless = {int(code) for code in line.split()}
    assert hopeless == {2, 10, 12, 30}, "usage, profile, board, and what isn't installed; never a camera, a bundle or a network"


@pytest.mark.parametrize(
    ("addresses", "hosts", "networks"),
    [
        (["picamera2:0", "/dev/video0", "video:clip.mp4"], (), ()),
        (["rtsp://user:p@192.0.2.7:554/x"], ("192.0.2.7",), ("192.0.2.7",)),
        (["http://[fe80::1]:8080/"], ("fe80::1",), ("fe80::1",)),
        (["http://phone.local:8080/", "http://192.0.2.7"], ("192.0.2.7", "phone.local"), ("192.0.2.7", *PRIVATE_NETWORKS)),
        (["http://localhost:8080/"], (), ()),
        (["--prometheus", "9464"], (), ()),
        (["--prometheus", "0.0.0.0:9464"], ("0.0.0.0:9464",), PRIVATE_NETWORKS),
    ],
)
def test_networks_are_those_of_the_hosts(addresses: list[str], hosts: tuple[str, ...], networks: tuple[str, ...]) -> None:
    assert network_hosts(addresses) == hosts
    assert allowed_networks(hosts) == networks
    assert render_network(hosts).count("IPAddressAllow=") == len(networks)


@pytest.mark.parametrize("network", ["", render_network(["phone.local", "192.0.2.7"])], ids=["local", "network"])
def test_it_is_as_closed_as_promised(tmp_path: Path, network: str) -> None:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is missing (package systemd): make setup-board")
        pytest.skip("needs systemd-analyze: apt install systemd")
    unit = tmp_path / "ghostwatt-test.service"
    unit.write_text(render_unit(GROUPS) + network.replace("[Service]", "\n[Service]"))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= HIGHEST_EXPOSURE, done.stdout
    assert not [line for line in done.stderr.splitlines() if "Unknown" in line or "Failed to parse" in line]
