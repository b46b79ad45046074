"""Power meters and heat. `open_meters` opens what a profile names; `PowerSampler` reads them while a run goes on.

A meter's class has ``open(config, board, root, clock)``, a classmethod that raises `MeterError` where the meter isn't there.
"""

from device.machine.thermals import SysfsThermals
from device.meters.sampler import PowerSampler
from device.meters.select import open_meters

__all__ = ["PowerSampler", "SysfsThermals", "open_meters"]
