"""One boot of the emulated board: Debian's kernel and systemd, a V4L2 camera, and INA219 and INA226 behind their real drivers.

It proves that the daemon works with the kernel's interfaces. It proves nothing about time, watts, or the Pi's camera pipeline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device.bundle import MANIFEST_NAME, encode_manifest
from device.contract import Manifest, Meter, Power

from .checks import Held, check_power_follows, read_rows
from .conftest import require_tools
from .harness.cache import Cache
from .harness.guest import GuestResult, boot
from .harness.image import image

pytestmark = pytest.mark.board

BOOT_LIMIT_S = 900.0
SHUNT_OHM = 0.1
SCRIPT = "export PYTHONPATH=/share OPENBLAS_NUM_THREADS=1\nexec python3 /share/programs/booted.py /share/bundle litert\n"


@pytest.fixture(scope="session")
def board_image(cache: Cache) -> Path:
    require_tools("qemu-system-aarch64", "unshare", "timeout", "mke2fs", "depmod", "cpio", "xz", "systemd-sysusers")
    return image(cache)


@pytest.fixture(scope="module")
def metered_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, for a board with an INA2xx breakout and nothing else that tells power."""
    root = tmp_path_factory.mktemp("bundle") / "bundle"
    root.mkdir()
    for path in bundle.iterdir():
        if path.is_file():
            (root / path.name).write_bytes(path.read_bytes())
    manifest = msgspec.json.decode((root / MANIFEST_NAME).read_bytes(), type=Manifest)
    power = Power(meters=(Meter(kind="ina2xx", shunt_ohm=SHUNT_OHM, scope="board"),), sample_rate_hz=10.0)
    profile = msgspec.structs.replace(manifest.profile, power=power)
    (root / MANIFEST_NAME).write_bytes(encode_manifest(msgspec.structs.replace(manifest, profile=profile)))
    return root


@pytest.fixture(scope="module")
def booted(
    board_image: Path,
    installation: Path,
    metered_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    report: list[str],
) -> GuestResult:
    files = {"device": installation / "device", "programs": installation / "programs", "bundle": metered_bundle}
    work = tmp_path_factory.mktemp("boot")
    result = boot(board_image, SCRIPT, work=work, timeout_s=BOOT_LIMIT_S, files=files)
    report.append(f"booted board: {result.duration_s:.0f} s from power on to power off")
    return require_success(result)


def require_success(result: GuestResult) -> GuestResult:
    words = f"{result.log[-4000:]}\n{result.console[-2000:]}"
    assert not result.timed_out, f"the board hung, and its power was cut after {result.duration_s:.0f} s\n{words}"
    assert result.exit_code == 0, f"the script ended with {result.exit_code}\n{words}"
    return result


@pytest.fixture(scope="module")
def events(booted: GuestResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((booted.share / "events.json").read_text())
    return found


@pytest.mark.parametrize("runtime", ["litert", "executorch"])
def test_self_test_passes(events: dict[str, Any], runtime: str) -> None:
    assert events["self_test"][runtime]["exit_code"] == 0, events["self_test"][runtime]["stderr"]


@pytest.mark.parametrize("chip", ["ina219", "ina226"])
def test_logged_power_follows_the_sensors_register(booted: GuestResult, events: dict[str, Any], chip: str) -> None:
    held = [Held(**span) for span in events["runs"][chip]["held"]]
    check_power_follows(read_rows(booted.share / f"{chip}.sqlite"), held, source=chip)


@pytest.mark.parametrize("chip", ["ina219", "ina226"])
def test_daemon_ends_on_sigterm_and_sums_up(booted: GuestResult, events: dict[str, Any], chip: str, report: list[str]) -> None:
    errors = (booted.share / f"{chip}.err").read_text()
    assert events["runs"][chip]["exit_code"] == 0, errors
    summary = json.loads((booted.share / f"{chip}.json").read_text())
    assert summary["source"] == "v4l2:/dev/video0"
    assert summary["power"]["source"].startswith(chip)
    assert summary["power"]["is_estimate"] is False
    assert summary["frames"] > 0
    report.append(f"booted board, {chip}: {summary['frames']} frames, {summary['rss_bytes'] / 1e6:.0f} MB of memory")


@pytest.mark.parametrize("chip", ["ina219", "ina226"])
def test_every_prediction_is_of_a_camera_frame(booted: GuestResult, events: dict[str, Any], chip: str) -> None:
    summary = json.loads((booted.share / f"{chip}.json").read_text())
    lines = (booted.share / f"{chip}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == summary["frames"]
    assert all(record.get("origin") is None for record in records)
    indices = [record["index"] for record in records]
    assert indices == sorted(set(indices))
    # The driver's stamps are the monotonic clock's, in which the register was poked too.
    last_ns = events["runs"][chip]["held"][-1]["until_ns"]
    assert all(abs(record["timestamp_ns"] - last_ns) < BOOT_LIMIT_S * 1e9 for record in records)


def test_battery_shows_what_was_set(events: dict[str, Any]) -> None:
    assert events["battery"]["capacity"] == "37"
    assert int(events["battery"]["voltage_now"]) > 0


def test_a_board_that_hangs_is_cut_off(board_image: Path, tmp_path: Path) -> None:
    result = boot(board_image, "sleep infinity\n", work=tmp_path, timeout_s=5.0)
    assert result.timed_out
    with pytest.raises(AssertionError, match="hung"):
        require_success(result)
