"""Texas Instruments' current sensors, read from their registers over I2C, where no kernel driver is bound.

Nothing is taken from the chips' own current and power registers, which depend on a calibration that another program may have
written: power is the voltage at the shunt, divided by the shunt's resistance, times the voltage of the bus.

References:
    Data sheets SBOS448G (INA219), SBOS547A (INA226), SBOS656C (INA260), SLYS021A (INA228), SBOS576B (INA3221): the register
    maps, the weight of a bit, the greatest voltage at the shunt, and the offset, of each.
    Linux kernel, Documentation/i2c/dev-interface.rst: EBUSY where a driver is bound to the address; i2c-protocol.rst: a word
    goes low byte first on SMBus, and these chips send the high byte first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta

from device.core.errors import MeterError
from device.core.plugin import Needs, import_package
from device.machine.board import CONFIG_TXT
from device.meters.ina2xx import CHIPS, BusNumber, ChipAddress, ShuntOhm
from device.meters.meter import Meter, MeterContext, MeterOptions, ScopeOption
from device.protocols import PowerOrigin, PowerSample

if TYPE_CHECKING:
    import smbus2

DEFAULT_BUS = 1
"""The one on the Raspberry Pi's 40-pin header."""

DEFAULT_ADDRESS = 0x40
"""Of all these chips, with both address pins at ground."""

TEXAS_INSTRUMENTS = 0x5449
"""``TI``, in the manufacturer's register."""

CONVERSION_LIMIT_S = 1.0
"""A chip that has finished no conversion in so long, after it was set up, is not running."""


class Ina260Options(MeterOptions, frozen=True, kw_only=True):
    """What a profile may say about any of these chips; the INA260's shunt is inside it."""

    scope: ScopeOption = "board"
    address: ChipAddress = DEFAULT_ADDRESS
    bus: BusNumber = DEFAULT_BUS


class ShuntedOptions(Ina260Options, frozen=True, kw_only=True):
    """Options of a chip beside its shunt."""

    shunt_ohm: ShuntOhm


class Ina3221Options(ShuntedOptions, frozen=True, kw_only=True):
    """Options of one channel of an INA3221."""

    channel: Annotated[Literal[1, 2, 3], Meta(description="which of the chip's three inputs")]


class Reading(NamedTuple):
    """What a chip measures: volts at the bus, and volts at the shunt (amperes, where the shunt is inside)."""

    bus_v: float
    shunt: float


class Field(NamedTuple):
    """A number in a register.

    Attributes:
        register: its number.
        unit: weight of the lowest bit, in volts or amperes.
        size_bytes: of the register.
        shift: bits below the number.
        is_signed: two's complement.
        largest: the count at which the chip saturates; 0 where that is what the bits can hold.
    """

    register: int
    unit: float
    size_bytes: int = 2
    shift: int = 0
    is_signed: bool = True
    largest: int = 0

    @property
    def limit(self) -> int:
        """The greatest count."""
        bits = 8 * self.size_bytes - self.shift
        return self.largest or (1 << (bits - 1 if self.is_signed else bits)) - 1

    def decode(self, data: int) -> int:
        """The register's count, from its unsigned value."""
        bits = 8 * self.size_bytes - self.shift
        count = data >> self.shift
        return count - (1 << bits) if self.is_signed and count >> (bits - 1) else count


class Setting(NamedTuple):
    """A register that is written once, and must then stay as it is: it decides what the others mean."""

    register: int
    value: int


class Flag(NamedTuple):
    """One bit of a register."""

    register: int
    mask: int


class Identity(NamedTuple):
    """A register by which a chip identifies itself: ``value``, under ``mask``."""

    register: int
    value: int
    mask: int = 0xFFFF


