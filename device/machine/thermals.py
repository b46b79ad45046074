"""Temperature, frequency and throttling, as reported by the kernel and the Raspberry Pi's firmware.

What can't be determined is None, or listed in `ThermalSample.unsupported`: a board without a low-voltage detector doesn't claim
that its supply is fine.

References:
    Linux kernel, Documentation/driver-api/thermal/sysfs-api.rst (millidegrees Celsius; a cooling device's ``cur_state``) and
    Documentation/admin-guide/pm/cpufreq.rst (kilohertz).
    Raspberry Pi documentation, ``vcgencmd get_throttled``: the bits; bits 16 to 19 mean that the same has occurred.
    Linux kernel, drivers/hwmon/raspberrypi-hwmon.c: polls the firmware every two seconds, and clears those bits each time;
    ``in0_lcrit_alarm`` of the device ``rpi_volt`` is the result.
    Linux kernel, drivers/thermal/cpufreq_cooling.c: the names ``thermal-cpufreq-N`` (older) and ``cpufreq-cpuN``.
    Linux kernel, drivers/thermal/intel/therm_throt.c: ``core_throttle_count`` and ``package_throttle_count``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol, get_args

from device.core.errors import MeterError
from device.machine.board import read_compatible, read_governor
from device.machine.sysfs import read_int, read_text
from device.machine.vcio import Firmware, Mailbox
from device.protocols import ThermalSample, ThrottleFlag

# "soc" must be a whole word: on Qualcomm's boards "socd" is a battery's state of charge.
_PROCESSOR_ZONE = re.compile(r"cpu|x86_pkg|(?:^|[^a-z])soc(?:$|[^a-z])|^(?:big|mid|little)$", re.IGNORECASE)

# A zone without a sensor, or with one that is switched off, reports a value outside this range.
_PLAUSIBLE_C = (-60.0, 150.0)

THROTTLE_FLAGS: tuple[ThrottleFlag, ...] = get_args(ThrottleFlag)
"""In the order of the firmware's bits 0 to 3."""

_HAS_OCCURRED_SHIFT = 16

WITHOUT_VOLTAGE_DETECTOR = "raspberrypi,model-zero"
"""Start of the names, in the device tree, of boards without a low-voltage detector, whose bit 0 is always 0."""

Flags = frozenset[ThrottleFlag]


class ThrottleReading(NamedTuple):
    """A detector's reading.

    Attributes:
        now: flags that are set now.
        recent: flags that were set at any time since the last reading.
    """

    now: Flags
    recent: Flags


class ThrottleDetector(Protocol):
    """A source of some of the throttle flags."""

    @property
    def flags(self) -> Flags:
        """The flags that it can report."""

    def read(self) -> ThrottleReading | None:
        """Reads once; None if it can't be read. The first reading may be the baseline for later ones."""


class SysfsThermals:
    """Reads temperature, frequency, governor and throttling, and remembers all throttling since it was created.

    Create one instance per run. Used from one thread.

    Args:
        root: folder that holds ``sys``, ``proc`` and ``dev``.
        firmware: answers ``get_throttled`` if sysfs doesn't; the mailbox under ``root`` if None.
    """

    def __init__(self, root: Path = Path("/"), firmware: Firmware | None = None) -> None:
        zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        self._root = root
        self._temperatures = [zone / "temp" for zone in zones if _PROCESSOR_ZONE.search(read_text(zone / "type") or "")]
        self._frequencies = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._detectors = _find_detectors(root, firmware or Mailbox(root))
        self._held: Flags = frozenset()
        self._could_tell = False
        for detector in self._detectors:
            detector.read()

    def read(self) -> ThermalSample:
        """Reads once. See `Thermals.read`."""
        temperatures_c = [value / 1e3 for path in self._temperatures if (value := read_int(path)) is not None]
        frequencies_hz = [value * 1e3 for path in self._frequencies if (value := read_int(path)) is not None and value > 0]
        low_c, high_c = _PLAUSIBLE_C
        seen = [(detector.flags, seen) for detector in self._detectors if (seen := detector.read()) is not None]
        self._could_tell = self._could_tell or bool(seen)
        self._held = self._held.union(*(each.recent for _, each in seen))
        known = frozenset[ThrottleFlag]().union(*(flags for flags, _ in seen))
        now = frozenset[ThrottleFlag]().union(*(each.now for _, each in seen))
        return ThermalSample(
            temperature_c=max((value for value in temperatures_c if low_c < value < high_c), default=None),
            frequency_hz=max(frequencies_hz, default=None),
            throttled=_in_order(now) if seen else None,
            throttled_since_start=_in_order(self._held) if self._could_tell else None,
            unsupported=_in_order(frozenset(THROTTLE_FLAGS) - known),
            governor=read_governor(self._root),
        )


def _in_order(flags: Flags) -> tuple[ThrottleFlag, ...]:
    return tuple(flag for flag in THROTTLE_FLAGS if flag in flags)


