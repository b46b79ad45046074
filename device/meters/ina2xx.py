"""Texas Instruments' INA2xx current sensors, through the kernel's hwmon drivers.

References:
    Linux kernel, Documentation/hwmon/ina2xx.rst and ina238.rst; Documentation/hwmon/sysfs-interface.rst for the units:
    ``power1_input`` microwatts, ``curr1_input`` milliamperes, ``in1_input`` millivolts, ``shunt_resistor`` microohms,
    ``update_interval`` milliseconds.
    Documentation/devicetree/bindings/hwmon/ti,ina2xx.yaml: ``shunt-resistor`` in microohms; ``ti,shunt-gain``, of which the
    ina238 driver takes 4 for the INA238's range of 163.84 mV, and 1 for that of 40.96 mV.
    Data sheets SBOS448 (INA219), SBOS459 (INA220), SBOS547 (INA226), SBOS601 (INA230), SBOS644 (INA231), SLYS022 (INA238):
    the greatest voltage at the shunt that each can measure, and that its power register counts in 20 (INA219) or 25 (INA226)
    steps of its current register.
    Linux kernel, drivers/hwmon/ina2xx.c: the calibration that it writes makes a step of the current 10 or 2.5 microvolts at the
    shunt.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from device.core.errors import MeterError
from device.machine.board import CONFIG_TXT
from device.machine.sysfs import read_int, read_text
from device.meters.meter import Meter, MeterContext, MeterOptions, ScopeOption
from device.meters.reading import read_number
from device.protocols import PowerOrigin, PowerSample

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

HWMON = "sys/class/hwmon"

POWER_STEP_W_OHM = {
    "ina219": 20 * 10e-6,
    "ina220": 20 * 10e-6,
    "ina226": 25 * 2.5e-6,
    "ina230": 25 * 2.5e-6,
    "ina231": 25 * 2.5e-6,
}
"""Chip -> watts that a count of its power register stands for, times ohms of the shunt. Not the INA238's: its driver's
calibration differs from kernel to kernel, and no file shows it."""

SHUNT_TOLERANCE = 0.01
"""Share by which the kernel's shunt may differ from the profile's: it is kept in whole microohms, and rounded by drivers."""

SATURATION = 0.99
"""Share of the full scale from which a reading counts as cut off: the kernel rounds the current to whole milliamperes."""

_I2C_DEVICE = re.compile(r"(\d+)-([0-9a-f]{4})")

ShuntOhm = Annotated[
    float,
    Meta(gt=0.0, description="resistance that is printed on the shunt, in ohms (R100 is 0.1, R010 is 0.01, R002 is 0.002)"),
]
ChipAddress = Annotated[int, Meta(ge=0x08, le=0x77, description="the chip's address on its I2C bus, such as 0x40")]
BusNumber = Annotated[int, Meta(ge=0, le=255, description="number of the I2C bus; 1 is on the Raspberry Pi's 40-pin header")]


class Ina2xxOptions(MeterOptions, frozen=True, kw_only=True):
    """What a profile says about a sensor that a kernel driver has."""

    shunt_ohm: ShuntOhm
    scope: ScopeOption = "board"
    address: ChipAddress | None = None
    bus: BusNumber | None = None


class Ina2xxMeter(Meter):
    """TI's INA219, INA220, INA226, INA230, INA231 or INA238, through its kernel driver.

    The node is found by its name at each loss, never by its number, which changes when a driver is bound again, and which
    another sensor may get meanwhile. A sensor that was found once is waited for: the same chip, at the same address.

    Args:
        options: ``bus`` and ``address`` are needed only where there are several sensors.
        context: see `MeterContext`.

    Raises:
        MeterError: ``missing`` without a sensor, ``ambiguous`` with several, ``shunt`` where the kernel calculates with another
            resistance than the profile's.
    """

    Options = Ina2xxOptions

    def __init__(self, options: Ina2xxOptions, context: MeterContext) -> None:
        self._shunt_ohm = options.shunt_ohm
        self._bus, self._address = options.bus, options.address
        self._root = context.root
        self._clock = context.clock
        self._chips = CHIPS
        self._node: Path | None = self._find_node()
        chip = read_text(self._node / "name") or ""
        self._chips = (chip,)
        name = chip if self._address is None else f"{chip} {self._address:#x}"
        self.origin = PowerOrigin(source=f"{name} (hwmon)", scope=options.scope, is_estimate=False)
        self._address = _find_place(self._node)[1] if self._address is None else self._address
        self._limit_a = SATURATION * _read_full_scale_v(self._node, chip) / self._shunt_ohm
        self._period_s = _read_period_s(self._node)
        step_w_ohm = POWER_STEP_W_OHM.get(chip)
        self.resolution_w = None if step_w_ohm is None else step_w_ohm / self._shunt_ohm
        self._read_power_w(self._node)

    @classmethod
    def find_unnamed(cls, root: Path) -> tuple[str, ...]:
        """Chips that the kernel's drivers have."""
        return tuple(filter(None, (read_text(node / "name") for node in _find_nodes(root, CHIPS))))

    def read(self) -> PowerSample:
        """Reads the power now. See `PowerMeter.read`."""
        node, self._node = self._node or self._find_node(), None
        power_w = self._read_power_w(node)
        self._node = node
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=power_w, period_s=self._period_s)

    def _find_node(self) -> Path:
        nodes = _find_nodes(self._root, self._chips)
        chosen = [node for node in nodes if self._is_asked_for(node)]
        if not chosen:
            others = f" at {_place(self._bus, self._address)}, but {_describe(nodes)}" if nodes else ""
            raise MeterError(
                str(self._root / HWMON),
                f"none of {', '.join(self._chips)}{others}",
                expected="a sensor with its driver bound",
                remedy=self._overlay_remedy(),
                reason="missing",
            )
        if len(chosen) > 1:
            raise MeterError(
                str(self._root / HWMON),
                f"several sensors: {_describe(chosen)}",
                expected="one",
                remedy="give address (and bus) in the profile",
                reason="ambiguous",
            )
        self._check_shunt(chosen[0])
        return chosen[0]

    def _overlay_remedy(self) -> str:
        """The lines to add on a Raspberry Pi. They alone would turn the profile's guess into a "measured" figure."""
        address = "" if self._address is None else f",addr={self._address:#04x}"
        overlay = f"dtoverlay=i2c-sensor,ina219{address},shunt-resistor={round(self._shunt_ohm * 1e6)} (or ina226 ...)"
        caution = f"only if {self._shunt_ohm:g} ohm is printed on the shunt: else change it there and in the profile"
        return f"Raspberry Pi: dtparam=i2c_arm=on and {overlay} in {CONFIG_TXT}, then reboot; {caution}"

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
                f"the kernel calculates with {kernel_ohm:g} ohm, the profile says {self._shunt_ohm:g} ohm",
                expected="the same in both",
                remedy="set the overlay's shunt-resistor, or the profile's shunt_ohm, to what the board has",
                reason="shunt",
            )

    def _read_power_w(self, node: Path) -> float:
        # The chips' power registers have no sign and no limit: only the current shows both.
        current_a = read_number(node / "curr1_input") / 1e3
        if abs(current_a) >= self._limit_a:
            raise MeterError(
                str(node),
                f"{current_a:g} A is the most that the sensor can measure",
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


def _find_nodes(root: Path, chips: tuple[str, ...]) -> list[Path]:
    # Behind the numbered link is the device's own folder, which goes when it goes, whoever gets the number.
    return [node.resolve() for node in sorted((root / HWMON).glob("hwmon*")) if read_text(node / "name") in chips]


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
    """Reads the shunt that the kernel calculates with; for the ina238 driver only the device tree has it."""
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