class InaSmbusMeter(Meter):
    """Base: a chip's class attributes say where everything is.

    Its ranges are those that the chip has after a reset, so that a loss of power changes no figure; its averaging is set so
    that a reading covers a good part of the time between two reads at 10 Hz.

    Args:
        options: where the chip is, and its shunt.
        context: see `MeterContext`.

    Raises:
        MeterError: ``missing`` without a bus or a chip there, ``permission``, ``busy`` where a kernel driver has the chip,
            ``chip`` where another one is there.
        MissingDependencyError: smbus2 isn't installed.
    """

    Options: ClassVar[type[msgspec.Struct]] = ShuntedOptions
    needs = Needs(extra="i2c", devices=("char-i2c",), groups=("i2c",))

    kind: ClassVar[str]
    identities: ClassVar[tuple[Identity, ...]]
    settings: ClassVar[tuple[Setting, ...]]
    ready: ClassVar[Flag]
    """Set once a conversion has ended since the settings were written."""
    bus_field: Field
    bus_overflow_mask: ClassVar[int] = 0
    """A bit of the bus voltage's register by which the chip says that its arithmetic overflowed."""
    shunt_field: Field
    offset: ClassVar[float]
    """What the chip may show where nothing flows, either way, in the unit of the shunt's field."""

    def __init__(self, options: Ina260Options, context: MeterContext) -> None:
        self._library = import_package("smbus2", self.needs, f"meter {self.kind}")
        # Inside an INA260, whose register holds amperes.
        self._shunt_ohm = options.shunt_ohm if isinstance(options, ShuntedOptions) else 1.0
        self._bus_number, self._address = options.bus, options.address
        self._device = context.root / f"dev/i2c-{options.bus}"
        self._where = f"{self._device} {self._address:#x}"
        self.origin = PowerOrigin(source=f"{self.kind} {self._address:#x} (smbus)", scope=options.scope, is_estimate=False)
        self._clock = context.clock
        self._bus: smbus2.SMBus | None = None
        self._set_up_ns = 0
        self._is_ready = False
        self._is_closed = False
        with self._explaining_errors():
            self._set_up()

    def close(self) -> None:
        """Releases the bus."""
        self._is_closed = True
        self._release()

    def read(self) -> PowerSample | None:
        """Reads the power now. See `PowerMeter.read`; None until the first conversion has ended."""
        with self._explaining_errors():
            reading = self._measure()
        if reading is None:
            return None
        # A count of the shunt's register. One of the bus voltage's weighs more where much current flows.
        self.resolution_w = reading.bus_v * self._current_a(self.shunt_field.unit)
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=reading.bus_v * self._current_a(reading.shunt))

    def _current_a(self, shunt: float) -> float:
        return shunt / self._shunt_ohm

    # --- the chip -----------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    def _set_up(self) -> None:
        self._release()
        if self._is_closed:
            raise MeterError(self._where, "is closed", reason="missing")
        self._bus = self._library.SMBus(str(self._device))
        self._identify()
        for setting in self.settings:
            # Written only where it differs: another meter may be reading another channel of the chip.
            if self._read(setting.register) != setting.value:
                self._write(setting.register, setting.value)
        self._require_settings()
        self._set_up_ns = self._clock.now_ns()
        self._is_ready = False

    def _identify(self) -> None:
        for identity in self.identities:
            found = self._read(identity.register)
            if found & identity.mask != identity.value:
                raise MeterError(
                    self._where,
                    f"register {identity.register:#04x} holds {found:#06x}, which is no {self.kind.upper()}",
                    expected=f"{identity.value:#06x}, under the mask {identity.mask:#06x}",
                    remedy="give the chip's kind, or the right address, in the profile",
                    reason="chip",
                )

    def _require_settings(self) -> None:
        for setting in self.settings:
            found = self._read(setting.register)
            if found != setting.value:
                raise MeterError(
                    self._where,
                    f"its setting is {found:#06x}",
                    expected=f"{setting.value:#06x}",
                    remedy="it lost power, another program changed it, or another chip is there",
                    reason="setting",
                )

    def _measure(self) -> Reading | None:
        if self._bus is None:
            self._set_up()
        self._require_settings()
        if not self._has_converted():
            return None
        return Reading(self._measure_bus_v(), self._measure_shunt())

    def _has_converted(self) -> bool:
        # Asked until it is so, and no more: on some chips the reading clears the flag, and two meters may share a chip.
        self._is_ready = self._is_ready or bool(self._read(self.ready.register) & self.ready.mask)
        if not self._is_ready and self._clock.now_ns() - self._set_up_ns > CONVERSION_LIMIT_S * 1e9:
            raise MeterError(self._where, "it finishes no conversion", expected="one within 0.1 s", reason="stalled")
        return self._is_ready

    def _measure_bus_v(self) -> float:
        field = self.bus_field
        data = self._read(field.register, field.size_bytes)
        if data & self.bus_overflow_mask:
            raise MeterError(
                self._where,
                "its arithmetic overflowed",
                expected="a current in its range",
                remedy="fit a smaller shunt",
                reason="range",
            )
        bus_v = field.decode(data) * field.unit
        if bus_v < 0:
            raise MeterError(self._where, f"{bus_v:g} V", expected="a voltage above that of ground", reason="malformed")
        return bus_v

    def _measure_shunt(self) -> float:
        field = self.shunt_field
        count = field.decode(self._read(field.register, field.size_bytes))
        shunt = count * field.unit
        if abs(count) >= field.limit:
            raise MeterError(
                self._where,
                f"{self._current_a(shunt):.4g} A is the most that the sensor can measure",
                expected="less",
                remedy="fit a smaller shunt",
                reason="range",
            )
        if shunt < -self.offset:
            raise MeterError(
                self._where,
                f"{self._current_a(shunt):g} A",
                expected="a power drawn",
                remedy="the shunt is wired backwards, or sits at a battery that is being charged",
                reason="malformed",
            )
        return max(0.0, shunt)

    # --- the bus ------------------------------------------------------------------------------------------------------

    def _read(self, register: int, size_bytes: int = 2) -> int:
        bus = self._require_bus()
        if size_bytes == 2:
            return int.from_bytes(bus.read_word_data(self._address, register).to_bytes(2, "little"), "big")
        return int.from_bytes(bytes(bus.read_i2c_block_data(self._address, register, size_bytes)), "big")

    def _write(self, register: int, value: int) -> None:
        self._require_bus().write_word_data(self._address, register, int.from_bytes(value.to_bytes(2, "big"), "little"))

    def _require_bus(self) -> smbus2.SMBus:
        if self._bus is None:
            raise MeterError(self._where, "is closed", reason="missing")
        return self._bus

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        """After any failure but a reading that is no power, the chip is set up anew."""
        try:
            yield
        except MeterError as error:
            if error.reason not in ("range", "malformed"):
                self._release()
            raise
        # smbus2 hands None to the kernel where another thread has closed it meanwhile.
        except (OSError, TypeError) as error:
            self._release()
            raise self._explain(error) from error

    @property
    def _search(self) -> str:
        return f"i2cdetect -y {self._bus_number}"

    def _explain(self, error: OSError | TypeError) -> MeterError:
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.EBUSY:
            return MeterError(
                self._where,
                "a kernel driver has the chip",
                remedy=("use kind ina2xx, or " if self.kind in CHIPS else "") + f"take its overlay out of {CONFIG_TXT}",
                reason="busy",
            )
        if code in (errno.EACCES, errno.EPERM):
            remedy = self.needs.permission_remedy
            return MeterError(self._where, "may not be used", expected="permission", remedy=remedy, reason="permission")
        if code == errno.ENOENT:
            remedy = f"Raspberry Pi: dtparam=i2c_arm=on in {CONFIG_TXT}, reboot, and look for the chip: {self._search}"
            return MeterError(str(self._device), "there is no such bus", remedy=remedy, reason="missing")
        return MeterError(
            self._where,
            f"nothing answers ({error})",
            expected=f"an {self.kind.upper()}",
            remedy=f"check wires, power and address: {self._search}",
            reason="missing",
        )


