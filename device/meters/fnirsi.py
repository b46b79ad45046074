"""FNIRSI's USB meters (FNB48, FNB48S, FNB58, C1), put between the supply and the board, through their library.

The meter sends 100 readings a second, four at a time, and does not wait to be asked: a thread takes them.

References:
    usb-multimeter (https://pypi.org/project/usb-multimeter/): ``USBMeter.run`` hands ``ElectricalMeasurement`` with volts and
    amperes to a ``DataLogger``, until a ``StopProvider`` ends it. It comes of the work on
    https://github.com/baryluk/fnirsi-usb-power-data-logger, and needs Python 3.12.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from statistics import fmean
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from device.core.errors import MeterError
from device.core.plugin import Needs, import_package
from device.meters.meter import Meter, MeterContext, MeterOptions, ScopeOption
from device.protocols import Clock, PowerOrigin, PowerSample

if TYPE_CHECKING:
    from usb_multimeter import Device, ElectricalMeasurement

STALL_S = 1.0
"""Silence after which the meter is opened anew: it sends 25 packets a second."""

MAX_POWER_W = 300.0
"""More than USB can carry, at 48 V and 5 A."""

CURRENT_STEP_A = 10e-6
"""In which every model sends amperes."""

_WHERE = "fnirsi"

UDEV_RULE = (
    'SUBSYSTEM=="usb", ATTR{idVendor}=="0483|2e3c", ATTR{idProduct}=="003a|003b|0049|5558", GROUP="plugdev", MODE="0660"'
)
"""Gives the four models to the group plugdev, which the service's user is in where it exists."""

_PERMISSION_REMEDY = (
    f"put the udev rule {UDEV_RULE} into /etc/udev/rules.d/90-fnirsi.rules, plug the meter in again, and join the group: "
    "sudo usermod -aG plugdev $USER"
)


class FnirsiOptions(MeterOptions, frozen=True, kw_only=True):
    """What a profile may say about a USB meter."""

    scope: ScopeOption = "board"
    address: (
        Annotated[
            str,
            Meta(min_length=1, max_length=256, description="the meter's serial number, needed only where there are several"),
        ]
        | None
    ) = None


class FnirsiMeter(Meter):
    """FNIRSI's USB meters FNB48, FNB48S, FNB58 and C1.

    A read gives the mean of what the meter sent since the last one. Opened anew, it is the same meter or none.

    Args:
        options: which meter.
        context: see `MeterContext`.

    Raises:
        MeterError: ``missing`` without a meter, ``ambiguous`` with several, ``permission``.
        MissingDependencyError: usb-multimeter isn't installed.
    """

    Options = FnirsiOptions
    needs = Needs(
        extra="fnirsi",
        install="pip install 'ghostwatt[fnirsi]', with Python 3.12 or later",
        devices=("char-usb_device",),
        groups=("plugdev",),
    )

    def __init__(self, options: FnirsiOptions, context: MeterContext) -> None:
        self._library = import_package("usb_multimeter", self.needs, "meter fnirsi")
        self._serial = options.address
        self._clock = context.clock
        self._stream: _Stream | None = None
        self._is_closed = False
        device = self._find_device()
        self.origin = PowerOrigin(source=f"fnirsi {device.device_info.model.name}", scope=options.scope, is_estimate=False)
        self._stream = self._start(device)

    def close(self) -> None:
        """Ends the stream."""
        self._is_closed = True
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()

    def read(self) -> PowerSample | None:
        """Takes what came since the last read. See `PowerMeter.read`."""
        if self._is_closed:
            raise MeterError(_WHERE, "is closed", reason="missing")
        stream, self._stream = self._stream or self._start(self._find_device()), None
        try:
            sample = stream.take(self._clock.now_ns())
        except MeterError:
            stream.stop()
            raise
        self._stream = stream
        # Of one reading; the mean of several is finer.
        self.resolution_w = CURRENT_STEP_A * stream.voltage_v if stream.voltage_v else None
        return sample

    def _find_device(self) -> Device:
        try:
            plugged = [(device.serial_number, device) for device in self._library.all_devices()]
        except Exception as error:  # pyusb's errors, and ValueError where libusb isn't there or may not be used.
            remedy = f"sudo apt install libusb-1.0-0; {_PERMISSION_REMEDY}"
            raise MeterError(_WHERE, str(error) or type(error).__name__, remedy=remedy, reason="permission") from error
        devices = [(serial, device) for serial, device in plugged if self._serial in (None, serial)]
        if not devices:
            found = "no meter" if self._serial is None else f"no meter with the serial number {self._serial}"
            raise MeterError(
                _WHERE, found, expected="FNB48, FNB48S, FNB58 or C1", remedy="plug in its PC port", reason="missing"
            )
        if len(devices) > 1:
            serials = ", ".join(str(serial) for serial, _ in devices)
            raise MeterError(
                _WHERE, f"several: {serials}", expected="one", remedy="give its serial number as address", reason="ambiguous"
            )
        # From now on only this one: another would give its figures under this one's name.
        self._serial, device = devices[0]
        return device

    def _start(self, device: Device) -> _Stream:
        try:
            device.access_check()
            return _Stream(self._library, device, self._clock)
        except PermissionError as error:
            raise MeterError(_WHERE, "may not be used", remedy=_PERMISSION_REMEDY, reason="permission") from error
        except Exception as error:  # pyusb's errors, and RuntimeError of the library.
            raise MeterError(_WHERE, str(error) or type(error).__name__, reason="missing") from error


