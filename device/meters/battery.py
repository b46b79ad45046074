"""A battery that is being drained: it gives what the machine takes. There is no figure while it is plugged in.

References:
    Linux kernel, Documentation/ABI/testing/sysfs-class-power and Documentation/power/power_supply_class.rst: ``current_now``
    microamperes, ``voltage_now`` microvolts, ``power_now`` microwatts, ``status``, ``type``, ``scope`` and ``online``.
    Android, ``BatteryManager.BATTERY_PROPERTY_CURRENT_NOW``: microamperes, negative while discharging; some vendors give
    milliamperes, or the other sign.
    Termux:API, ``BatteryStatusAPI.java``: ``voltage`` in millivolts (whole volts times 1000 where the vendor gives volts),
    ``current`` times 1000 where it was below 1000.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from device.core.errors import MeterError
from device.machine.sysfs import read_int, read_text
from device.meters.meter import Meter, MeterContext, MeterOptions
from device.meters.reading import read_number
from device.meters.slow import SlowMeter
from device.protocols import PowerOrigin, PowerSample

LEAST_CURRENT_A = 0.01
"""A machine that runs a network draws more; less means that microamperes were expected and milliamperes came."""

LIKELY_CURRENT_A = (LEAST_CURRENT_A, 20.0)
LIKELY_VOLTAGE_V = (2.0, 60.0)
"""From one cell, nearly empty, to the packs of the largest portable machines."""

MAX_COUNT = 2**31 - 1
"""Android's integers."""

TERMUX_COMMAND = "termux-battery-status"
TERMUX_PREFIX = "data/data/com.termux/files/usr/bin"


CurrentUnit = Annotated[
    Literal["ua", "ma"],
    Meta(description="unit in which the battery's current really comes, where the phone's maker broke the rule"),
]


class TermuxOptions(MeterOptions, frozen=True, kw_only=True):
    """What a profile may say about a battery that Android reports."""

    current_unit: CurrentUnit | None = None


class BatteryOptions(TermuxOptions, frozen=True, kw_only=True):
    """What a profile may say about a battery."""

    address: (
        Annotated[str, Meta(min_length=1, max_length=256, description="the battery's name under /sys/class/power_supply")]
        | None
    ) = None


