"""Texas Instruments' INA2xx current sensors, through the kernel's hwmon drivers.

References:
    Linux kernel, Documentation/hwmon/ina2xx.rst and ina238.rst; Documentation/hwmon/sysfs-interface.rst for the units:
    ``power1_input`` microwatts, ``curr1_input`` milliamperes, ``in1_input`` millivolts, ``shunt_resistor`` microohms,
    ``update_interval`` milliseconds.
    Documentation/devicetree/bindings/hwmon/ti,ina2xx.yaml: ``shunt-resistor`` in microohms; ``ti,shunt-gain``, of which the
    ina238 driver takes 4 for the INA238's range of 163.84 mV, and 1 for that of 40.96 mV.
    Data sheets SBOS448 (INA219), SBOS459 (INA220), SBOS547 (INA226), SBOS601 (INA230), SBOS644 (INA231), SLYS022 (INA238):
    the greatest voltage at the shunt that each can tell, and that its power register counts in 20 (INA219) or 25 (INA226) steps
    of its current register.
    Linux kernel, drivers/hwmon/ina2xx.c: the calibration that it writes makes a step of the current 10 or 2.5 microvolts at the
    shunt.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from device.contract import Board, Meter
from device.contract.profile import Scope
from device.core.clock import SystemClock
from device.core.errors import MeterError
from device.core.resources import Resource
from device.machine.sysfs import read_int, read_text
from device.meters.reading import read_number
from device.protocols import Clock, PowerSample

FULL_SCALE_V = {
    "ina219": 0.320,
    "ina220": 0.320,
    "ina226": 0.08192,
    "ina230": 0.08192,
    "ina231": 0.08192,
    "ina238": 0.16384,
}
"""Chip -> the greatest voltage at its shunt, in the range that the kernel's driver sets. Beyond it the reading stands still."""

INA238_STEP_V = 0.04096
"""The INA238's, for each unit of the gain that the device tree may set: 4 without it, 1 for the finer of its two ranges."""

CHIPS = tuple(FULL_SCALE_V)

POWER_STEP_W_OHM = {
    "ina219": 20 * 10e-6,
    "ina220": 20 * 10e-6,
    "ina226": 25 * 2.5e-6,
    "ina230": 25 * 2.5e-6,
    "ina231": 25 * 2.5e-6,
}
"""Chip -> watts that a count of its power register stands for, times ohms of the shunt. Not the INA238's: its driver's
calibration is another from kernel to kernel, and no file tells it."""

SHUNT_TOLERANCE = 0.01
"""Share by which the kernel's shunt may differ from the profile's: it is kept in whole microohms, and rounded by drivers."""

SATURATION = 0.99
"""Share of the full scale from which a reading counts as cut off: the kernel rounds the current to whole milliamperes."""

_I2C_DEVICE = re.compile(r"(\d+)-([0-9a-f]{4})")


class Ina2xxMeter(Resource):
    """Power at the shunt of one sensor.

    The node is found by its name at each loss, never by its number, which changes when a driver is bound again, and which
    another sensor may get meanwhile. What was once found is waited for: the same chip, at the same address.

    Args:
        config: the profile's; ``shunt_ohm`` is that of the shunt that is soldered to the board, ``scope`` what the sensor's
            wires enclose, ``bus`` and ``address`` where it is, needed only where there are several.
        root: where ``sys`` is.
        clock: stamps the samples.

    Raises:
        MeterError: ``missing`` without a sensor, ``ambiguous`` with several, ``shunt`` where the profile doesn't say its
            resistance, or the kernel reckons with another.
    """

    is_estimate = False

    def __init__(self, config: Meter, root: Path, clock: Clock) -> None:
        self.scope: Scope = config.scope or "board"
        self._shunt_ohm = require_shunt(config)
        self._bus, self._address = config.bus, require_chip_address(config)
        self._root = root
        self._clock = clock
        self._chips = CHIPS
        self._node: Path | None = self._find_node()
        chip = read_text(self._node / "name") or ""
        self._chips = (chip,)
        self.source = f"{chip} (hwmon)" if self._address is None else f"{chip} {self._address:#x} (hwmon)"
        self._address = _find_place(self._node)[1] if self._address is None else self._address
        self._limit_a = SATURATION * _read_full_scale_v(self._node, chip) / self._shunt_ohm
        self._period_s = _read_period_s(self._node)
        step_w_ohm = POWER_STEP_W_OHM.get(chip)
        self.resolution_w = None if step_w_ohm is None else step_w_ohm / self._shunt_ohm
        self._read_power_w(self._node)

    @classmethod
    def open(cls, config: Meter, board: Board, root: Path = Path("/"), clock: Clock | None = None) -> Self:  # noqa: ARG003
        """Opens the meter that a profile names."""
        return cls(config, root, clock or SystemClock())

    def read(self) -> PowerSample:
        """Reads the power now. See `PowerMeter.read`."""
        node, self._node = self._node or self._find_node(), None
        power_w = self._read_power_w(node)
        self._node = node
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=power_w, period_s=self._period_s)

    def _find_node(self) -> Path:
        folder = self._root / "sys/class/hwmon"
        # Behind the numbered link is the device's own folder, which goes when it goes, whoever gets the number.
        nodes = [node.resolve() for node in sorted(folder.glob("hwmon*")) if read_text(node / "name") in self._chips]
        chosen = [node for node in nodes if self._is_asked_for(node)]
        if not chosen:
            others = f" at {_place(self._bus, self._address)}, but {_describe(nodes)}" if nodes else ""
            raise MeterError(
                str(folder),
                f"none of {', '.join(self._chips)}{others}",
                expected="a sensor with its driver bound",
                remedy="Raspberry Pi: dtoverlay=i2c-sensor,ina219,shunt-resistor=100000 (or another) in config.txt",
                reason="missing",
            )
        if len(chosen) > 1:
            raise MeterError(
                str(folder),
                f"several sensors: {_describe(chosen)}",
                expected="one",
                remedy="give address (and bus) in the profile",
                reason="ambiguous",
            )
        self._check_shunt(chosen[0])
        return chosen[0]

    def _is_asked_for(self, node: Path) -> bool:
        if self._bus is None and self._address is None:
            return True
        bus, address = _find_place(node)
        return self._bus in (None, bus) and self._address in (None, address)

    def _check_shunt(self, node: Path) -> None:
        kernel_ohm = _read_shunt_ohm(node)
        if abs(kernel_ohm - self._shunt_ohm) > SHUNT_TOLERANCE * self._shunt_ohm:
            raise MeterError(
                str(node / "shunt_resistor"),
                f"the kernel reckons with {kernel_ohm:g} ohm, the profile says {self._shunt_ohm:g} ohm",
                expected="the same in both",
                remedy="set the overlay's shunt-resistor, or the profile's shunt_ohm, to what the board has",
                reason="shunt",
            )

    def _read_power_w(self, node: Path) -> float:
        # The chips' power registers have no sign and no limit: only the current tells of both.
        current_a = read_number(node / "curr1_input") / 1e3
        if abs(current_a) >= self._limit_a:
            raise MeterError(
                str(node),
                f"{current_a:g} A is all that the sensor can tell",
                expected=f"less than {self._limit_a:.3g} A at {self._shunt_ohm:g} ohm",
                remedy="fit a smaller shunt",
                reason="range",
            )
        power = node / "power1_input"
        power_w = read_number(power) / 1e6 if power.exists() else current_a * read_number(node / "in1_input") / 1e3
        if current_a < 0 or power_w < 0:
            raise MeterError(
                str(node),
                f"{current_a:g} A, {power_w:g} W",
                expected="a power drawn",
                remedy="the shunt is wired backwards, or sits at a battery that is being charged",
                reason="malformed",
            )
        return power_w


