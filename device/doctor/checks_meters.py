"""Power meters: which of the profile's is there, and why another isn't.

References:
    raspberrypi/firmware, boot/overlays/README: ``dtparam=i2c_arm``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import msgspec

from device.contract import MeterConfig
from device.core.errors import GhostwattError
from device.core.plugin import Needs
from device.doctor.check import Check, CheckContext, of_error
from device.machine.board import CONFIG_TXT
from device.machine.vcio import NODES
from device.meters.meter import Meter, MeterContext
from device.meters.registry import METERS
from device.meters.select import open_meter
from device.protocols import PowerOrigin

METER_TIMEOUT_S = 20.0
"""For looking at one: the slowest gives up by itself after 8 s, and its own error says more than that it hangs."""

I2C = Needs(devices=("char-i2c",), groups=("i2c",))
FIRMWARE = Needs(devices=tuple(f"/{node}" for node in NODES), groups=("video",))


def wanted_meters(context: CheckContext) -> tuple[MeterConfig, ...]:
    """The profile's meters; without one, those that find out by themselves whether they are there."""
    if context.profile:
        return context.profile.power.meters
    return tuple({"kind": kind} for kind in METERS.own_names() if _load(kind).is_findable)


Look = Callable[[CheckContext, MeterConfig], PowerOrigin]
"""Opens a meter and closes it; raises what opening it raises."""


def look_at(context: CheckContext, config: MeterConfig) -> PowerOrigin:
    """Looks at a meter. See `Look`."""
    with open_meter(config, MeterContext(context.root)) as meter:
        return meter.origin


def look_once() -> Look:
    """Looks at each meter once, whoever asks, and from whatever thread: a USB meter can't be opened by two at a time."""
    found: dict[bytes, Future[PowerOrigin]] = {}
    lock = threading.Lock()

    def look(context: CheckContext, config: MeterConfig) -> PowerOrigin:
        key = msgspec.json.encode(config, order="sorted")
        with lock:
            is_first = key not in found
            future = found.setdefault(key, Future())
        if is_first:
            try:
                future.set_result(look_at(context, config))
            except Exception as error:
                future.set_exception(error)
        return future.result()

    return look


def meter_check(config: MeterConfig, look: Look = look_at) -> Callable[[CheckContext], Iterable[Check]]:
    """Makes the check of one meter. A missing one is a warning: another may replace it, see `power_check`."""

    def check(context: CheckContext) -> Iterator[Check]:
        name = f"meter {config['kind']}"
        try:
            origin = look(context, config)
        except GhostwattError as error:
            yield of_error(name, error, "warn" if context.profile else "unsupported")
        else:
            yield Check(name, "ok", f"{origin.source}, {origin.scope}, {origin.kind}")

    return check


def power_check(look: Look = look_at) -> Callable[[CheckContext], Iterable[Check]]:
    """Makes the check of whether a run would have a power figure, and of what kind."""

    def check(context: CheckContext) -> Iterator[Check]:
        if context.profile is None:
            yield from _name_sensors(context)
            return
        for config in context.profile.power.meters:
            try:
                yield _judge_headline(look(context, config))
            except GhostwattError:
                continue
            return
        yield Check("power", "warn", "no meter: a run has no power figure", "see the meters above")

    return check


def _name_sensors(context: CheckContext) -> Iterator[Check]:
    for kind in METERS.own_names():
        plugin = _load(kind)
        if sensors := plugin.find_unnamed(context.root):
            keys = ", ".join(field.name for field in msgspec.structs.fields(plugin.Options) if field.required)
            fix = f"name it in the profile: kind {kind}" + (f", with its {keys}" if keys else "")
            yield Check("power", "ok", f"there is {', '.join(sensors)}", fix)


def _judge_headline(origin: PowerOrigin) -> Check:
    if origin.is_estimate:
        fix = "fit a meter (INA219, INA226, wall plug), or measure a model: python -m device.calibrate"
        return Check("power", "warn", f"only an estimate ({origin.source})", fix)
    return Check("power", "ok", f"headline: {origin.source}, {origin.scope}, {origin.kind}")


def check_buses(context: CheckContext) -> Iterator[Check]:
    """Sensors' nodes that a user may be locked out of: I2C and the firmware's mailbox."""
    if not context.is_raspberry_pi:
        yield Check("bus i2c", "unsupported", "no Raspberry Pi: no header")
        return
    yield _judge_i2c(context)
    nodes = [context.root / node for node in NODES if (context.root / node).exists()]
    if not nodes:
        fix = "sudo modprobe vcio; Raspberry Pi OS has it built in"
        yield Check("bus firmware", "warn", "no /dev/vcio: no PMIC, and no throttle flags from it", fix)
    elif os.access(nodes[0], os.R_OK | os.W_OK):
        yield Check("bus firmware", "ok", f"/dev/{nodes[0].name} may be used")
    else:
        yield _locked("bus firmware", nodes[0].name, FIRMWARE)


def _judge_i2c(context: CheckContext) -> Check:
    buses = sorted((context.root / "dev").glob("i2c-*"))
    if not buses:
        # The kernel's drivers need no node; whether one is bound is said by its meter's row.
        wanted = any(_uses_i2c(config["kind"]) for config in wanted_meters(context))
        fix = f"dtparam=i2c_arm=on in {CONFIG_TXT}, then reboot"
        return Check("bus i2c", "warn" if wanted else "unsupported", "no /dev/i2c-*: the bus is off", fix if wanted else "")
    locked = [bus.name for bus in buses if not os.access(bus, os.R_OK | os.W_OK)]
    if locked:
        return _locked("bus i2c", locked[0], I2C)
    return Check("bus i2c", "ok", ", ".join(f"/dev/{bus.name}" for bus in buses))


def _uses_i2c(kind: str) -> bool:
    try:
        return bool(set(I2C.devices) & set(_load(kind).needs.devices))
    except GhostwattError:
        return False  # its own row says what is wrong with it


def _locked(name: str, node: str, needs: Needs) -> Check:
    return Check(name, "warn", f"/dev/{node} may not be used by this user", needs.permission_remedy)


def _load(kind: str) -> type[Meter]:
    plugin: type[Meter] = METERS.load(kind)
    return plugin
