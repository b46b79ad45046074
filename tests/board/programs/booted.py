"""Runs inside the booted board: puts sensors on its buses, runs the daemon on the camera, and writes down what was done when.

    booted.py BUNDLE RUNTIME

Leaves in ``/share``: ``events.json``, and of each run of the daemon its summary, its errors, its telemetry and its predictions.
Judges nothing: that is the host's part.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def main(bundle: str, runtime: str) -> None:
    events: dict[str, Any] = {"self_test": {}, "runs": {}}
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
    """Runs the daemon on the camera while the sensor's register is poked; tells when each value was set, and until when."""
    telemetry, predictions = SCRATCH / f"{chip}.sqlite", SCRATCH / f"{chip}.jsonl"
    flags = ["--bundle", bundle, "--source", "v4l2:/dev/video0", "--runtime", runtime, "--threads", "2", "--json"]
    flags += ["--telemetry", str(telemetry), "--predictions", str(predictions)]
    held = []
    with sensor(chip) as poke, (SHARE / f"{chip}.err").open("w") as errors, (SHARE / f"{chip}.json").open("w") as summary:
        poke(watts[0])
        daemon = subprocess.Popen([sys.executable, "-m", "device.run", *flags], stdout=summary, stderr=errors)
        try:
            wait_for_results(daemon, predictions)
            for value in watts:
                poke(value)
                from_ns = time.monotonic_ns()
                time.sleep(HOLD_S)
                held.append({"power_w": value, "from_ns": from_ns, "until_ns": time.monotonic_ns()})
            daemon.send_signal(signal.SIGTERM)
            exit_code = daemon.wait(END_LIMIT_S)
        finally:
            daemon.kill()
            daemon.wait()
    # SQLite's shared memory needs a local file system; only the finished file goes to the share.
    for path in (telemetry, predictions):
        shutil.copy(path, SHARE)
    return {"exit_code": exit_code, "held": held}


def wait_for_results(daemon: subprocess.Popen[bytes], predictions: Path) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not (predictions.exists() and predictions.stat().st_size):
        if daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended with exit code {daemon.returncode} before its first result")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no result within {START_LIMIT_S:g} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
