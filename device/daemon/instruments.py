"""What is read beside the frames: power, heat and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from device.contract import Profile
from device.machine.memory import Memory, read_memory
from device.machine.thermals import SysfsThermals
from device.meters.meter import MeterContext
from device.meters.sampler import PowerSampler
from device.meters.select import open_meters
from device.protocols import Clock, PowerReader, Thermals


class Instruments(NamedTuple):
    """What the recorder reads beside the frames.

    Attributes:
        power: None where no meter is there.
        meters_missing: those that the profile names and that aren't there, each in one line with the reason.
        thermals: heat and speed.
        memory: reads this process's memory.
    """

    power: PowerReader | None
    meters_missing: tuple[str, ...]
    thermals: Thermals
    memory: Callable[[], Memory]


def open_instruments(profile: Profile, clock: Clock, stack: contextlib.ExitStack) -> Instruments:
    """Opens the profile's meters and begins to sample them; ``stack`` closes them."""
    meters, missing = open_meters(profile.power, MeterContext(clock=clock))
    for meter in meters:
        stack.enter_context(meter)
    sampler = stack.enter_context(PowerSampler(meters, profile.power.sample_rate_hz, clock=clock)) if meters else None
    return Instruments(sampler, tuple(missing), SysfsThermals(), read_memory)
