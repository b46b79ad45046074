"""Meters from outside, for the processes that a test starts: known by entry points, as a package of someone else's would be."""

from __future__ import annotations

import os
from pathlib import Path

from tests.daemon.conftest import PROJECT

POWER_W = 3.0

_METER = f"""
from device.meters.meter import Meter
from device.protocols import PowerOrigin, PowerSample

class SteadyMeter(Meter):
    origin = PowerOrigin(source="steady", scope="board", is_estimate=False)
    resolution_w = 0.01

    def __init__(self, clock):
        self._clock = clock

    @classmethod
    def open(cls, options, context):
        return cls(context.clock)

    def read(self):
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w={POWER_W})

class SteadyEstimate(SteadyMeter):
    origin = PowerOrigin(source="steady", scope="board", is_estimate=True)
"""


def install_meters(folder: Path) -> dict[str, str]:
    """Makes the meters ``steady`` and ``guess`` known; gives the environment in which every process knows them."""
    return install_package(folder, _METER, steady="SteadyMeter", guess="SteadyEstimate")


def install_package(folder: Path, code: str, **meters: str) -> dict[str, str]:
    """Writes a package of meters.

    Args:
        folder: where to; it isn't there yet.
        code: of its module.
        meters: kind in a profile -> class in the module.

    Returns:
        The environment in which every process knows them.
    """
    about = folder / "outside_meter.dist-info"
    about.mkdir(parents=True)
    (folder / "outside_meter.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-meter\nVersion: 1\n")
    entries = [f"{kind} = outside_meter:{name}" for kind, name in meters.items()]
    (about / "entry_points.txt").write_text("\n".join(["[ghostwatt.meters]", *entries, ""]))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}"}