class Ina219Meter(InaSmbusMeter):
    """INA219, read over I2C.

    No register says what it is; all that is known is that two bits of its setting are never set.
    """

    kind = "ina219"
    identities = (Identity(0x00, 0x0000, 0xC000),)
    # 32 V, 320 mV, 64 samples of either (34 ms), continuous.
    settings = (Setting(0x00, 0x3F77),)
    ready = Flag(0x02, 0x0002)
    bus_field = Field(0x02, 4e-3, shift=3, is_signed=False)
    bus_overflow_mask = 0x0001
    shunt_field = Field(0x01, 10e-6, largest=32_000)
    offset = 100e-6


class Ina226Meter(InaSmbusMeter):
    """INA226, read over I2C."""

    kind = "ina226"
    identities = (Identity(0xFE, TEXAS_INSTRUMENTS), Identity(0xFF, 0x2260, 0xFFF0))
    # 16 samples of 1.1 ms of either, continuous.
    settings = (Setting(0x00, 0x4527),)
    ready = Flag(0x06, 0x0008)
    bus_field = Field(0x02, 1.25e-3, is_signed=False)
    shunt_field = Field(0x01, 2.5e-6)
    offset = 10e-6


class Ina260Meter(InaSmbusMeter):
    """INA260, read over I2C. Its shunt of 2 milliohms is inside, and its register holds amperes."""

    Options = Ina260Options
    kind = "ina260"
    identities = (Identity(0xFE, TEXAS_INSTRUMENTS), Identity(0xFF, 0x2270, 0xFFF0))
    settings = (Setting(0x00, 0x6527),)
    ready = Flag(0x06, 0x0008)
    bus_field = Field(0x02, 1.25e-3, is_signed=False)
    shunt_field = Field(0x01, 1.25e-3)
    offset = 5e-3


class Ina228Meter(InaSmbusMeter):
    """INA228, read over I2C."""

    kind = "ina228"
    identities = (Identity(0x3E, TEXAS_INSTRUMENTS), Identity(0x3F, 0x2280, 0xFFF0))
    # 163.84 mV; 16 samples of 1.052 ms of either, continuous.
    settings = (Setting(0x00, 0x0000), Setting(0x01, 0xBB6A))
    ready = Flag(0x0B, 0x0002)
    bus_field = Field(0x05, 195.3125e-6, size_bytes=3, shift=4, is_signed=False)
    shunt_field = Field(0x04, 312.5e-9, size_bytes=3, shift=4)
    offset = 1e-6


class Ina3221Meter(InaSmbusMeter):
    """One channel of an INA3221, read over I2C."""

    Options = Ina3221Options
    kind = "ina3221"
    identities = (Identity(0xFE, TEXAS_INSTRUMENTS), Identity(0xFF, 0x3220))
    # All three channels, 4 samples of 1.1 ms of either voltage, continuous: 26 ms for all.
    settings = (Setting(0x00, 0x7327),)
    ready = Flag(0x0F, 0x0001)
    offset = 80e-6

    def __init__(self, options: Ina3221Options, context: MeterContext) -> None:
        self.shunt_field = Field(2 * options.channel - 1, 40e-6, shift=3)
        self.bus_field = Field(2 * options.channel, 8e-3, shift=3)
        super().__init__(options, context)
