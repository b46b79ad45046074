"""Heat, speed and throttling: what the kernel and the Raspberry Pi's firmware say.

What can't be told is None, or stands in `ThermalSample.unsupported`: a board without a detector of low voltage isn't "ok", it
is silent.

References:
    Linux kernel, Documentation/driver-api/thermal/sysfs-api.rst (millidegrees Celsius; a cooling device's ``cur_state``) and
    Documentation/admin-guide/pm/cpufreq.rst (kilohertz).
    Raspberry Pi documentation, ``vcgencmd get_throttled``: the bits; bits 16 to 19 say that the same has occurred.
    Linux kernel, drivers/hwmon/raspberrypi-hwmon.c: asks the firmware every two seconds, and clears those bits each time;
    ``in0_lcrit_alarm`` of the device ``rpi_volt`` is what it found.
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

# "soc" only as a word: on Qualcomm's boards "socd" is a battery's state of charge.
_PROCESSOR_ZONE = re.compile(r"cpu|x86_pkg|(?:^|[^a-z])soc(?:$|[^a-z])|^(?:big|mid|little)$", re.IGNORECASE)

# What a zone without a sensor, or with one that is switched off, gives lies outside.
_PLAUSIBLE_C = (-60.0, 150.0)

THROTTLE_FLAGS: tuple[ThrottleFlag, ...] = get_args(ThrottleFlag)
"""In the order of the firmware's bits 0 to 3."""

_HAS_OCCURRED_SHIFT = 16

WITHOUT_VOLTAGE_DETECTOR = "raspberrypi,model-zero"
"""How the boards' names in the device tree begin that have no detector of low voltage: their bit 0 is always 0."""

Flags = frozenset[ThrottleFlag]


class Seen(NamedTuple):
    """What a witness saw.

    Attributes:
        now: flags that hold now.
        lately: those that held at any time since the witness was last asked.
    """

    now: Flags
    lately: Flags


class Witness(Protocol):
    """Something that sees some of the flags."""

    @property
    def flags(self) -> Flags:
        """Those that it can tell."""

    def look(self) -> Seen | None:
        """Looks once; None where it can't be read. The first look may be the one that later ones are compared with."""


class SysfsThermals:
    """Reads temperature, frequency, governor and throttling, and remembers what was ever throttled.

    One instance a run: the memory begins with it. Used from one thread.

    Args:
        root: where ``sys``, ``proc`` and ``dev`` are.
        firmware: takes ``get_throttled`` where sysfs doesn't say; the mailbox under ``root`` if None.
    """

    def __init__(self, root: Path = Path("/"), firmware: Firmware | None = None) -> None:
        zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        self._root = root
        self._temperatures = [zone / "temp" for zone in zones if _PROCESSOR_ZONE.search(read_text(zone / "type") or "")]
        self._frequencies = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._witnesses = _find_witnesses(root, firmware or Mailbox(root))
        self._held: Flags = frozenset()
        self._could_tell = False
        for witness in self._witnesses:
            witness.look()

    def read(self) -> ThermalSample:
        """Reads once. See `Thermals.read`."""
        temperatures_c = [value / 1e3 for path in self._temperatures if (value := read_int(path)) is not None]
        frequencies_hz = [value * 1e3 for path in self._frequencies if (value := read_int(path)) is not None and value > 0]
        low_c, high_c = _PLAUSIBLE_C
        seen = [(witness.flags, seen) for witness in self._witnesses if (seen := witness.look()) is not None]
        self._could_tell = self._could_tell or bool(seen)
        self._held = self._held.union(*(each.lately for _, each in seen))
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


def _find_witnesses(root: Path, firmware: Firmware) -> list[Witness]:
    """Every witness that is there; of the Raspberry Pi's three ways to the same bits, the first."""
    witnesses: list[Witness] = []
    raspberry_pi = _find_throttle_word(root, firmware) or _find_voltage_alarm(root)
    if raspberry_pi:
        witnesses.append(raspberry_pi)
    counters = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    if counters:
        witnesses.append(ThrottleCounters(counters))
    devices = sorted((root / "sys/class/thermal").glob("cooling_device*"))
    coolers = [device / "cur_state" for device in devices if "cpufreq" in (read_text(device / "type") or "")]
    if coolers:
        witnesses.append(FrequencyCoolers(coolers))
    return witnesses


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
    # Behind the numbered link: the number may go to another chip, whose own alarm of that name means something else.
    alarms = [node.resolve() / "in0_lcrit_alarm" for node in nodes if read_text(node / "name") == "rpi_volt"]
    return VoltageAlarm(alarms[0]) if alarms else None


class ThrottleWord:
    """The firmware's word: what holds, and what has occurred since someone cleared it.

    A bit of the latter that is new since the last look catches what came and went in between. One that was there before says
    nothing of this run: it may be as old as the board's last start.

    Args:
        read_word: gives the word, or None.
        has_voltage_detector: False where the board has none.
    """

    def __init__(self, read_word: Callable[[], int | None], *, has_voltage_detector: bool) -> None:
        self._read_word = read_word
        self._occurred: int | None = None
        self.flags: Flags = frozenset(THROTTLE_FLAGS if has_voltage_detector else THROTTLE_FLAGS[1:])

    def look(self) -> Seen | None:
        """Looks once. See `Witness.look`."""
        word = self._read_word()
        if word is None or word < 0:
            return None
        occurred = word >> _HAS_OCCURRED_SHIFT
        new = 0 if self._occurred is None else occurred & ~self._occurred
        self._occurred = occurred
        return Seen(self._flags_of(word), self._flags_of(word | new))

    def _flags_of(self, bits: int) -> Flags:
        return frozenset(flag for bit, flag in enumerate(THROTTLE_FLAGS) if bits >> bit & 1) & self.flags


class VoltageAlarm:
    """The kernel's alarm of low voltage, for kernels that tell of the firmware's word nothing else.

    Args:
        path: of ``in0_lcrit_alarm``.
    """

    flags: Flags = frozenset({"under_voltage"})

    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self) -> Seen | None:
        """Looks once. See `Witness.look`."""
        alarm = read_int(self._path)
        if alarm is None:
            return None
        now = self.flags if alarm else frozenset()
        return Seen(now, now)


class ThrottleCounters:
    """How often an x86 processor slowed down for heat: throttled is what happened since the last look.

    Args:
        paths: the counters of every core and package.
    """

    flags: Flags = frozenset({"throttled"})

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._counts: dict[Path, int] = {}

    def look(self) -> Seen | None:
        """Looks once. See `Witness.look`."""
        counts = {path: count for path in self._paths if (count := read_int(path)) is not None}
        if not counts:
            return None
        # A core that was switched off and on begins anew; that is no event.
        has_grown = any(count > self._counts.get(path, count) for path, count in counts.items())
        self._counts.update(counts)
        now = self.flags if has_grown else frozenset()
        return Seen(now, now)


class FrequencyCoolers:
    """The kernel's own brake, on phones and on boards without a firmware that does it: above state 0 the clock is capped.

    Args:
        paths: ``cur_state`` of every cooling device that is a processor's frequency.
    """

    flags: Flags = frozenset({"frequency_capped"})

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)

    def look(self) -> Seen | None:
        """Looks once. See `Witness.look`."""
        states = [state for path in self._paths if (state := read_int(path)) is not None]
        if not states:
            return None
        now = self.flags if max(states) > 0 else frozenset()
        return Seen(now, now)
