"""Runs inside the booted board: puts sensors on its buses, runs the daemon on its cameras, pulls one out and plugs it in again,
and writes down what was done when.

    booted.py BUNDLE RUNTIME

Leaves in ``/share``: ``events.json``, frames of each pixel format, and of each run of the daemon its summary, its errors, its
telemetry and its predictions.
Judges nothing: that is the host's part.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SHARE = Path("/share")
SCRATCH = Path("/tmp")
I2C = Path("/sys/bus/i2c/devices")
SHUNT_OHM = 0.1
POWER_REGISTER = 0x03

# Chip -> address on the bus, and watts that one count of its power register stands for with this shunt: of the data sheets'
# calibration, 20 times (INA219) or 25 times (INA226) the current's 100 and 25 microamperes.
CHIPS = {"ina219": (0x40, 2000e-6), "ina226": (0x41, 625e-6)}

START_LIMIT_S = 240.0
END_LIMIT_S = 60.0
HOLD_S = 8.0

VIVID = Path("/sys/bus/platform/drivers/vivid")
FORMATS = ("YUYV", "UYVY", "NV12", "RGB3")
AWAY_S = 6.0
RETURN_LIMIT_S = 90.0
RESULTS_AFTER = 3
PICAMERA2_RESULTS = 10


def main(bundle: str, runtime: str) -> None:
    events: dict[str, Any] = {"self_test": {}, "runs": {}, "formats": {}}
    command("modprobe", "vivid", "n_devs=1", "node_types=0x1")
    command("modprobe", "i2c-stub", "chip_addr=" + ",".join(hex(address) for address, _ in CHIPS.values()))
    for module in ("i2c-dev", "ina2xx", "test_power"):
        command("modprobe", module)
    events["battery"] = read_battery()
    for name in ("litert", "executorch"):
        flags = ["--bundle", bundle, "--runtime", name, "--threads", "1", "--self-test", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "device.run", *flags], capture_output=True, text=True, timeout=START_LIMIT_S
        )
        events["self_test"][name] = {"exit_code": done.returncode, "stderr": done.stderr}
    for chip, watts in (("ina219", (3.0, 5.0, 1.5)), ("ina226", (2.5, 4.0))):
        events["runs"][chip] = run_with_sensor(chip, watts, bundle, runtime)
    for name in FORMATS:
        events["formats"][name] = capture(name)
    events["no_format"] = refuse_format(bundle)
    events["picamera2"] = run_on_picamera2(bundle, runtime)
    events["unplugged"] = run_through_unplugging(bundle, runtime)
    (SHARE / "events.json").write_text(json.dumps(events))


def command(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def read_battery() -> dict[str, str]:
    """Sets the fake battery's charge and reads it back where the kernel shows it."""
    Path("/sys/module/test_power/parameters/battery_capacity").write_text("37")
    node = Path("/sys/class/power_supply/test_battery")
    return {name: (node / name).read_text().strip() for name in ("capacity", "status", "current_now", "voltage_now")}


@contextmanager
def sensor(chip: str) -> Iterator[Callable[[float], None]]:
    """Binds a sensor's driver; gives a function that sets the watts that its register shows."""
    address, watts_per_count = CHIPS[chip]
    bus = next(path for path in I2C.glob("i2c-*") if (path / "name").read_text().startswith("SMBus stub"))
    (bus / "new_device").write_text(f"{chip} {address:#x}")
    try:
        (node,) = (I2C / f"{bus.name.removeprefix('i2c-')}-{address:04x}" / "hwmon").iterdir()
        (node / "shunt_resistor").write_text(str(round(SHUNT_OHM * 1e6)))

        def poke(watts: float) -> None:
            # The chips send the high byte first, SMBus words go low byte first.
            count = round(watts / watts_per_count).to_bytes(2, "big")
            value = hex(int.from_bytes(count, "little"))
            command("i2cset", "-y", "-f", bus.name.removeprefix("i2c-"), hex(address), hex(POWER_REGISTER), value, "w")

        yield poke
    finally:
        (bus / "delete_device").write_text(hex(address))


def run_with_sensor(chip: str, watts: tuple[float, ...], bundle: str, runtime: str) -> dict[str, Any]:
    """Runs the daemon on the camera while the sensor's register is poked; returns when each value was set, and until when."""
    held = []
    with sensor(chip) as poke, running(chip, "v4l2:/dev/video0", bundle, runtime) as daemon:
        poke(watts[0])
        wait_for_results(daemon, chip)
        for value in watts:
            poke(value)
            from_ns = time.monotonic_ns()
            time.sleep(HOLD_S)
            held.append({"power_w": value, "from_ns": from_ns, "until_ns": time.monotonic_ns()})
        exit_code = end(daemon, chip)
    return {"exit_code": exit_code, "held": held}


