"""A meter from outside, for the processes that a test starts: it is put into the registry as Python starts."""

from __future__ import annotations

import os
from pathlib import Path

from tests.daemon.conftest import PROJECT

POWER_W = 3.0

_METER = f"""
from device.protocols import PowerSample
from device.resources import Resource

class SteadyMeter(Resource):
    source, scope, is_estimate, resolution_w = "steady", "board", False, 0.01

    def __init__(self, clock):
        self._clock = clock

    @classmethod
    def open(cls, config, board, root, clock):
        return cls(clock)

    def read(self):
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w={POWER_W})

class SteadyEstimate(SteadyMeter):
    is_estimate = True
"""

_CUSTOMIZE = """
from device.registry import METERS, Entry
METERS._entries.update(steady=Entry("steady_meter:SteadyMeter"), guess=Entry("steady_meter:SteadyEstimate"))
"""


def install_meters(folder: Path) -> dict[str, str]:
    """Writes the meters ``steady`` and ``guess``; gives the environment in which every process knows them."""
    folder.mkdir()
    (folder / "steady_meter.py").write_text(_METER)
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}"}
