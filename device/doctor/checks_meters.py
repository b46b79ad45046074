"""Power meters: which of the profile's is there, and why another isn't.

References:
    raspberrypi/firmware, boot/overlays/README: ``dtparam=i2c_arm``, ``dtoverlay=i2c-sensor`` and its ``shunt-resistor`` in
    microohms.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

from device.contract import Board, Meter, Power
from device.contract.profile import Scope
from device.core.clock import SystemClock
from device.core.errors import GhostwattError, MeterError
from device.doctor.check import Check, Patient, Verdict, of_error
from device.machine.sysfs import read_text
from device.machine.vcio import NODES
from device.meters.ina2xx import CHIPS
from device.meters.registry import METERS
from device.protocols import PowerMeter

METER_TIMEOUT_S = 20.0
"""For looking at one: the slowest gives up by itself after 8 s, and its word is worth more than that it hangs."""

CONFIG = "/boot/firmware/config.txt"

OVER_I2C = ("ina219", "ina226", "ina228", "ina260", "ina3221")
"""Kinds that are read through ``/dev/i2c-*``."""

WITHOUT_BUNDLE = ("pmic", "rapl", "battery")
"""Kinds that need nothing of a profile."""

_NOWHERE = Board(name="unknown", title="this machine", arch="aarch64", cpu="unknown", cores=1, memory_mb=128)


def wanted_meters(patient: Patient) -> tuple[Meter, ...]:
    """The profile's meters; without one, those that need no word of it."""
    power = patient.profile.power if patient.profile else Power(tuple(Meter(kind=kind) for kind in WITHOUT_BUNDLE))
    return power.meters


class Found(NamedTuple):
    """A meter that is there: see `device.protocols.PowerMeter`."""

    source: str
    scope: Scope
    is_estimate: bool


Look = Callable[[Patient, Meter], Found]
"""Opens a meter and closes it; raises what opening it raises."""


def look_at(patient: Patient, config: Meter) -> Found:
    """Looks at a meter. See `Look`."""
    board = patient.profile.board if patient.profile else _NOWHERE
    meter: PowerMeter = METERS.load(config.kind).open(config, board, patient.root, SystemClock())
    with meter:
        return Found(meter.source, meter.scope, meter.is_estimate)


def look_once() -> Look:
    """Looks at each meter once, whoever asks, and from whatever thread: a USB meter can't be opened by two at a time."""
    found: dict[Meter, Future[Found]] = {}
    lock = threading.Lock()

    def look(patient: Patient, config: Meter) -> Found:
        with lock:
            is_first = config not in found
            future = found.setdefault(config, Future())
        if is_first:
            try:
                future.set_result(look_at(patient, config))
            except Exception as error:
                future.set_exception(error)
        return future.result()

    return look


def meter_check(config: Meter, look: Look = look_at) -> Callable[[Patient], Iterable[Check]]:
    """What checks one meter. One that isn't there is a warning: another may stand in for it, see `power_check`."""

    def check(patient: Patient) -> Iterator[Check]:
        name = f"meter {config.kind}"
        try:
            meter = look(patient, config)
        except GhostwattError as error:
            verdict: Verdict = "warn" if patient.profile else "unsupported"
            row = of_error(name, error, verdict)
            yield Check(name, verdict, row.finding, _fix(patient, config, error) or row.fix)
        else:
            kind = "ESTIMATE, not a measurement" if meter.is_estimate else "measured"
            yield Check(name, "ok", f"{meter.source}, {meter.scope}, {kind}")

    return check


def power_check(look: Look = look_at) -> Callable[[Patient], Iterable[Check]]:
    """What checks whether a run would have a figure, and of what kind."""

    def check(patient: Patient) -> Iterator[Check]:
        if patient.profile is None:
            yield from _name_chips(patient)
            return
        for config in patient.profile.power.meters:
            try:
                yield _judge_headline(look(patient, config))
            except GhostwattError:
                continue
            return
        yield Check("power", "warn", "no meter: a run has no power figure", "see the meters above")

    return check