class BatteryMeter(Meter):
    """The battery that the kernel shows under ``power_supply``.

    Args:
        options: ``address`` is needed only where there are several batteries.
        context: see `MeterContext`.

    Raises:
        MeterError: ``missing`` without a battery that reports its power, ``ambiguous`` with several, ``permission``. Each
            `read`: ``charging`` unless it is being drained, ``uncalibrated`` where the current can't be in the unit that it
            should be.
    """

    Options = BatteryOptions
    is_findable = True
    origin = PowerOrigin(source="battery (power_supply)", scope="battery", is_estimate=False)
    # ``resolution_w`` stays None: the files count microamperes and microvolts, and don't say how finely the gauge measures.

    def __init__(self, options: BatteryOptions, context: MeterContext) -> None:
        self._clock = context.clock
        self._folder = context.root / "sys/class/power_supply"
        self._name = options.address
        self._unit = options.current_unit
        self._node = self._find_node()
        # Looked for once: each file here may be a question to a chip.
        self._supplies = [node for node in sorted(self._folder.iterdir()) if _is_supply(node)]
        self._require_readable()

    def read(self) -> PowerSample:
        """Reads the battery now. See `PowerMeter.read`."""
        self._require_draining()
        power_w = self._read_power_w()
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=power_w)

    def _find_node(self) -> Path:
        try:
            nodes = sorted(node for node in self._folder.iterdir() if _is_own_battery(node))
        except PermissionError as error:
            remedy = "Android keeps it from apps: use kind termux_battery"
            raise MeterError(str(self._folder), "may not be read", remedy=remedy, reason="permission") from error
        except OSError:
            nodes = []
        chosen = [node for node in nodes if self._name in (None, node.name)]
        if not chosen:
            there = ", ".join(node.name for node in nodes) or "none"
            raise MeterError(
                str(self._folder), f"no battery (there are: {there})", expected=f"{self._name or 'one'}", reason="missing"
            )
        if len(chosen) > 1:
            names = ", ".join(node.name for node in chosen)
            raise MeterError(
                str(self._folder), f"several: {names}", expected="one", remedy="give its name as address", reason="ambiguous"
            )
        return chosen[0]

    def _require_draining(self) -> None:
        status = read_text(self._node / "status")
        if status is None:
            raise MeterError(str(self._node), "has no status", expected="a battery", reason="missing")
        if status != "Discharging":
            raise _charging(str(self._node), f"its status is {status!r}")
        for supply in self._supplies:
            if (read_int(supply / "online") or 0) > 0:
                raise _charging(str(supply), "is plugged in")

    def _require_readable(self) -> None:
        """Refuses a battery that never reports its power; one that is charging now may report it later."""
        try:
            self._read_power_w()
        except MeterError as error:
            if error.reason in ("permission", "missing"):
                raise

    def _read_power_w(self) -> float:
        # The status says which way the current flows: vendors disagree about the sign.
        if not (self._node / "current_now").exists():
            power_w = abs(read_number(self._node / "power_now")) / 1e6
            return _require_power(str(self._node / "power_now"), power_w)
        raw = abs(read_number(self._node / "current_now"))
        voltage_v = _require_voltage(str(self._node / "voltage_now"), read_number(self._node / "voltage_now") / 1e6)
        current_a = raw / (1e3 if self._unit == "ma" else 1e6)
        return _require_current(str(self._node / "current_now"), raw, current_a, self._unit) * voltage_v


class TermuxBatteryMeter(SlowMeter):
    """The battery as Android's own service reports it, through Termux:API. A new figure every few seconds, at some cost.

    Args:
        options: see `TermuxOptions`.
        context: its root is where Termux's ``data`` is.

    Raises:
        MeterError: ``missing`` without the command, ``stalled`` where it doesn't answer; see also `BatteryMeter`.
    """

    Options = TermuxOptions
    origin = PowerOrigin(source="battery (termux-battery-status)", scope="battery", is_estimate=False)
    period_s = 2.0
    timeout_s = 8.0

    def __init__(self, options: TermuxOptions, context: MeterContext) -> None:
        self._unit = options.current_unit
        self._command = context.root / TERMUX_PREFIX / TERMUX_COMMAND
        super().__init__(context.clock)

    def _measure_w(self) -> float:
        command = str(self._command) if self._command.exists() else shutil.which(TERMUX_COMMAND)
        if command is None:
            raise MeterError(
                TERMUX_COMMAND,
                "there is no such command",
                expected="Termux",
                remedy="pkg install termux-api, and install the app Termux:API",
                reason="missing",
            )
        return parse_termux(_run(command, self.timeout_s), self._unit)


class _Report(NamedTuple):
    """The fields of the command's answer that are used, in its own units."""

    status: str
    plugged: str
    voltage_mv: int
    current: int


def parse_termux(text: bytes, unit: str | None) -> float:
    """Reads the power out of what ``termux-battery-status`` prints.

    Args:
        text: its output.
        unit: in which the vendor gives the current: ``ua``, ``ma``, or None for what the rule says.

    Returns:
        Watts, positive when consumed.

    Raises:
        MeterError: ``charging``, ``uncalibrated``, ``malformed``.
    """
    report = _decode_report(text)
    if report.status != "DISCHARGING" or report.plugged != "UNPLUGGED":
        raise _charging(TERMUX_COMMAND, f"{report.status}, {report.plugged}")
    if report.voltage_mv % 1000 == 0:
        # Whole volts are what is left of a vendor's volts: a figure from them would be wrong by up to a quarter.
        raise MeterError(TERMUX_COMMAND, f"{report.voltage_mv} mV", expected="millivolts, not whole volts", reason="malformed")
    voltage_v = _require_voltage(TERMUX_COMMAND, report.voltage_mv / 1e3)
    raw = abs(report.current)
    # Termux has multiplied a vendor's milliamperes by 1000 already, as long as there were fewer than 1000 of them.
    current_a = raw / (1e3 if unit == "ma" and raw < LEAST_CURRENT_A * 1e6 else 1e6)
    return _require_current(TERMUX_COMMAND, raw, current_a, unit) * voltage_v


