"""From a profile's list of meters to those that are there."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from device.contract import MeterConfig, Power
from device.core import plugin
from device.core.errors import MeterError, MissingDependencyError
from device.meters.meter import Meter, MeterContext
from device.meters.registry import METERS
from device.protocols import PowerMeter


def read_options(config: MeterConfig) -> msgspec.Struct:
    """Checks a meter's keys against the options that its kind declares.

    Raises:
        UsageError: there is no such kind.
        MeterError: ``options``: a key that the kind doesn't take, a wrong value, or a required one that is missing.
        MissingDependencyError: an outsider's kind that can't be imported.
    """
    kind, keys = plugin.split_kind(config)
    meter: type[Meter] = METERS.load(kind)
    # Manifests of older releases hold every key of every kind, most of them null.
    given = {key: value for key, value in keys.items() if value is not None}
    try:
        return plugin.read_options(kind, given, meter.Options)
    except plugin.OptionError as error:
        where = f"power.meters {kind}" if error.key == "kind" else f"power.meters {kind} {error.key}"
        raise MeterError(
            where, error.found, expected=error.expected, remedy="correct its keys in the profile", reason="options"
        ) from error


def open_meter(config: MeterConfig, context: MeterContext) -> PowerMeter:
    """Opens one meter.

    Raises:
        UsageError: there is no such kind.
        MeterError: its keys are wrong (``options``), it isn't there, or can't be used.
        MissingDependencyError: the package that it wraps isn't installed.
    """
    meter: type[Meter] = METERS.load(config["kind"])
    return meter.open(read_options(config), context)


def open_meters(power: Power, context: MeterContext) -> tuple[list[PowerMeter], list[str]]:
    """Opens every meter that a profile names and that is there, in the profile's order.

    Args:
        power: the profile's meters.
        context: see `MeterContext`.

    Returns:
        The open meters, of which the first gives the headline figure, and for each of the others one line why it isn't
        there, beginning with its kind.

    Raises:
        UsageError: the profile names a meter that doesn't exist; none stays open.
    """
    meters: list[PowerMeter] = []
    reasons: list[str] = []
    with ExitStack() as opened:
        for config in power.meters:
            try:
                meters.append(opened.enter_context(open_meter(config, context)))
            except (MeterError, MissingDependencyError) as error:
                reason, kind = str(error), config["kind"]
                reasons.append(reason if reason.startswith(f"{kind}:") else f"{kind}: {reason}")
        opened.pop_all()
    return meters, reasons