class _Stream:
    """A meter that sends, and the thread that takes.

    The library's ``DataLogger`` and ``StopProvider`` are what it calls back: `log` and `should_stop`.
    """

    def __init__(self, library: ModuleType, device: Device, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.voltage_v: float | None = None
        self._powers_w: list[float] = []
        self._arrived_ns = clock.now_ns()
        self._failure: str | None = None
        self._is_stopping = False
        self._meter = library.USBMeter(library.USBMeter.Config(device=device, stop_provider=self, use_crc=True))
        self._meter.setup_device()
        self._thread = threading.Thread(target=self._run, name="fnirsi", daemon=True)
        self._thread.start()

    def should_stop(self) -> bool:
        """Asked by the library after each packet."""
        return self._is_stopping

    def log(self, data: Sequence[ElectricalMeasurement]) -> None:
        """Given by the library: the readings of a packet."""
        powers_w = [measurement.voltage * measurement.current for measurement in data]
        now_ns = self._clock.now_ns()
        with self._lock:
            self._powers_w += powers_w
            self.voltage_v = data[-1].voltage if data else self.voltage_v
            self._arrived_ns = now_ns

    def stop(self) -> None:
        """Ends the thread after the next packet, or when the library's wait for one ends."""
        self._is_stopping = True
        if self._thread is not threading.current_thread():
            self._thread.join(0.2)

    def take(self, now_ns: int) -> PowerSample | None:
        """The mean of what came since the last time; None where nothing did."""
        with self._lock:
            powers_w, self._powers_w = self._powers_w, []
            arrived_ns, failure = self._arrived_ns, self._failure
        if powers_w:
            power_w = fmean(powers_w)
            if not 0.0 <= power_w <= MAX_POWER_W:
                raise MeterError(_WHERE, f"{power_w:g} W", expected=f"0 to {MAX_POWER_W:g} W", reason="malformed")
            return PowerSample(timestamp_ns=arrived_ns, power_w=power_w)
        if failure is not None:
            raise MeterError(_WHERE, failure, expected="a meter that sends", reason="missing")
        if now_ns - arrived_ns > STALL_S * 1e9:
            raise MeterError(_WHERE, f"sends nothing for {STALL_S:g} s", expected="25 packets a second", reason="stalled")
        return None

    def _run(self) -> None:
        try:
            self._meter.run(self)
        except Exception as error:  # pyusb's errors: the meter was pulled, or sends no more.
            failure = " ".join(str(error).split()) or type(error).__name__
        else:
            failure = "its stream ended"
        with self._lock:
            self._failure = failure
