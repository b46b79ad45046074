"""Runs inside the booted board: plays known powers into the registers of an INA219 and an INA226 and into a battery while the
daemon runs, takes the meters away and gives them back, and writes down what was set when.

    power.py KERNEL_BUNDLE SMBUS_BUNDLE RUNTIME

The first bundle's profile asks the kernel's drivers, the second one's the chips themselves. Leaves ``events.json`` in
``/share``, and of each run of the daemon its summary, its errors and its telemetry. Judges nothing: that is the host's part.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from smbus2 import SMBus

SHARE = Path("/share")
SCRATCH = Path("/tmp")
I2C = Path("/sys/bus/i2c/devices")
BATTERY = Path("/sys/module/test_power/parameters")
SOURCE = "synthetic:320x240@2"

START_LIMIT_S = 300.0
END_LIMIT_S = 60.0
STEP_S = 0.05
HOLD_S = 3.0
AWAY_S = 8.0
BUS_V = 5.0


class Chip(NamedTuple):
    """Where a chip is, and what a count of its registers stands for, by its data sheet."""

    address: int
    shunt_ohm: float
    shunt_v: float
    bus_v: float
    bus_shift: int
    bus_flags: int
    power_per_current: int
    fixed: tuple[tuple[int, int], ...] = ()


CHIPS = {
    # The bit among those of the bus voltage says that a conversion has ended.
    "ina219": Chip(0x40, 0.1, 10e-6, 4e-3, 3, 0x0002, 20),
    "ina226": Chip(0x41, 0.01, 2.5e-6, 1.25e-3, 0, 0, 25, ((0xFE, 0x5449), (0xFF, 0x2260), (0x06, 0x0008))),
}

# Takes the number of a node that is gone: it comes back under another.
SQUATTER = 0x45

# Watts at the begin and the end of a piece, and its length: steps and a ramp. Begins and ends where `EDGE_W` is.
EDGE_W = 3.0
CURVE = ((6.5, 6.5, 6.0), (1.5, 1.5, 6.0), (1.5, 6.0, 8.0), (EDGE_W, EDGE_W, HOLD_S))
AFTER_GAP = ((EDGE_W, EDGE_W, HOLD_S), (5.5, 5.5, 6.0), (EDGE_W, EDGE_W, HOLD_S))

BATTERY_V = 3.9


def main(kernel_bundle: str, smbus_bundle: str, runtime: str) -> None:
    addresses = [*(hex(chip.address) for chip in CHIPS.values()), hex(SQUATTER)]
    command("modprobe", "i2c-stub", "chip_addr=" + ",".join(addresses))
    for module in ("i2c-dev", "ina2xx", "test_power"):
        command("modprobe", module)
    bus = Bus()
    set_battery(battery_status="charging", usb_online="on", ac_online="off", battery_voltage=round(BATTERY_V * 1e6))
    runs = {
        "ina219": run_steadily(bus, kernel_bundle, runtime),
        "ina226": run_through_unbinding(bus, kernel_bundle, runtime),
        "smbus": run_through_binding(bus, smbus_bundle, runtime),
        "battery": run_on_battery(kernel_bundle, runtime),
        "busy": run_where_drivers_have_the_chips(bus, smbus_bundle, runtime),
    }
    (SHARE / "events.json").write_text(json.dumps({"bus": bus.number, "edge_w": EDGE_W, "runs": runs}))


def command(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)


# --- what is measured -------------------------------------------------------------------------------------------------


class Bus:
    """The bus of registers that anyone may write, and the drivers on it."""

    def __init__(self) -> None:
        self._node = next(path for path in I2C.glob("i2c-*") if (path / "name").read_text().startswith("SMBus stub"))
        self.number = int(self._node.name.removeprefix("i2c-"))
        self._bus = SMBus(self.number, force=True)
        for chip in CHIPS.values():
            bus_count = round(BUS_V / chip.bus_v) << chip.bus_shift | chip.bus_flags
            for register, value in ((0x02, bus_count), *chip.fixed):
                self._write(chip.address, register, value)

    def bind(self, name: str, address: int) -> str:
        """Gives a chip to its driver; gives the name of the node that it then has."""
        (self._node / "new_device").write_text(f"{name} {address:#x}")
        (node,) = (I2C / f"{self.number}-{address:04x}" / "hwmon").iterdir()
        if name in CHIPS:
            (node / "shunt_resistor").write_text(str(round(CHIPS[name].shunt_ohm * 1e6)))
        return node.name

    def unbind(self, address: int) -> None:
        (self._node / "delete_device").write_text(hex(address))

    @contextmanager
    def bound(self, *names: str) -> Iterator[list[str]]:
        with ExitStack() as stack:
            nodes = []
            for name in names:
                nodes.append(self.bind(name, CHIPS[name].address))
                stack.callback(self.unbind, CHIPS[name].address)
            yield nodes

    def set_power(self, name: str, power_w: float) -> None:
        """Makes a chip show a power: at its shunt, and in the registers that it would work out itself."""
        chip = CHIPS[name]
        current = round(power_w / BUS_V * chip.shunt_ohm / chip.shunt_v)
        power = round(power_w * chip.shunt_ohm / chip.shunt_v / chip.power_per_current)
        for register, value in ((0x01, current), (0x04, current), (0x03, power)):
            self._write(chip.address, register, value)

    def _write(self, address: int, register: int, value: int) -> None:
        # The chips send the high byte first, SMBus words go low byte first.
        self._bus.write_word_data(address, register, int.from_bytes(value.to_bytes(2, "big"), "little"))


class Player:
    """Plays curves into chips, each at its own scale, and remembers what was set when."""

    def __init__(self, bus: Bus, **scales: float) -> None:
        self._bus = bus
        self._scales = scales
        self.curves: dict[str, list[tuple[int, float]]] = {name: [] for name in scales}
        self.set(EDGE_W)

    def set(self, power_w: float) -> None:
        for name, scale in self._scales.items():
            self._bus.set_power(name, power_w * scale)
            self.curves[name].append((time.monotonic_ns(), power_w * scale))

    def play(self, pieces: Sequence[tuple[float, float, float]]) -> None:
        for first_w, last_w, duration_s in pieces:
            self.set(first_w)
            begun_s = time.monotonic()
            while (passed_s := time.monotonic() - begun_s) < duration_s:
                if first_w != last_w:
                    self.set(first_w + (last_w - first_w) * passed_s / duration_s)
                time.sleep(STEP_S)


def set_battery(**parameters: object) -> int:
    for name, value in parameters.items():
        (BATTERY / name).write_text(str(value))
    return time.monotonic_ns()


class Gap:
    """A time without a meter: surely gone from ``from_ns`` to ``until_ns``, surely back from ``back_ns``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.from_ns = time.monotonic_ns()
        self.until_ns = self.back_ns = 0

    def end(self) -> None:
        self.until_ns = time.monotonic_ns()

    def describe(self) -> dict[str, Any]:
        self.back_ns = time.monotonic_ns()
        return {"kind": self.kind, "from_ns": self.from_ns, "until_ns": self.until_ns, "back_ns": self.back_ns}