def require_shunt(config: Meter) -> float:
    """The shunt's resistance, in ohms.

    Raises:
        MeterError: ``shunt`` where the profile doesn't say it.
    """
    if config.shunt_ohm is None:
        raise MeterError(
            f"power.meters {config.kind}",
            "no shunt_ohm",
            expected="the resistance that is printed on the shunt, in ohms",
            remedy="R100 is 0.1, R010 is 0.01, R002 is 0.002",
            reason="shunt",
        )
    return config.shunt_ohm


def require_chip_address(config: Meter) -> int | None:
    """The chip's address on its bus; None where the profile gives none.

    Raises:
        MeterError: ``address`` where it gives something else.
    """
    if isinstance(config.address, str):
        raise MeterError(
            f"power.meters {config.kind}",
            f"address {config.address!r}",
            expected="a number on the I2C bus, such as 0x40, without quotes",
            reason="address",
        )
    return config.address


def _find_place(node: Path) -> tuple[int | None, int | None]:
    """Bus and address of the chip: a client's folder is named ``1-0040``.

    References:
        Linux kernel, Documentation/i2c/i2c-sysfs.rst.
    """
    match = _I2C_DEVICE.fullmatch((node / "device").resolve().name)
    return (int(match[1]), int(match[2], 16)) if match else (None, None)


def _place(bus: int | None, address: int | None) -> str:
    where = "any address" if address is None else f"{address:#x}"
    return where if bus is None else f"{where} of bus {bus}"


def _describe(nodes: list[Path]) -> str:
    return ", ".join(f"{node.name} {read_text(node / 'name')}{_describe_place(node)}" for node in nodes)


def _describe_place(node: Path) -> str:
    bus, address = _find_place(node)
    return "" if address is None else f" at {_place(bus, address)}"


def _read_period_s(node: Path) -> float:
    """Time between the chip's own readings; the older chips' driver doesn't say, and theirs is a millisecond."""
    return max(0, read_int(node / "update_interval") or 0) / 1e3


def _read_shunt_ohm(node: Path) -> float:
    """Reads the shunt that the kernel reckons with; the ina238 driver says it nowhere but in the device tree."""
    attribute = node / "shunt_resistor"
    stated_uohm = None if attribute.exists() else _read_property(node, "shunt-resistor")
    return (read_number(attribute) if stated_uohm is None else stated_uohm) / 1e6


def _read_full_scale_v(node: Path, chip: str) -> float:
    gain = _read_property(node, "ti,shunt-gain") if chip == "ina238" else None
    return FULL_SCALE_V[chip] if gain is None else gain * INA238_STEP_V


def _read_property(node: Path, name: str) -> int | None:
    """A number of the chip's in the device tree; None where it isn't there."""
    path = node / "device/of_node" / name
    if not path.exists():
        return None
    try:
        return int.from_bytes(path.read_bytes()[:4], "big")
    except OSError as error:
        raise MeterError(str(path), error.strerror or str(error), reason="missing") from error
