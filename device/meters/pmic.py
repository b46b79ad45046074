"""The Raspberry Pi 5's power chip, which measures the voltage and the current of twelve rails.

Their sum is what the processor, its memory and the board's own chips draw. It leaves out what is supplied from 5 V (USB, HATs,
NVMe, a camera's light) and the loss in the regulators, so its scope is ``soc``, never the whole board.

References:
    Raspberry Pi documentation, ``vcgencmd pmic_read_adc``: one line a channel, ``VDD_CORE_A current(7)=1.11000000A`` and
    ``VDD_CORE_V volt(15)=0.72000000V``; some firmware writes ``voltage(``. EXT5V and BATT have a voltage only.
    The correction to the whole board is one person's straight line through one board's readings of a wall meter
    (https://github.com/jfikar/RPi5-power): nothing says that it fits another, so it is an estimate.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Self

from device.core.errors import MeterError
from device.core.plugin import Needs
from device.machine.vcio import PROGRAM_TIMEOUT_S, Firmware, Mailbox, VcgencmdProgram
from device.meters.meter import Meter, MeterContext
from device.meters.slow import SlowMeter
from device.protocols import Clock, PowerOrigin, PowerSample

COMMAND = "pmic_read_adc"

RAILS = frozenset(
    {
        "3V7_WL_SW",
        "3V3_SYS",
        "1V8_SYS",
        "DDR_VDD2",
        "DDR_VDDQ",
        "1V1_SYS",
        "0V8_SW",
        "VDD_CORE",
        "3V3_DAC",
        "3V3_ADC",
        "0V8_AON",
        "HDMI",
    }
)

MAX_POWER_W = 40.0
"""Half more than the board's supply can give (5 A at 5.1 V): such a sum comes from a misread line."""

_LINE = re.compile(r"([A-Z0-9]+(?:_[A-Z0-9]+)*)_(?:A current\(\d+\)=(\d+\.\d+)A|V volt(?:age)?\(\d+\)=(\d+\.\d+)V)", re.ASCII)


class Correction(NamedTuple):
    """From the rails' sum to the whole board: ``factor * sum + offset_w``."""

    factor: float
    offset_w: float


WHOLE_BOARD = Correction(1.1451, 0.5879)


def parse_rails_w(text: str) -> dict[str, float]:
    """Pairs each rail's current with its voltage.

    A sum without one of the rails, or with an unknown one, would be wrong: such a text is refused.

    Args:
        text: what ``pmic_read_adc`` gives.

    Returns:
        Watts of each of the twelve rails.

    Raises:
        MeterError: ``malformed``.
    """
    currents_a: dict[str, float] = {}
    voltages_v: dict[str, float] = {}
    for line in text.split("\n"):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise _malformed(f"{line.strip()[:60]!r}", "a rail's current or voltage")
        rail, current, voltage = match.groups()
        values, value = (voltages_v, voltage) if current is None else (currents_a, current)
        if rail in values:
            raise _malformed(f"{rail} twice", "each rail once")
        values[rail] = float(value)
    strangers = sorted(currents_a.keys() - RAILS)
    if strangers:
        raise _malformed(f"a current of {', '.join(strangers)}", "the twelve rails that are known")
    missing = sorted(RAILS - (currents_a.keys() & voltages_v.keys()))
    if missing:
        raise _malformed(f"no current and voltage of {', '.join(missing)}", "twelve rails")
    return {rail: currents_a[rail] * voltages_v[rail] for rail in RAILS}


def parse_power_w(text: str) -> float:
    """Sums the twelve rails.

    Raises:
        MeterError: ``malformed``; see `parse_rails_w`. Also for a sum that no such board can draw.
    """
    power_w = sum(sorted(parse_rails_w(text).values()))
    if not 0.0 < power_w <= MAX_POWER_W:
        raise _malformed(f"{power_w:g} W together", f"above 0 and at most {MAX_POWER_W:g} W")
    return power_w


class PmicMeter(Meter):
    """The sum of the rails, asked of the firmware in-process.

    Args:
        firmware: takes the command.
        clock: stamps the samples.

    Raises:
        MeterError: ``missing`` on any board but a Pi 5, ``permission`` outside the group video, ``malformed``.
    """

    needs = Needs(devices=("/dev/vcio_gencmd", "/dev/vcio"), groups=("video",))
    is_findable = True
    origin = PowerOrigin(source="pmic (mailbox)", scope="soc", is_estimate=False)
    # ``resolution_w`` stays None: the chip's converter is documented nowhere, and the firmware prints eight digits of anything.
    _correction = Correction(1.0, 0.0)

    def __init__(self, firmware: Firmware, clock: Clock) -> None:
        self._firmware = firmware
        self._clock = clock
        self.read()

    @classmethod
    def open(cls, _options: Any, context: MeterContext) -> Self:
        """Asks the firmware's mailbox once."""
        return cls(Mailbox(context.root), context.clock)

    def read(self) -> PowerSample:
        """Reads the rails now. See `PowerMeter.read`."""
        rails_w = parse_power_w(self._firmware.gencmd(COMMAND))
        power_w = self._correction.factor * rails_w + self._correction.offset_w
        return PowerSample(timestamp_ns=self._clock.now_ns(), power_w=power_w)


class VcgencmdPmicMeter(SlowMeter):
    """The sum of the rails, by a ``vcgencmd`` spawned each second: slow, and itself a load on the board.

    Args:
        firmware: takes the command.
        clock: stamps the samples.

    Raises:
        MeterError: see `PmicMeter`.
    """

    needs = Needs(devices=("/dev/vcio_gencmd", "/dev/vcio", "/dev/vchiq"), groups=("video",))
    origin = PowerOrigin(source="pmic (vcgencmd)", scope="soc", is_estimate=False)
    period_s = 1.0
    timeout_s = PROGRAM_TIMEOUT_S

    def __init__(self, firmware: Firmware, clock: Clock) -> None:
        self._firmware = firmware
        super().__init__(clock)

    @classmethod
    def open(cls, _options: Any, context: MeterContext) -> Self:
        """Spawns ``vcgencmd`` once."""
        return cls(VcgencmdProgram(context.root), context.clock)

    def _measure_w(self) -> float:
        return parse_power_w(self._firmware.gencmd(COMMAND))


class CorrectedPmicMeter(PmicMeter):
    """The whole board, guessed from the sum of the rails by a third party's straight line. Always an estimate."""

    is_findable = False
    origin = PowerOrigin(source="pmic corrected (mailbox, third-party line)", scope="board", is_estimate=True)
    _correction = WHOLE_BOARD


def _malformed(found: str, expected: str) -> MeterError:
    return MeterError(
        COMMAND, found, expected=expected, remedy="update the firmware: sudo rpi-eeprom-update", reason="malformed"
    )
