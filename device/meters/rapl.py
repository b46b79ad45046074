"""RAPL: the energy counters of x86 processors, through the kernel's powercap interface.

References:
    Linux kernel, Documentation/power/powercap/powercap.rst: zones ``intel-rapl:N`` are packages, ``intel-rapl:N:M`` parts
    of them; ``energy_uj`` counts microjoules and begins again behind ``max_energy_range_uj``. AMD's processors appear under
    the same names.
    drivers/powercap/intel_rapl_common.c: the counters have 32 bits, and the range is what they can hold, times their
    unit; so the range tells the unit, which is in a register that root alone may read.
    CVE-2020-8694: why ``energy_uj`` is readable by root alone since Linux 5.10.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from device.core.errors import MeterError
from device.machine.sysfs import read_text
from device.meters.meter import Meter, MeterContext
from device.meters.reading import read_number
from device.protocols import Clock, PowerOrigin, PowerSample

MAX_POWER_W = 5000.0
"""Per package. More means that the counter was reset (by a suspend), not that it wrapped."""

SUSTAINED_POWER_W = 1000.0
"""Per package; none draws more for long. A span in which this would fill a counter may hide a whole turn of it."""

COUNTER_LIMIT = 2**32 - 1
"""Units that a counter can hold."""

_REMEDY = "run as root, or: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
_TOP_LEVEL = re.compile(r"intel-rapl:[0-9]+")


class RaplMeter(Meter):
    """Energy of all processor packages together.

    Args:
        root: where ``sys`` is.
        clock: stamps the samples.

    Raises:
        MeterError: ``missing`` without RAPL, ``permission`` where its counters may not be read.
    """

    is_findable = True
    origin = PowerOrigin(source="rapl", scope="cpu", is_estimate=False)

    def __init__(self, root: Path, clock: Clock) -> None:
        self._clock = clock
        self._ranges_uj = {folder: _read_range(folder) for folder in _find_packages(root)}
        self._last_ns = 0
        self._last_uj: dict[Path, int] | None = None
        self._read_counters()

    @classmethod
    def open(cls, _options: Any, context: MeterContext) -> Self:
        """Opens the counters."""
        return cls(context.root, context.clock)

    def read(self) -> PowerSample | None:
        """Reads the counters. See `PowerMeter.read`; the first read, and the first after a failure, gives None."""
        previous_uj, previous_ns = self._last_uj, self._last_ns
        self._last_uj = None
        counters_uj = self._read_counters()
        now_ns = self._clock.now_ns()
        if previous_uj is None or now_ns <= previous_ns:
            self._last_uj, self._last_ns = counters_uj, now_ns
            return None
        span_s = (now_ns - previous_ns) / 1e9
        energy_j = sum(self._advance_uj(folder, previous_uj[folder], uj) for folder, uj in counters_uj.items()) / 1e6
        self._last_uj, self._last_ns = counters_uj, now_ns
        power_w = energy_j / span_s
        if span_s * SUSTAINED_POWER_W > min(self._ranges_uj.values()) / 1e6:
            raise MeterError(
                "rapl", f"not read for {span_s:.0f} s", expected="a read before a counter wraps twice", reason="malformed"
            )
        if power_w > MAX_POWER_W * len(counters_uj):
            raise MeterError("rapl", f"the counter jumped ({power_w:.0f} W)", expected="a steady count", reason="malformed")
        # One unit of a counter, over the time between the latest two reads.
        self.resolution_w = min(self._ranges_uj.values()) / COUNTER_LIMIT / 1e6 / span_s
        return PowerSample(timestamp_ns=now_ns, power_w=power_w, energy_j=energy_j)

    def _read_counters(self) -> dict[Path, int]:
        return {folder: read_number(folder / "energy_uj", permission_remedy=_REMEDY) for folder in self._ranges_uj}

    def _advance_uj(self, folder: Path, before_uj: int, now_uj: int) -> int:
        # Not by `%`, which takes the range for 0: it is a value that the counter has. The one unit from it to 0 is lost.
        return now_uj - before_uj if now_uj >= before_uj else now_uj + self._ranges_uj[folder] - before_uj


def _find_packages(root: Path) -> list[Path]:
    """Finds the packages, without ``psys``: that domain is the whole platform, so it holds the packages' energy already."""
    folder = root / "sys/class/powercap"
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _TOP_LEVEL.fullmatch(zone.name)]
    packages = [zone for zone in zones if not (read_text(zone / "name") or "").startswith("psys")]
    if not packages:
        raise MeterError(
            str(folder), "no RAPL here", expected="intel-rapl:0", remedy="virtual machines have none", reason="missing"
        )
    return packages


def _read_range(folder: Path) -> int:
    range_uj = read_number(folder / "max_energy_range_uj", permission_remedy=_REMEDY)
    if range_uj <= 0:
        raise MeterError(str(folder / "max_energy_range_uj"), f"{range_uj}", expected="above 0", reason="malformed")
    return range_uj
