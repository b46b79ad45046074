"""Power meters: which of the profile's is there, and why another isn't.

References:
    raspberrypi/firmware, boot/overlays/README: ``dtparam=i2c_arm``, ``dtoverlay=i2c-sensor`` and its ``shunt-resistor`` in
    microohms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from device.clock import SystemClock
from device.contract import Board, Meter, Power
from device.doctor.check import Check, Patient, Verdict, of_error
from device.errors import GhostwattError, MeterError
from device.meters.ina2xx import CHIPS
from device.meters.vcio import NODES
from device.protocols import PowerMeter
from device.registry import METERS
from device.sysfs import read_text

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


def meter_check(config: Meter) -> Callable[[Patient], Iterable[Check]]:
    """What checks one meter. One that isn't there is a warning: another may stand in for it, see `check_power`."""

    def check(patient: Patient) -> Iterator[Check]:
        name = f"meter {config.kind}"
        try:
            with _open(patient, config) as meter:
                kind = "ESTIMATE, not a measurement" if meter.is_estimate else "measured"
                yield Check(name, "ok", f"{meter.source}, {meter.scope}, {kind}")
        except GhostwattError as error:
            verdict: Verdict = "warn" if patient.profile else "unsupported"
            row = of_error(name, error, verdict)
            yield Check(name, verdict, row.finding, _fix(patient, config, error) or row.fix)

    return check


def check_power(patient: Patient) -> Iterator[Check]:
    """Whether a run would have a figure, and of what kind."""
    if patient.profile is None:
        chips = _list_chips(patient)
        if chips:
            fix = "name it in the profile: kind ina2xx, with the shunt_ohm that is printed on it"
            yield Check("power", "ok", f"hwmon has {', '.join(chips)}", fix)
        return
    for config in patient.profile.power.meters:
        try:
            with _open(patient, config) as meter:
                if meter.is_estimate:
                    fix = "fit a meter (INA219, INA226, wall plug), or measure a model: python -m device.calibrate-power"
                    yield Check("power", "warn", f"only an estimate ({meter.source})", fix)
                else:
                    yield Check("power", "ok", f"headline: {meter.source}, {meter.scope}, measured")
                return
        except GhostwattError:
            continue
    yield Check("power", "warn", "no meter: a run has no power figure", "see the meters above")


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


def _open(patient: Patient, config: Meter) -> PowerMeter:
    board = patient.profile.board if patient.profile else _NOWHERE
    meter: PowerMeter = METERS.load(config.kind).open(config, board, patient.root, SystemClock())
    return meter


def _fix(patient: Patient, config: Meter, error: GhostwattError) -> str:
    """The line to add, or the group to join, where we know more than the meter does."""
    if not isinstance(error, MeterError) or not patient.is_raspberry_pi:
        return ""
    if config.kind == "ina2xx" and error.reason == "missing":
        address = f",addr=0x{config.address:02x}" if isinstance(config.address, int) else ""
        shunt_uohm = round((config.shunt_ohm or 0.1) * 1e6)
        overlay = f"dtoverlay=i2c-sensor,ina219{address},shunt-resistor={shunt_uohm} (or ina226 ...)"
        return f"dtparam=i2c_arm=on and {overlay} in {CONFIG}, then reboot"
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