# --- the runs ---------------------------------------------------------------------------------------------------------


def run_steadily(bus: Bus, bundle: str, runtime: str) -> dict[str, Any]:
    """The INA219 alone, through its driver."""
    with bus.bound("ina219"):
        player = Player(bus, ina219=1.0)
        with running("ina219", bundle, runtime) as daemon:
            player.play(CURVE)
            exit_code = end(daemon, "ina219")
    return {"exit_code": exit_code, "curves": player.curves, "gaps": []}


def run_through_unbinding(bus: Bus, bundle: str, runtime: str) -> dict[str, Any]:
    """Both, through their drivers; the INA226's is taken away and comes back under another number. The battery is drained."""
    address = CHIPS["ina226"].address
    set_battery(usb_online="off", battery_status="discharging", battery_current=-800_000)
    with bus.bound("ina226", "ina219") as nodes:
        player = Player(bus, ina226=1.0, ina219=0.8)
        with running("ina226", bundle, runtime) as daemon:
            player.play(CURVE)
            bus.unbind(address)
            gap = Gap("unbound")
            squatter = bus.bind("ina219", SQUATTER)
            # What it shows while it is away must be seen by no one.
            bus.set_power("ina226", 20.0)
            time.sleep(AWAY_S)
            bus.set_power("ina226", EDGE_W)
            gap.end()
            node = bus.bind("ina226", address)
            gaps = [gap.describe()]
            player.play(AFTER_GAP)
            exit_code = end(daemon, "ina226")
        bus.unbind(SQUATTER)
    names = {"before": nodes[0], "squatter": squatter, "after": node}
    return {"exit_code": exit_code, "curves": player.curves, "gaps": gaps, "nodes": names}