def _decode_report(text: bytes) -> _Report:
    try:
        data: Any = json.loads(text)
        report = _Report(data["status"], data["plugged"], data["voltage"], data["current"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MeterError(
            TERMUX_COMMAND,
            f"{text[:60].decode(errors='replace')!r}",
            expected="JSON with status, plugged, voltage and current",
            remedy="update the app Termux:API",
            reason="malformed",
        ) from error
    if any(type(value) is not int or abs(value) > MAX_COUNT for value in (report.voltage_mv, report.current)):
        found = f"voltage {str(report.voltage_mv)[:40]}, current {str(report.current)[:40]}"
        raise MeterError(TERMUX_COMMAND, found, expected="whole numbers", reason="malformed")
    return report


def _run(command: str, timeout_s: float) -> bytes:
    """Runs the command; kills its whole process group at the end."""
    try:
        process = subprocess.Popen(
            [command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise MeterError(command, error.strerror or str(error), reason="missing") from error
    with process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise MeterError(
                TERMUX_COMMAND,
                f"no answer within {timeout_s:g} s",
                expected="the battery's state",
                remedy="install the app Termux:API, and open it once",
                reason="stalled",
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise MeterError(TERMUX_COMMAND, f"ended with exit code {process.returncode}", reason="missing")
    return output


def _is_own_battery(node: Path) -> bool:
    """Whether it is a battery that drives this machine: a mouse's has the scope ``Device``."""
    return read_text(node / "type") == "Battery" and read_text(node / "scope") != "Device"


def _is_supply(node: Path) -> bool:
    """Whether it is something that the machine can be plugged into."""
    return read_text(node / "type") != "Battery" and (node / "online").exists()


def _charging(where: str, found: str) -> MeterError:
    return MeterError(
        where,
        found,
        expected="a battery that is being drained, and nothing plugged in",
        remedy="unplug it, or give another meter",
        reason="charging",
    )


def _require_voltage(where: str, voltage_v: float) -> float:
    low_v, high_v = LIKELY_VOLTAGE_V
    if not low_v <= voltage_v <= high_v:
        raise MeterError(where, f"{voltage_v:g} V", expected=f"{low_v:g} to {high_v:g} V", reason="malformed")
    return voltage_v


def _require_current(where: str, raw: int, current_a: float, unit: str | None) -> float:
    low_a, high_a = LIKELY_CURRENT_A
    # With a stated unit the current may be tiny; without one it must be a current that only one unit explains.
    if (0.0 if unit else low_a) <= current_a <= high_a:
        return current_a
    fits = [name for name, scale in (("ua", 1e6), ("ma", 1e3)) if low_a <= raw / scale <= high_a]
    raise MeterError(
        where,
        f"uncalibrated: {raw} would be {current_a:g} A",
        expected=f"{low_a:g} to {high_a:g} A",
        remedy=f"if the phone's maker counts so, say current_unit: {fits[0]} in the profile" if fits else "",
        reason="uncalibrated",
    )


def _require_power(where: str, power_w: float) -> float:
    low_w, high_w = (current_a * voltage_v for current_a, voltage_v in zip(LIKELY_CURRENT_A, LIKELY_VOLTAGE_V, strict=True))
    if not low_w <= power_w <= high_w:
        raise MeterError(where, f"{power_w:g} W", expected=f"{low_w:g} to {high_w:g} W", reason="malformed")
    return power_w
