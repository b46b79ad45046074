"""Joulescope's energy analyzer JS220, put between the supply and the board, through its driver.

The instrument itself counts energy from a million readings a second, and sends its counters several times a second: nothing is
lost between two reads, however short a peak is.

References:
    pyjoulescope-driver (https://pypi.org/project/pyjoulescope-driver/), its command ``statistics``: publishing
    ``s/i/range/mode``, ``s/stats/scnt`` (samples, of 1 MHz, that one message covers) and ``s/stats/ctrl``; a message on
    ``s/stats/value`` has its sample numbers, their frequency, and the accumulated energy in joules.
    Version 2.2 is the last for Python 3.11; the calls used here are those that it shares with 2.5.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from device.core.errors import MeterError
from device.core.plugin import Needs, import_package
from device.meters.meter import Meter, MeterContext, MeterOptions, ScopeOption
from device.protocols import Clock, PowerOrigin, PowerSample

RATE_HZ = 20
"""Messages a second: two for each read at the usual 10 Hz."""

SAMPLE_RATE_HZ = 1_000_000
STALL_S = 1.0
"""Silence after which the instrument is opened anew."""

MAX_POWER_W = 150.0
"""More than the instrument carries: 15 V and 10 A."""

OFFSET_W = 0.01
"""What it may show where nothing flows, either way."""

CALL_TIMEOUT_S = 1.0
OPEN_TIMEOUT_S = 3.0

_MODEL = "js220"
_WHERE = "joulescope"
_UDEV_REMEDY = "plug it in, install the driver's udev rules (99-joulescope.rules on its page), and join the group plugdev"


class JoulescopeOptions(MeterOptions, frozen=True, kw_only=True):
    """What a profile may say about a Joulescope."""

    scope: ScopeOption = "board"
    address: (
        Annotated[
            str,
            Meta(min_length=1, max_length=256, description="the serial number, in quotes; needed only where there are several"),
        ]
        | None
    ) = None


class _Count(NamedTuple):
    """The instrument's counters, and when they arrived."""

    energy_j: float
    end: int
    frequency_hz: float
    arrived_ns: int


class JoulescopeMeter(Meter):
    """Joulescope's JS220, by its own energy counter.

    Opened anew after it fell silent, it is the same instrument or none.

    Args:
        options: which instrument.
        context: see `MeterContext`.

    Raises:
        MeterError: ``missing`` without an instrument, ``ambiguous`` with several.
        MissingDependencyError: pyjoulescope-driver isn't installed.
    """

    Options = JoulescopeOptions
    needs = Needs(extra="joulescope", devices=("char-usb_device",), groups=("plugdev",))
    timeout_s = OPEN_TIMEOUT_S + 4 * CALL_TIMEOUT_S
    # ``resolution_w`` stays None: it depends on the range that the instrument chooses by itself, and isn't sent.

    def __init__(self, options: JoulescopeOptions, context: MeterContext) -> None:
        library = import_package("pyjoulescope_driver", self.needs, "meter joulescope")
        self._serial = options.address
        self._clock = context.clock
        self._last: _Count | None = None
        self._stream: _Statistics | None = None
        self._driver: Any = None
        try:
            self._driver = library.Driver()
            self._stream = self._start()
        except MeterError:
            self.close()
            raise
        except Exception as error:  # The driver's own errors.
            self.close()
            raise _failure(error) from error
        self.origin = PowerOrigin(source=f"joulescope {self._stream.path}", scope=options.scope, is_estimate=False)

    def close(self) -> None:
        """Ends the stream, and the driver's threads."""
        driver, self._driver, self._stream = self._driver, None, None
        if driver is not None:
            with contextlib.suppress(Exception):
                driver.finalize()

    def read(self) -> PowerSample | None:
        """The energy counted since the last read. See `PowerMeter.read`; None too where no message came since."""
        if self._driver is None:
            raise MeterError(_WHERE, "is closed", reason="missing")
        if self._stream is None:
            self._last = None
            self._stream = self._start()
        try:
            count = self._stream.take(self._clock.now_ns())
        except MeterError:
            self._stop()
            raise
        last, self._last = self._last, count or self._last
        if count is None or last is None or count.end <= last.end:
            return None
        energy_j = count.energy_j - last.energy_j
        power_w = energy_j / ((count.end - last.end) / count.frequency_hz)
        if not -OFFSET_W <= power_w <= MAX_POWER_W:
            found = f"{power_w:g} W"
            remedy = "swap IN and OUT: the current flows backwards" if power_w < 0 else ""
            raise MeterError(_WHERE, found, expected=f"0 to {MAX_POWER_W:g} W", remedy=remedy, reason="malformed")
        return PowerSample(timestamp_ns=count.arrived_ns, power_w=max(0.0, power_w), energy_j=max(0.0, energy_j))

    def _start(self) -> _Statistics:
        try:
            path = self._find()
            return _Statistics(self._driver, path, self._clock)
        except MeterError:
            raise
        except Exception as error:  # The driver's own errors: TimeoutError, RuntimeError, ValueError.
            raise _failure(error) from error

    def _stop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()

    def _find(self) -> str:
        """Its path in the driver: ``u/js220/000415``."""
        paths = [path for path in self._driver.device_paths(timeout=CALL_TIMEOUT_S) if path.split("/")[1] == _MODEL]
        chosen = {path.rpartition("/")[2]: path for path in paths if self._serial in (None, path.rpartition("/")[2])}
        if not chosen:
            found = "no JS220" if self._serial is None else f"no JS220 with the serial number {self._serial}"
            raise MeterError(_WHERE, found, expected="one that this user may open", remedy=_UDEV_REMEDY, reason="missing")
        if len(chosen) > 1:
            serials = ", ".join(sorted(chosen))
            raise MeterError(
                _WHERE, f"several: {serials}", expected="one", remedy="give its serial number as address", reason="ambiguous"
            )
        # From now on only this one: another would give its figures under this one's name.
        ((self._serial, path),) = chosen.items()
        return str(path)