def _name_chips(patient: Patient) -> Iterator[Check]:
    chips = _list_chips(patient)
    if chips:
        fix = "name it in the profile: kind ina2xx, with the shunt_ohm that is printed on it"
        yield Check("power", "ok", f"hwmon has {', '.join(chips)}", fix)


def _judge_headline(meter: Found) -> Check:
    if meter.is_estimate:
        fix = "fit a meter (INA219, INA226, wall plug), or measure a model: python -m device.calibrate"
        return Check("power", "warn", f"only an estimate ({meter.source})", fix)
    return Check("power", "ok", f"headline: {meter.source}, {meter.scope}, measured")


def check_buses(patient: Patient) -> Iterator[Check]:
    """The ways to sensors that a user may be locked out of: I2C and the firmware's mailbox."""
    if not patient.is_raspberry_pi:
        yield Check("bus i2c", "unsupported", "no Raspberry Pi: no header")
        return
    yield _judge_i2c(patient)
    nodes = [patient.root / node for node in NODES if (patient.root / node).exists()]
    if not nodes:
        fix = "sudo modprobe vcio; Raspberry Pi OS has it built in"
        yield Check("bus firmware", "warn", "no /dev/vcio: no PMIC, no throttle flags by it", fix)
    elif os.access(nodes[0], os.R_OK | os.W_OK):
        yield Check("bus firmware", "ok", f"/dev/{nodes[0].name} may be used")
    else:
        yield Check("bus firmware", "warn", f"/dev/{nodes[0].name} may not be used by this user", _join("video"))


def _judge_i2c(patient: Patient) -> Check:
    buses = sorted((patient.root / "dev").glob("i2c-*"))
    # The kernel's driver (ina2xx) needs no node; whether it is bound, its meter's row says.
    wanted = any(config.kind in OVER_I2C for config in wanted_meters(patient))
    if not buses:
        fix = f"dtparam=i2c_arm=on in {CONFIG}, then reboot"
        return Check("bus i2c", "warn" if wanted else "unsupported", "no /dev/i2c-*: the bus is off", fix if wanted else "")
    closed = [bus.name for bus in buses if not os.access(bus, os.R_OK | os.W_OK)]
    if closed:
        return Check("bus i2c", "warn", f"/dev/{closed[0]} may not be used by this user", _join("i2c"))
    return Check("bus i2c", "ok", ", ".join(f"/dev/{bus.name}" for bus in buses))


def _fix(patient: Patient, config: Meter, error: GhostwattError) -> str:
    """The line to add, or the group to join, where we know more than the meter does."""
    if not isinstance(error, MeterError) or not patient.is_raspberry_pi:
        return ""
    if config.kind == "ina2xx" and error.reason == "missing":
        address = f",addr=0x{config.address:02x}" if isinstance(config.address, int) else ""
        shunt_ohm = config.shunt_ohm or 0.1
        overlay = f"dtoverlay=i2c-sensor,ina219{address},shunt-resistor={round(shunt_ohm * 1e6)} (or ina226 ...)"
        caution = f"only if {shunt_ohm:g} ohm is printed on the shunt (R100 is 0.1): else change it there and in the profile"
        return f"dtparam=i2c_arm=on and {overlay} in {CONFIG}, then reboot; {caution}"
    if config.kind in OVER_I2C and error.reason == "missing":
        return f"dtparam=i2c_arm=on in {CONFIG}, reboot, and look for the chip: i2cdetect -y {config.bus or 1}"
    if config.kind in OVER_I2C and error.reason == "permission":
        return _join("i2c")
    if config.kind.startswith("pmic") and error.reason == "permission":
        return _join("video")
    return ""


def _list_chips(patient: Patient) -> list[str]:
    nodes = sorted((patient.root / "sys/class/hwmon").glob("hwmon*"))
    return [name for node in nodes if (name := read_text(node / "name")) in CHIPS and name]


def _join(group: str) -> str:
    return f"join the group {group}: sudo usermod -aG {group} $USER, then log in again"
