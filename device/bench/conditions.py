"""The machine's conditions during a measurement, and the caveats about its figures that follow from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from device.bench.result import Caveat, Conditions
from device.machine.other_load import OtherLoadMeter
from device.machine.sysfs import read_text
from device.protocols import Clock, Thermals, ThermalSample

STEADY_GOVERNOR = "performance"
"""The only cpufreq governor that keeps the frequency constant under changing load and can reach the highest.

References:
    Linux kernel, Documentation/admin-guide/pm/cpufreq.rst, "Generic Scaling Governors".
"""

FREQUENCY_TOLERANCE = 0.05
"""Share by which the frequency may vary: x86 processors report the mean of a few milliseconds, which always fluctuates."""

OTHER_LOAD_CORES = 0.1
"""Processor time of other programs, in cores, above which they count as a disturbance."""

STOLEN_SHARE = 0.01


class ConditionMonitor:
    """Observes the machine between `start` and `finish`.

    Args:
        thermals: of the machine.
        clock: times the span.
        root: folder that holds ``proc`` and ``sys``.
        own_cpu_s: returns the processor time that this process has taken.
    """

    def __init__(
        self, thermals: Thermals, clock: Clock, root: Path = Path("/"), own_cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self._thermals = thermals
        self._root = root
        self._others = OtherLoadMeter(clock, root, own_cpu_s)
        self._samples: list[ThermalSample] = []
        self._batteries: set[str] = set()

    def start(self) -> None:
        """Starts a new span."""
        self._samples, self._batteries = [], set()
        self._others.start()
        self.observe()

    def observe(self) -> None:
        """Records the current conditions."""
        self._samples.append(self._thermals.read())
        self._batteries |= set(read_batteries(self._root))

    def finish(self) -> Conditions:
        """Records the conditions a last time, and summarises them."""
        self.observe()
        others = self._others.read()
        temperatures_c = [sample.temperature_c for sample in self._samples if sample.temperature_c is not None]
        frequencies_hz = [sample.frequency_hz for sample in self._samples if sample.frequency_hz is not None]
        last = self._samples[-1]
        return Conditions(
            temperature_low_c=min(temperatures_c, default=None),
            temperature_high_c=max(temperatures_c, default=None),
            frequency_low_hz=min(frequencies_hz, default=None),
            frequency_high_hz=max(frequencies_hz, default=None),
            governors=_distinct(sample.governor for sample in self._samples if sample.governor),
            throttled=last.throttled_since_start,
            throttle_unsupported=last.unsupported,
            other_load_cores=others.cores,
            stolen_share=others.stolen_share,
            batteries=tuple(sorted(self._batteries)),
        )


def observe_before(monitor: ConditionMonitor, clock: Clock, duration_s: float = 1.0) -> Conditions:
    """Observes the machine before anything is measured."""
    monitor.start()
    clock.sleep(duration_s)
    return monitor.finish()


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def read_batteries(root: Path = Path("/")) -> tuple[str, ...]:
    """Reads the status of each battery that powers this machine: ``Charging``, ``Discharging``, ``Full``, ``Not charging``.

    References:
        Linux kernel, Documentation/ABI/testing/sysfs-class-power: ``type``, ``status``, and ``scope``, which is ``Device`` for
        batteries of peripherals such as mice.
    """
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    batteries = [path for path in supplies if read_text(path / "type") == "Battery" and read_text(path / "scope") != "Device"]
    return tuple(status for path in batteries if (status := read_text(path / "status")))


def find_caveats(rounds: Sequence[Conditions]) -> tuple[Caveat, ...]:
    """Lists the caveats about figures measured under these conditions, one per kind.

    Conditions that the machine can't report raise no caveat; see `list_unknowns`.
    """
    caveats: list[Caveat] = []
    throttled = _distinct(name for one in rounds for name in one.throttled or ())
    if throttled:
        caveats.append(Caveat("throttled", f"{_words(throttled)} during the measurement"))
    unsteady = [name for name in _distinct(name for one in rounds for name in one.governors) if name != STEADY_GOVERNOR]
    if unsteady:
        caveats.append(Caveat("governor", f"governor {', '.join(unsteady)}: it changes the frequency with the load"))
    caveats += _find_moves(rounds)
    others = max((one.other_load_cores for one in rounds if one.other_load_cores is not None), default=0.0)
    if others > OTHER_LOAD_CORES:
        caveats.append(Caveat("other_load", f"other programs used up to {others:.2f} cores", others))
    stolen = max((one.stolen_share for one in rounds if one.stolen_share is not None), default=0.0)
    if stolen > STOLEN_SHARE:
        detail = f"the hypervisor gave up to {stolen:.0%} of the processor time to others"
        caveats.append(Caveat("stolen_time", detail, stolen))
    if any("Charging" in one.batteries for one in rounds):
        caveats.append(Caveat("battery_charging", "the battery was being charged"))
    return tuple(caveats)


def _find_moves(rounds: Sequence[Conditions]) -> list[Caveat]:
    lows_hz = [one.frequency_low_hz for one in rounds if one.frequency_low_hz is not None]
    highs_hz = [one.frequency_high_hz for one in rounds if one.frequency_high_hz is not None]
    if not lows_hz or not highs_hz or min(lows_hz) >= max(highs_hz) * (1 - FREQUENCY_TOLERANCE):
        return []
    low_hz, high_hz = min(lows_hz), max(highs_hz)
    detail = f"the frequency varied between {low_hz / 1e6:.0f} and {high_hz / 1e6:.0f} MHz"
    return [Caveat("frequency_moved", detail, 1 - low_hz / high_hz)]


def _words(names: Iterable[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)


def list_unknowns(rounds: Sequence[Conditions]) -> tuple[str, ...]:
    """Lists the conditions that the machine can't report: unknown doesn't mean good."""
    unknowns: list[str] = []
    if any(one.throttled is None for one in rounds):
        unknowns.append("throttling")
    else:
        unknowns += [name.replace("_", " ") for name in _distinct(name for one in rounds for name in one.throttle_unsupported)]
    if any(not one.governors for one in rounds):
        unknowns.append("governor")
    if any(one.frequency_low_hz is None for one in rounds):
        unknowns.append("frequency")
    if any(one.other_load_cores is None for one in rounds):
        unknowns.append("other load")
    return tuple(unknowns)