def run_through_binding(bus: Bus, bundle: str, runtime: str) -> dict[str, Any]:
    """Both, without their drivers, by the bus itself; a driver takes the INA219 for a while."""
    player = Player(bus, ina219=1.0, ina226=0.8)
    with running("smbus", bundle, runtime) as daemon:
        player.play(CURVE)
        with bus.bound("ina219"):
            gap = Gap("busy")
            time.sleep(AWAY_S)
            gap.end()
        gaps = [gap.describe()]
        player.play(AFTER_GAP)
        exit_code = end(daemon, "smbus")
    return {"exit_code": exit_code, "curves": player.curves, "gaps": gaps}


def run_on_battery(bundle: str, runtime: str) -> dict[str, Any]:
    """The battery alone: drained, charged, drained, plugged in, drained."""
    curve = []

    def drain(current_ua: int) -> None:
        at_ns = set_battery(battery_current=-current_ua, battery_status="discharging", usb_online="off")
        curve.append((at_ns, BATTERY_V * current_ua / 1e6))

    drain(1_000_000)
    gaps = []
    with running("battery", bundle, runtime) as daemon:
        time.sleep(HOLD_S)
        drain(2_000_000)
        time.sleep(HOLD_S)
        drain(1_000_000)
        time.sleep(HOLD_S)
        for kind, parameters in (("charging", {"battery_status": "charging"}), ("plugged in", {"usb_online": "on"})):
            set_battery(**parameters, battery_current=1_500_000)
            gap = Gap(kind)
            time.sleep(AWAY_S)
            gap.end()
            drain(1_000_000)
            gaps.append(gap.describe())
            time.sleep(HOLD_S)
        exit_code = end(daemon, "battery")
    return {"exit_code": exit_code, "curves": {"battery": curve}, "gaps": gaps}


def run_where_drivers_have_the_chips(bus: Bus, bundle: str, runtime: str) -> dict[str, Any]:
    """Asks the bus for chips that the kernel has."""
    with bus.bound("ina219", "ina226"), running("busy", bundle, runtime) as daemon:
        exit_code = end(daemon, "busy")
    return {"exit_code": exit_code}


# --- the daemon -------------------------------------------------------------------------------------------------------


@contextmanager
def running(name: str, bundle: str, runtime: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the daemon until it has given its first results; what it leaves goes to the share under ``name``."""
    predictions = SCRATCH / f"{name}.jsonl"
    flags = ["--bundle", bundle, "--source", SOURCE, "--runtime", runtime, "--threads", "1", "--json"]
    flags += ["--telemetry", str(SCRATCH / f"{name}.sqlite"), "--predictions", str(predictions)]
    with (SHARE / f"{name}.err").open("w") as errors, (SHARE / f"{name}.json").open("w") as summary:
        daemon = subprocess.Popen([sys.executable, "-m", "device.run", *flags], stdout=summary, stderr=errors)
        try:
            wait_for_results(daemon, predictions, name)
            time.sleep(HOLD_S)
            yield daemon
        finally:
            daemon.kill()
            daemon.wait()


def wait_for_results(daemon: subprocess.Popen[bytes], predictions: Path, name: str) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not (predictions.exists() and predictions.read_bytes().count(b"\n")):
        if daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended with {daemon.returncode}: {(SHARE / f'{name}.err').read_text()}")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{name}: no result within {START_LIMIT_S:g} s")
        time.sleep(0.2)


def end(daemon: subprocess.Popen[bytes], name: str) -> int:
    """Ends the daemon as a service manager does."""
    daemon.send_signal(signal.SIGTERM)
    exit_code = daemon.wait(END_LIMIT_S)
    # SQLite's shared memory needs a local file system; only the finished file goes to the share.
    shutil.copy(SCRATCH / f"{name}.sqlite", SHARE)
    return exit_code


if __name__ == "__main__":
    main(*sys.argv[1:])