def _find_detectors(root: Path, firmware: Firmware) -> list[ThrottleDetector]:
    """Finds all detectors. Of the Raspberry Pi's three ways to the same bits, only the first that works is used."""
    detectors: list[ThrottleDetector] = []
    raspberry_pi = _find_throttle_word(root, firmware) or _find_voltage_alarm(root)
    if raspberry_pi:
        detectors.append(raspberry_pi)
    counters = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    if counters:
        detectors.append(ThrottleCounters(counters))
    devices = sorted((root / "sys/class/thermal").glob("cooling_device*"))
    coolers = [device / "cur_state" for device in devices if "cpufreq" in (read_text(device / "type") or "")]
    if coolers:
        detectors.append(FrequencyCoolers(coolers))
    return detectors


def _find_throttle_word(root: Path, firmware: Firmware) -> ThrottleWord | None:
    has_detector = not any(name.startswith(WITHOUT_VOLTAGE_DETECTOR) for name in read_compatible(root))
    files = sorted((root / "sys/devices/platform").glob("*/*firmware*/get_throttled"))
    if files:
        return ThrottleWord(lambda: read_int(files[0], base=16), has_voltage_detector=has_detector)
    if _ask_throttled(firmware) is None:
        return None
    return ThrottleWord(lambda: _ask_throttled(firmware), has_voltage_detector=has_detector)


def _ask_throttled(firmware: Firmware) -> int | None:
    try:
        name, _, word = firmware.gencmd("get_throttled").partition("=")
        return int(word, 16) if name == "throttled" else None
    except (MeterError, ValueError):
        return None


def _find_voltage_alarm(root: Path) -> VoltageAlarm | None:
    nodes = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    # The numbered link is resolved, because the number may be given to another chip, whose alarm means something else.
    alarms = [node.resolve() / "in0_lcrit_alarm" for node in nodes if read_text(node / "name") == "rpi_volt"]
    return VoltageAlarm(alarms[0]) if alarms else None


class ThrottleWord:
    """The firmware's word: the flags that are set now, and those that have occurred since they were last cleared.

    An "occurred" bit that is new since the last reading reveals what happened in between. One that was set at the first reading
    may be as old as the board's last start, and says nothing about this run.

    Args:
        read_word: returns the word, or None.
        has_voltage_detector: whether the board has a low-voltage detector.
    """

    def __init__(self, read_word: Callable[[], int | None], *, has_voltage_detector: bool) -> None:
        self._read_word = read_word
        self._occurred: int | None = None
        self.flags: Flags = frozenset(THROTTLE_FLAGS if has_voltage_detector else THROTTLE_FLAGS[1:])

    def read(self) -> ThrottleReading | None:
        """Reads once. See `ThrottleDetector.read`."""
        word = self._read_word()
        if word is None or word < 0:
            return None
        occurred = word >> _HAS_OCCURRED_SHIFT
        new = 0 if self._occurred is None else occurred & ~self._occurred
        self._occurred = occurred
        return ThrottleReading(self._flags_of(word), self._flags_of(word | new))

    def _flags_of(self, bits: int) -> Flags:
        return frozenset(flag for bit, flag in enumerate(THROTTLE_FLAGS) if bits >> bit & 1) & self.flags


class VoltageAlarm:
    """The kernel's low-voltage alarm, for kernels that expose nothing else of the firmware's word.

    Args:
        path: path of ``in0_lcrit_alarm``.
    """

    flags: Flags = frozenset({"under_voltage"})

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> ThrottleReading | None:
        """Reads once. See `ThrottleDetector.read`."""
        alarm = read_int(self._path)
        if alarm is None:
            return None
        now = self.flags if alarm else frozenset()
        return ThrottleReading(now, now)


class ThrottleCounters:
    """Counters of how often an x86 processor slowed down because of heat; an increase since the last reading is throttling.

    Args:
        paths: the counters of all cores and packages.
    """

    flags: Flags = frozenset({"throttled"})

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._counts: dict[Path, int] = {}

    def read(self) -> ThrottleReading | None:
        """Reads once. See `ThrottleDetector.read`."""
        counts = {path: count for path in self._paths if (count := read_int(path)) is not None}
        if not counts:
            return None
        # A core that was switched off and on starts counting again, which isn't an event.
        has_grown = any(count > self._counts.get(path, count) for path, count in counts.items())
        self._counts.update(counts)
        now = self.flags if has_grown else frozenset()
        return ThrottleReading(now, now)


class FrequencyCoolers:
    """The kernel's own frequency cap, on phones and on boards whose firmware doesn't cap: active above state 0.

    Args:
        paths: ``cur_state`` of every cooling device that caps a processor's frequency.
    """

    flags: Flags = frozenset({"frequency_capped"})

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)

    def read(self) -> ThrottleReading | None:
        """Reads once. See `ThrottleDetector.read`."""
        states = [state for path in self._paths if (state := read_int(path)) is not None]
        if not states:
            return None
        now = self.flags if max(states) > 0 else frozenset()
        return ThrottleReading(now, now)