class _Statistics:
    """An open instrument that sends its counters."""

    def __init__(self, driver: Any, path: str, clock: Clock) -> None:
        self.path = path
        self._driver = driver
        self._clock = clock
        self._lock = threading.Lock()
        self._count: _Count | None = None
        self._arrived_ns = clock.now_ns()
        self._failure: str | None = None
        # The driver must be given the same object to unsubscribe, and a bound method is a new one each time.
        self._callback = self._receive
        driver.open(path, timeout=OPEN_TIMEOUT_S)
        settings = {"s/i/range/mode": "auto", "s/stats/scnt": SAMPLE_RATE_HZ // RATE_HZ, "s/stats/ctrl": 1}
        for topic, value in settings.items():
            driver.publish(f"{path}/{topic}", value, timeout=CALL_TIMEOUT_S)
        driver.subscribe(f"{path}/s/stats/value", "pub", self._callback, timeout=CALL_TIMEOUT_S)

    def stop(self) -> None:
        """Closes the instrument; one that is gone may refuse."""
        with contextlib.suppress(Exception):
            self._driver.unsubscribe(f"{self.path}/s/stats/value", self._callback, timeout=CALL_TIMEOUT_S)
        with contextlib.suppress(Exception):
            self._driver.close(self.path, timeout=CALL_TIMEOUT_S)

    def take(self, now_ns: int) -> _Count | None:
        """The latest counters; None where they were taken already."""
        with self._lock:
            count, self._count = self._count, None
            arrived_ns, failure = self._arrived_ns, self._failure
        if failure is not None:
            raise MeterError(_WHERE, failure, expected="statistics with samples and accumulated energy", reason="malformed")
        if count is None and now_ns - arrived_ns > STALL_S * 1e9:
            raise MeterError(
                _WHERE, f"sends nothing for {STALL_S:g} s", expected=f"{RATE_HZ} messages a second", reason="stalled"
            )
        return count

    def _receive(self, _topic: str, value: Any) -> None:
        """Called by a thread of the driver's, which an exception would only print."""
        arrived_ns = self._clock.now_ns()
        try:
            time = value["time"]
            end, frequency_hz = int(time["samples"]["value"][1]), float(time["sample_freq"]["value"])
            count = _Count(float(value["accumulators"]["energy"]["value"]), end, frequency_hz, arrived_ns)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            with self._lock:
                self._failure = f"a message that can't be read ({error!r})"
            return
        with self._lock:
            self._count, self._arrived_ns = count, arrived_ns


def _failure(error: Exception) -> MeterError:
    found = " ".join(str(error).split()) or type(error).__name__
    return MeterError(_WHERE, found, remedy=_UDEV_REMEDY, reason="missing")
