"""Texas Instruments' INA2xx current sensors, through the kernel's hwmon drivers.

References:
    Linux kernel, Documentation/hwmon/ina2xx.rst and ina238.rst; Documentation/hwmon/sysfs-interface.rst for the units:
    ``power1_input`` microwatts, ``curr1_input`` milliamperes, ``in1_input`` millivolts, ``shunt_resistor`` microohms.
    Documentation/devicetree/bindings/hwmon/ti,ina2xx.yaml: ``shunt-resistor`` in microohms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from device.clock import SystemClock
from device.contract import Board, Meter
from device.contract.profile import Scope
from device.errors import MeterError
from device.meters.reading import read_number
from device.protocols import Clock, PowerSample
from device.resources import Resource
from device.sysfs import read_text

CHIPS = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina238")

SHUNT_TOLERANCE = 0.01
"""Share by which the kernel's shunt may differ from the profile's: it is kept in whole microohms, and rounded by drivers."""


class Ina2xxMeter(Resource):
    """Power at the shunt of one sensor.

    The node is found by its name at each loss, never by its number, which changes when a driver is bound again.

    Args:
        shunt_ohm: resistance of the shunt that is soldered to the board.
        scope: what the sensor's wires enclose.
        root: where ``sys`` is.
        clock: stamps the samples.

    Raises:
        MeterError: ``missing`` without a sensor, ``ambiguous`` with several, ``shunt`` where the kernel reckons with another.
    """

    is_estimate = False

    def __init__(self, shunt_ohm: float, scope: Scope, root: Path, clock: Clock) -> None:
        self.scope: Scope = scope
        self._shunt_ohm = shunt_ohm
        self._root = root
        self._clock = clock
        self._node: Path | None = self._find_node()
        self.source = f"{read_text(self._node / 'name')} (hwmon)"
        _read_power_w(self._node)

    @classmethod
    def open(cls, config: Meter, board: Board, root: Path = Path("/"), clock: Clock | None = None) -> Self:  # noqa: ARG003
        """Opens the meter that a profile names.

        Raises:
            MeterError: also ``shunt`` where the profile doesn't say the shunt's resistance.
        """
        if config.shunt_ohm is None:
            raise MeterError(
                "power.meters ina2xx",
                "no shunt_ohm",
                expected="the resistance that is printed on the shunt, in ohms",
                remedy="R100 is 0.1, R010 is 0.01, R002 is 0.002",
                reason="shunt",
            )
        return cls(config.shunt_ohm, config.scope or "board", root, clock or SystemClock())

    def read(self) -> PowerSample:
        """Reads the power now. See `PowerMeter.read`."""
        node, self._node = self._node or self._find_node(), None
        power_w = _read_power_w(node)
        self._node = node
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=power_w)

    def _find_node(self) -> Path:
        folder = self._root / "sys/class/hwmon"
        nodes = [node for node in sorted(folder.glob("hwmon*")) if read_text(node / "name") in CHIPS]
        if not nodes:
            raise MeterError(
                str(folder),
                f"none of {', '.join(CHIPS)}",
                expected="a sensor with its driver bound",
                remedy="Raspberry Pi: dtoverlay=i2c-sensor,ina219 (or another) in config.txt",
                reason="missing",
            )
        if len(nodes) > 1:
            names = ", ".join(f"{node.name} {read_text(node / 'name')}" for node in nodes)
            raise MeterError(str(folder), f"several sensors: {names}", expected="one", reason="ambiguous")
        self._check_shunt(nodes[0])
        return nodes[0]

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


def _read_shunt_ohm(node: Path) -> float:
    """Reads the shunt that the kernel reckons with; the ina238 driver says it nowhere but in the device tree."""
    attribute, property_ = node / "shunt_resistor", node / "device/of_node/shunt-resistor"
    if not attribute.exists() and property_.exists():
        try:
            return int.from_bytes(property_.read_bytes()[:4], "big") / 1e6
        except OSError as error:
            raise MeterError(str(property_), error.strerror or str(error), reason="missing") from error
    return read_number(attribute) / 1e6


def _read_power_w(node: Path) -> float:
    power = node / "power1_input"
    if power.exists():
        power_w = read_number(power) / 1e6
    else:
        power_w = read_number(node / "curr1_input") * read_number(node / "in1_input") / 1e6
    if power_w < 0:
        raise MeterError(
            str(node), f"{power_w:g} W", expected="a power drawn", remedy="the shunt is wired backwards", reason="malformed"
        )
    return power_w