def capture(fourcc: str) -> dict[str, Any]:
    """Takes one frame in a pixel format, through the product's own source."""
    from device.core.errors import SourceError
    from device.sources.base import SourceOptions
    from device.sources.uri import open_source

    try:
        with open_source(f"v4l2:0#{fourcc}", SourceOptions(width_px=640, height_px=480, rate_fps=30.0)) as source:
            source.read(START_LIMIT_S)
            frame = source.read(START_LIMIT_S)
    except SourceError as error:
        return {"error": str(error), "reason": error.reason}
    assert frame is not None
    np.save(SHARE / f"frame-{fourcc}.npy", frame.pixels)
    return {"error": "", "age_s": (time.monotonic_ns() - frame.timestamp_ns) / 1e9}


def refuse_format(bundle: str) -> dict[str, Any]:
    """Asks for a format that the camera lacks."""
    flags = ["--bundle", bundle, "--threads", "2", "--source", "v4l2:0#MJPG"]
    done = subprocess.run([sys.executable, "-m", "device.run", *flags], capture_output=True, text=True, timeout=START_LIMIT_S)
    return {"exit_code": done.returncode, "stderr": done.stderr}


def run_on_picamera2(bundle: str, runtime: str) -> dict[str, Any]:
    """Runs the daemon on libcamera's virtual camera, through the real picamera2."""
    with running("picamera2", "picamera2:0", bundle, runtime, virtual_camera=True) as daemon:
        wait_for_results(daemon, "picamera2", PICAMERA2_RESULTS)
        return {"exit_code": end(daemon, "picamera2")}


def run_through_unplugging(bundle: str, runtime: str) -> dict[str, Any]:
    """Takes the camera away from the running daemon, and gives it back under another number."""
    with running("unplugged", "v4l2:name=vivid", bundle, runtime) as daemon:
        wait_for_results(daemon, "unplugged")
        before = video_nodes()
        # Whoever holds the node keeps its number from being given again.
        with Path(before[0]).open("rb", buffering=0):
            away_from_ns = time.monotonic_ns()
            (VIVID / "unbind").write_text("vivid.0")
            time.sleep(AWAY_S)
            (VIVID / "bind").write_text("vivid.0")
            away_until_ns = time.monotonic_ns()
            after = video_nodes()
            wait_for_results(daemon, "unplugged", count_lines("unplugged") + RESULTS_AFTER, RETURN_LIMIT_S)
        exit_code = end(daemon, "unplugged")
    nodes = {"nodes_before": before, "nodes_after": after}
    return nodes | {"exit_code": exit_code, "away_from_ns": away_from_ns, "away_until_ns": away_until_ns}


def video_nodes() -> list[str]:
    return sorted(f"/dev/{path.name}" for path in Path("/sys/class/video4linux").glob("video*"))


# --- the daemon -------------------------------------------------------------------------------------------------------


@contextmanager
def running(
    name: str, source: str, bundle: str, runtime: str, *, virtual_camera: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the daemon on a source; what it leaves goes to the share under ``name``."""
    flags = ["--bundle", bundle, "--source", source, "--runtime", runtime, "--threads", "2", "--json"]
    flags += ["--telemetry", str(SCRATCH / f"{name}.sqlite"), "--predictions", str(SCRATCH / f"{name}.jsonl")]
    env = os.environ | ({"PYTHONPATH": "/share/programs/virtual_camera:/share"} if virtual_camera else {})
    with (SHARE / f"{name}.err").open("w") as errors, (SHARE / f"{name}.json").open("w") as summary:
        daemon = subprocess.Popen([sys.executable, "-m", "device.run", *flags], stdout=summary, stderr=errors, env=env)
        try:
            yield daemon
        finally:
            daemon.kill()
            daemon.wait()


def end(daemon: subprocess.Popen[bytes], name: str) -> int:
    """Ends the daemon as a service manager does."""
    daemon.send_signal(signal.SIGTERM)
    exit_code = daemon.wait(END_LIMIT_S)
    # SQLite's shared memory needs a local file system; only the finished file goes to the share.
    for path in (SCRATCH / f"{name}.sqlite", SCRATCH / f"{name}.jsonl"):
        shutil.copy(path, SHARE)
    return exit_code


def count_lines(name: str) -> int:
    path = SCRATCH / f"{name}.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_results(daemon: subprocess.Popen[bytes], name: str, results: int = 1, limit_s: float = START_LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while count_lines(name) < results:
        if daemon.poll() is not None:
            words = (SHARE / f"{name}.err").read_text()
            raise RuntimeError(f"the daemon ended with exit code {daemon.returncode} before its result {results}: {words}")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{name}: not {results} results within {limit_s:g} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
