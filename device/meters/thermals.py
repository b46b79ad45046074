"""Heat, speed and throttling, from sysfs.

References:
    Linux kernel, Documentation/driver-api/thermal/sysfs-api.rst (millidegrees Celsius) and
    Documentation/admin-guide/pm/cpufreq.rst (kilohertz).
    Raspberry Pi documentation, ``vcgencmd get_throttled``: the bits; bits 16 to 19 say the same of the time since the start.
"""

from __future__ import annotations

import re
from pathlib import Path

from device.protocols import ThermalSample, ThrottleFlag
from device.sysfs import read_int, read_text

# "soc" only as a word: on Qualcomm's boards "socd" is a battery's state of charge.
_PROCESSOR_ZONE = re.compile(r"cpu|x86_pkg|(?:^|[^a-z])soc(?:$|[^a-z])|^(?:big|mid|little)$", re.IGNORECASE)

# What a zone without a sensor, or with one that is switched off, gives lies outside.
_PLAUSIBLE_C = (-60.0, 150.0)

THROTTLE_BITS: tuple[tuple[int, ThrottleFlag], ...] = (
    (0, "under_voltage"),
    (1, "frequency_capped"),
    (2, "throttled"),
    (3, "soft_temperature_limit"),
)


class SysfsThermals:
    """Reads the kernel's thermal zones, cpufreq, and the Raspberry Pi firmware's throttle word.

    Args:
        root: where ``sys`` is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        self._temperatures = [zone / "temp" for zone in zones if _PROCESSOR_ZONE.search(read_text(zone / "type") or "")]
        self._frequencies = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._throttled = sorted((root / "sys/devices/platform").glob("*/*firmware*/get_throttled"))

    def read(self) -> ThermalSample:
        """Reads once. See `Thermals.read`."""
        temperatures_c = [value / 1e3 for path in self._temperatures if (value := read_int(path)) is not None]
        frequencies_hz = [value * 1e3 for path in self._frequencies if (value := read_int(path)) is not None and value > 0]
        low_c, high_c = _PLAUSIBLE_C
        return ThermalSample(
            temperature_c=max((value for value in temperatures_c if low_c < value < high_c), default=None),
            frequency_hz=max(frequencies_hz, default=None),
            throttled=self._read_throttled(),
        )

    def _read_throttled(self) -> tuple[ThrottleFlag, ...] | None:
        word = read_int(self._throttled[0], base=16) if self._throttled else None
        if word is None or word < 0:
            return None
        return tuple(flag for bit, flag in THROTTLE_BITS if word >> bit & 1)
