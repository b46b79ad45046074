"""One boot of the emulated board: Debian's kernel and systemd, a V4L2 camera, picamera2 on libcamera's virtual camera, and
INA219 and INA226 behind their real drivers.

It proves that the daemon works with the kernel's interfaces. It proves nothing about time, watts, or the Pi's camera pipeline.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.bundle import open_bundle
from device.contract import Power
from device.sources.isp import choose_stream_sizes
from tests.unit.bundles import copy_bundle

from .checks import Held, check_power_follows, read_rows
from .conftest import require_tools
from .harness.cache import Cache
from .harness.camera import VirtualCamera, describe
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
    """The bundle, for a board with an INA2xx breakout and no other power meter."""
    power = Power(meters=({"kind": "ina2xx", "shunt_ohm": SHUNT_OHM, "scope": "board"},), sample_rate_hz=10.0)
    root = tmp_path_factory.mktemp("bundle") / "bundle"
    return copy_bundle(bundle, root, power=power)


@pytest.fixture(scope="module")
def booted(
    board_image: Path,
    installation: Path,
    metered_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    report: list[str],
) -> GuestResult:
    work = tmp_path_factory.mktemp("boot")
    streams = choose_stream_sizes(open_bundle(metered_bundle).manifest.model.preprocessing, (1280, 720))
    virtual = work / "virtual.yaml"
    virtual.write_text(describe([VirtualCamera("Virtual0", [(1280, 720), (640, 480), streams.lores_px])]))
    files = {"device": installation / "device", "programs": installation / "programs", "bundle": metered_bundle}
    files |= {"virtual.yaml": virtual}
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


# vivid's bars at 75 %, from left to right: Linux, drivers/media/common/v4l2-tpg/v4l2-tpg-colors.c and v4l2-tpg-core.c.
BARS = (
    (191, 191, 191),
    (191, 191, 0),
    (0, 191, 191),
    (0, 191, 0),
    (191, 0, 191),
    (191, 0, 0),
    (0, 0, 191),
)
BARS_ERROR = 12


@pytest.mark.parametrize("fourcc", ["YUYV", "UYVY", "NV12", "RGB3"])
def test_every_pixel_format_shows_the_right_colours(booted: GuestResult, events: dict[str, Any], fourcc: str) -> None:
    assert events["formats"][fourcc]["error"] == ""
    pixels = np.load(booted.share / f"frame-{fourcc}.npy")
    assert pixels.shape == (480, 640, 3)
    # Its clock and its frame's number stand in the upper left.
    row = pixels[400]
    columns = [640 * number // 8 + 40 for number in range(len(BARS))]
    np.testing.assert_allclose(row[columns], BARS, rtol=0, atol=BARS_ERROR)


def test_format_that_the_camera_lacks_is_refused_in_one_line(events: dict[str, Any]) -> None:
    assert events["no_format"]["exit_code"] == 20, events["no_format"]["stderr"]
    (line,) = [line for line in events["no_format"]["stderr"].splitlines() if line.startswith("error: ")]
    assert "no MJPG" in line


def test_picamera2_feeds_the_bundle(booted: GuestResult, events: dict[str, Any], report: list[str]) -> None:
    assert events["picamera2"]["exit_code"] == 0, (booted.share / "picamera2.err").read_text()
    summary = json.loads((booted.share / "picamera2.json").read_text())
    assert summary["source"] == "picamera2:0"
    assert summary["frames"] >= 10
    records = [json.loads(line) for line in (booted.share / "picamera2.jsonl").read_text().splitlines()]
    assert len(records) == summary["frames"]
    assert all(0 < record["latency_s"] < 60 for record in records)
    report.append(f"booted board, picamera2: {summary['frames']} frames, {summary['rss_bytes'] / 1e6:.0f} MB of memory")


def test_camera_that_is_unplugged_is_found_again_under_another_number(
    booted: GuestResult, events: dict[str, Any], report: list[str]
) -> None:
    unplugged = events["unplugged"]
    errors = (booted.share / "unplugged.err").read_text()
    assert unplugged["exit_code"] == 0, errors
    assert unplugged["nodes_before"] != unplugged["nodes_after"]
    with sqlite3.connect(f"file:{booted.share / 'unplugged.sqlite'}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM interruption ORDER BY started_ns")]
    connection.close()
    (row,) = [row for row in rows if row["reason"] != "dark"]
    assert row["source"] == "v4l2:name=vivid"
    assert row["is_over"] == 1
    assert row["attempts"] >= 1
    # It begins with the last frame before the camera was gone, and ends with the first one after.
    ended_ns = row["started_ns"] + row["duration_s"] * 1e9
    assert row["started_ns"] <= unplugged["away_from_ns"] + 1e9
    assert unplugged["away_until_ns"] <= ended_ns
    told = [line for line in errors.splitlines() if "v4l2:name=vivid: " in line]
    assert [line.partition(":")[0] for line in told] == ["warning", "note"], errors
    assert f": {row['reason']}; " in told[0]
    assert "well again" in told[1]
    away_s = (unplugged["away_until_ns"] - unplugged["away_from_ns"]) / 1e9
    report.append(
        f"booted board, camera unplugged for {away_s:.1f} s: {row['reason']}, {row['duration_s']:.1f} s without frames, "
        f"{row['attempts']} attempts, {unplugged['nodes_before']} then {unplugged['nodes_after']}"
    )


def test_battery_shows_what_was_set(events: dict[str, Any]) -> None:
    assert events["battery"]["capacity"] == "37"
    assert int(events["battery"]["voltage_now"]) > 0


def test_a_board_that_hangs_is_cut_off(board_image: Path, tmp_path: Path) -> None:
    result = boot(board_image, "sleep infinity\n", work=tmp_path, timeout_s=5.0)
    assert result.timed_out
    with pytest.raises(AssertionError, match="hung"):
        require_success(result)
