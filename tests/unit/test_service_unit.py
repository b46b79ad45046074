from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from device.service.unit import (
    PRIVATE_NETWORKS,
    allowed_networks,
    network_hosts,
    owning_groups,
    render_network,
    render_unit,
)

HIGHEST_EXPOSURE = 1.4


def test_one_that_lacks_a_group_of_the_board_would_not_start() -> None:
    assert "SupplementaryGroups=i2c video\n" in render_unit(["i2c", "video", "wheel"])
    assert "SupplementaryGroups" not in render_unit([])


def test_what_a_restart_can_mend_is_restarted() -> None:
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", render_unit(owning_groups()), re.MULTILINE)
    hopeless = {int(code) for code in line.split()}
    assert hopeless == {2, 10, 12, 30}, "usage, profile, board, and what isn't installed; never a camera, a bundle or a network"


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", render_unit(owning_groups()), re.MULTILINE)


# A device that libcamera opens on a Pi, or picamera2, and the name in /proc/devices of what drives it; misc has many.
CAMERA_DEVICES = {
    "/dev/media3": "media",
    "/dev/video13": "video4linux",
    "/dev/v4l-subdev2": "video4linux",
    "/dev/dma_heap/linux,cma": "dma_heap",
    "/dev/dma_heap/system": "dma_heap",
    "/dev/dma_heap/vidbuf_cached": "dma_heap",
    "/dev/udmabuf": "misc",
    "/dev/dri/card0": "drm",
}
OTHER_DEVICES = {
    "/dev/i2c-1": "i2c",
    "/dev/vcio": "misc",
    "/dev/vcio_gencmd": "misc",
    "/dev/vchiq": "vchiq",
    "/dev/bus/usb/001/002": "usb_device",
}
NOBODYS_DEVICES = {
    "/dev/mem": "mem",
    "/dev/ttyUSB0": "ttyUSB",
    "/dev/uinput": "misc",
    "/dev/mmcblk0": "mmc",
    "/dev/ttyAMA0": "ttyAMA",
    "/dev/gpiomem": "misc",
}


@pytest.mark.parametrize(("devices", "is_allowed"), [(CAMERA_DEVICES, True), (OTHER_DEVICES, True), (NOBODYS_DEVICES, False)])
def test_devices_are_those_of_cameras_and_sensors(devices: dict[str, str], is_allowed: bool) -> None:
    assert settings("DevicePolicy") == ["closed"]
    allowed = {what for what, access in (line.split() for line in settings("DeviceAllow")) if access == "rw"}
    for path, driver in devices.items():
        assert bool({path, f"char-{driver}"} & allowed) is is_allowed, path


def test_a_pis_camera_is_found_and_its_algorithms_may_have_a_process() -> None:
    # Of Raspberry Pi OS's udev rules: video owns cameras and memory for frames.
    assert "video" in settings("SupplementaryGroups")[0].split()
    # Events of udev; a socket to the process.
    assert {"AF_NETLINK", "AF_UNIX"} <= set(settings("RestrictAddressFamilies")[0].split())
    # They would hide the devices, or make others' files and processes of them.
    assert not settings("PrivateDevices")
    assert not settings("PrivateUsers")
    # What is refused must fail, and not kill: libcamera asks for priorities, and goes on without.
    assert settings("SystemCallErrorNumber") == ["EPERM"]


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
        pytest.skip("systemd-analyze is missing: make setup-board")
    unit = tmp_path / "ghostwatt-test.service"
    unit.write_text(render_unit(owning_groups()) + network.replace("[Service]", "\n[Service]"))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= HIGHEST_EXPOSURE, done.stdout
    assert not [line for line in done.stderr.splitlines() if "Unknown" in line or "Failed to parse" in line]
