"""A USB meter: the library ``usb_multimeter`` without its device, and, for where the library itself is, the device without USB.

The library needs a newer Python than the oldest that we run on: with that one, its part is played by `library`.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Measurement(NamedTuple):
    """The library's ``ElectricalMeasurement``, as far as we use it."""

    voltage: float
    current: float


class FakeDevice:
    """The library's ``Device``."""

    def __init__(self, serial_number: str = "0001A0000000", model: str = "FNB58") -> None:
        self.serial_number = serial_number
        self.device_info = types.SimpleNamespace(model=types.SimpleNamespace(name=model))
        self.refuses = False

    def access_check(self) -> None:
        if self.refuses:
            raise PermissionError("/dev/bus/usb/001/030 [Errno 13] Access denied")


class UsbPort:
    """Where meters are plugged in.

    Args:
        path: a folder that stands for the cable: while it is away nothing is plugged in. None: always plugged in.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.devices = [FakeDevice()]
        self.path = path
        self.running = threading.Event()
        self.logger: Any = None
        self.pulled = threading.Event()
        self.openings = 0

    def find_devices(self) -> Iterator[FakeDevice]:
        if self.path is None or self.path.exists():
            yield from self.devices

    def send(self, *watts: float) -> None:
        """One packet, at 5 V."""
        assert self.running.wait(30.0)
        self.logger.log([Measurement(5.0, power_w / 5.0) for power_w in watts])

    def library(self) -> types.ModuleType:
        """The module ``usb_multimeter`` that finds what is plugged in here."""
        port = self
        module: Any = types.ModuleType("usb_multimeter")

        class USBMeter:
            class Config(NamedTuple):
                device: FakeDevice
                stop_provider: Any
                use_crc: bool

            def __init__(self, config: USBMeter.Config) -> None:
                self.config = config

            def setup_device(self) -> None:
                port.openings += 1
                port.running.clear()

            def run(self, data_logger: Any) -> None:
                port.logger = data_logger
                port.running.set()
                while not self.config.stop_provider.should_stop():
                    if port.pulled.wait(0.01):
                        raise OSError("[Errno 19] No such device (it may have been disconnected)")

        module.DataLogger = type("DataLogger", (), {})
        module.StopProvider = type("StopProvider", (), {})
        module.ElectricalMeasurement = Measurement
        module.Device = FakeDevice
        module.USBMeter = USBMeter
        module.all_devices = self.find_devices
        return module  # type: ignore[no-any-return]


def make_packet(watts: list[float], checksum: Callable[[bytes], int]) -> bytes:
    """What an FNB58 sends: four readings, in units of 10 microvolts and 10 microamperes, and a checksum."""
    body = bytearray(b"\x04")
    for power_w in watts:
        body += round(5.0 * 1e5).to_bytes(4, "little") + round(power_w / 5.0 * 1e5).to_bytes(4, "little")
        body += bytes(5) + (285).to_bytes(2, "little")
    body += b"\x00"
    return b"\xaa" + bytes(body) + bytes([checksum(bytes(body))])
