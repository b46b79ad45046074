"""Power and heat: what a meter, a sampler and a thermometer give."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from device.contract.profile import Scope
from device.protocols.base import Closeable


class PowerOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a figure of power comes from. It stays beside the figure all the way from the meter to the plot.

    Attributes:
        source: what gives the figure (``ina219 (hwmon)``, ``rapl``).
        scope: what the figure covers.
        is_estimate: True where a model, not a sensor, gives the figure.
    """

    source: str
    scope: Scope
    is_estimate: bool

    @property
    def origin(self) -> PowerOrigin:
        """The origin alone, of a figure too."""
        return PowerOrigin(source=self.source, scope=self.scope, is_estimate=self.is_estimate)

    @property
    def kind(self) -> Literal["measured", "ESTIMATE"]:
        """The word for ``is_estimate`` wherever a person reads the figure; an estimate catches the eye."""
        return "ESTIMATE" if self.is_estimate else "measured"


class PowerSample(msgspec.Struct, frozen=True):
    """Power at one moment, or its mean since the previous sample where the meter counts energy.

    Attributes:
        timestamp_ns: monotonic.
        power_w: watts, positive when consumed.
        energy_j: energy since the previous sample, where the meter counts it itself; None: integrate ``power_w``.
        period_s: time between the meter's own readings, where that is longer than between `PowerMeter.read`s: samples so far
            apart still follow each other. 0 where each read gives something new.
    """

    timestamp_ns: int
    power_w: float
    energy_j: float | None = None
    period_s: float = 0.0


class PowerMeter(Closeable, Protocol):
    """Reads power. It is open from the start, and read from one thread at a time; `device.meters.meter.Meter` is the base."""

    @property
    def origin(self) -> PowerOrigin:
        """Where its figures come from; the same as long as it is open."""

    @property
    def timeout_s(self) -> float:
        """How long one `read` may take before the meter gives up by itself; 0 for a sensor on the board."""

    @property
    def resolution_w(self) -> float | None:
        """Least step between two of its figures, in watts; no figure is better than that, and most are worse.

        It holds for the present settings, and where it depends on the voltage or on the time between two reads, for the latest
        reading. None where nobody can tell.
        """

    def read(self) -> PowerSample | None:
        """Reads once.

        A sensor on the board answers within milliseconds. One that is asked over a network or through a program may take
        ``timeout_s``: give each meter a thread of its own, as `PowerSampler` does.

        Returns:
            The sample, or None where there is nothing new: a counter was read for the first time, or a slow meter isn't due.

        Raises:
            MeterError: the sensor is gone, or its answer is no power. The next `read` may succeed.
        """


class PowerFigure(PowerOrigin, frozen=True, kw_only=True):
    """Power over a span of time.

    Attributes:
        power_w: mean over the part of the span that the meter covered.
        energy_j: over that part.
        covered_s: length of that part; shorter than the span where the meter had gaps.
    """

    power_w: float
    energy_j: float
    covered_s: float


class MeterTotal(PowerOrigin, frozen=True, kw_only=True):
    """What one meter gave since the start of a run. What it could not give is None, never 0.

    Attributes:
        resolution_w: see `PowerMeter`.
        power_w: mean over ``covered_s``.
        energy_j: over ``covered_s``.
        covered_s: see `PowerFigure`; 0 where it gave no figure.
        sample_rate_hz: reached over ``covered_s``.
        samples: that it gave.
        failed: reads that failed.
        error: of the latest read that failed, in one line; it stays when the meter comes back. A meter that hangs says so.
    """

    resolution_w: float | None
    power_w: float | None
    energy_j: float | None
    covered_s: float
    sample_rate_hz: float | None
    samples: int
    failed: int
    error: str | None


class PowerReader(Protocol):
    """Samples meters all the time, and sums up."""

    def take(self) -> PowerFigure | None:
        """The headline meter's figure since the last call; None where it gave no sample."""

    def total(self) -> PowerFigure | None:
        """The headline meter's figure since the start; None where it gave no sample."""

    def figures(self) -> tuple[MeterTotal, ...]:
        """What every meter has seen since the start, the headline's first."""

    def error(self) -> str | None:
        """Why the headline meter gives nothing now; None where it does."""

    @property
    def overhead_cpu_s(self) -> float:
        """Processor time that reading the meters has taken."""


ThrottleFlag = Literal["under_voltage", "frequency_capped", "throttled", "soft_temperature_limit"]


class ThermalSample(msgspec.Struct, frozen=True):
    """Heat and speed of the processor; None where the board has no such sensor.

    Attributes:
        temperature_c: of the hottest zone that belongs to the processor.
        frequency_hz: of the fastest core.
        throttled: flags that hold now; None where the board can't tell ("unsupported", which isn't "ok").
        throttled_since_start: flags that held at any time since the reader was made; None where the board never could tell.
        unsupported: flags that the board can't tell, now or ever: their absence above says nothing.
        governor: of cpufreq; several, joined by commas, where cores differ.
    """

    temperature_c: float | None
    frequency_hz: float | None
    throttled: tuple[ThrottleFlag, ...] | None
    throttled_since_start: tuple[ThrottleFlag, ...] | None = None
    unsupported: tuple[ThrottleFlag, ...] = ()
    governor: str | None = None


class Thermals(Protocol):
    """Reads heat and speed. Never raises: what can't be read is None."""

    def read(self) -> ThermalSample:
        """Reads once."""
