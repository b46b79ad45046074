"""USB meters: what they send, and what becomes of it when they are pulled."""

from __future__ import annotations

import importlib
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from device.contract import MeterConfig
from device.core.clock import ManualClock, SystemClock
from device.core.errors import MeterError, MissingDependencyError
from device.meters import select
from device.meters.meter import MeterContext
from tests.unit.usb_meter import FakeDevice, UsbPort, make_packet

CONFIG: MeterConfig = {"kind": "fnirsi"}


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> UsbPort:
    port = UsbPort()
    monkeypatch.setitem(sys.modules, "usb_multimeter", port.library())
    return port


def open_meter(config: MeterConfig = CONFIG, clock: Any = None) -> Any:
    return select.open_meter(config, MeterContext(clock=clock or ManualClock()))


def test_what_came_since_the_last_read_is_told_as_its_mean_and_once(port: UsbPort) -> None:
    clock = ManualClock()
    with open_meter(clock=clock) as meter:
        assert meter.origin.source == "fnirsi FNB58"
        assert meter.read() is None
        port.send(2.0, 3.0, 4.0, 5.0)
        clock.advance(0.05)
        port.send(6.0, 7.0, 8.0, 9.0)
        arrived_ns = clock.now_ns()
        clock.advance(0.02)
        sample = meter.read()
        assert sample.power_w == pytest.approx(5.5)
        assert sample.timestamp_ns == arrived_ns
        assert meter.read() is None


def test_a_meter_that_falls_silent_is_opened_anew(port: UsbPort) -> None:
    clock = ManualClock()
    with open_meter(clock=clock) as meter:
        port.send(4.0)
        meter.read()
        clock.advance(1.1)
        with pytest.raises(MeterError, match="sends nothing") as caught:
            meter.read()
        assert caught.value.reason == "stalled"
        assert meter.read() is None
        port.send(6.0)
        assert meter.read().power_w == pytest.approx(6.0)


def test_a_meter_that_is_pulled_is_an_error_and_one_that_comes_back_is_read(port: UsbPort) -> None:
    with open_meter() as meter:
        assert port.running.wait(30.0)
        devices, port.devices = port.devices, []
        port.pulled.set()
        for _ in range(3000):
            try:
                meter.read()
            except MeterError as error:
                assert "No such device" in str(error)  # noqa: PT017
                break
            time.sleep(0.01)
        else:
            pytest.fail("no error for a meter that was pulled")
        with pytest.raises(MeterError, match="no meter") as caught:
            meter.read()
        assert caught.value.reason == "missing"
        port.pulled.clear()
        port.devices = devices
        assert meter.read() is None
        port.send(3.0)
        assert meter.read().power_w == pytest.approx(3.0)


def test_two_meters_are_told_apart_by_their_serial_numbers(port: UsbPort) -> None:
    port.devices = [FakeDevice("0001A0000000"), FakeDevice("0002B0000000", "C1")]
    with pytest.raises(MeterError, match="several: 0001A0000000, 0002B0000000") as caught:
        open_meter()
    assert caught.value.reason == "ambiguous"
    with open_meter({"kind": "fnirsi", "address": "0002B0000000"}) as meter:
        assert meter.origin.source == "fnirsi C1"
    with pytest.raises(MeterError, match="no meter with the serial number 3"):
        open_meter({"kind": "fnirsi", "address": "3"})


def test_another_meter_does_not_stand_in_for_the_one_that_was_pulled(port: UsbPort) -> None:
    clock = ManualClock()
    with open_meter(clock=clock) as meter:
        first, port.devices = port.devices, [FakeDevice("0002B0000000", "C1")]
        clock.advance(1.1)
        with pytest.raises(MeterError, match="sends nothing"):
            meter.read()
        with pytest.raises(MeterError, match="no meter with the serial number 0001A0000000") as caught:
            meter.read()
        assert caught.value.reason == "missing"
        port.devices += first
        assert meter.read() is None
        port.send(3.0)
        assert meter.read().power_w == pytest.approx(3.0)


def test_a_meter_that_may_not_be_used_says_what_to_do(port: UsbPort) -> None:
    port.devices[0].refuses = True
    with pytest.raises(MeterError, match="udev rule") as caught:
        open_meter()
    assert caught.value.reason == "permission"


def test_a_power_that_usb_can_not_carry_is_malformed(port: UsbPort) -> None:
    with open_meter() as meter:
        port.send(301.0)
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert caught.value.reason == "malformed"


def test_a_closed_meter_stays_closed(port: UsbPort) -> None:
    before = set(threading.enumerate())
    meter = open_meter()
    assert set(threading.enumerate()) - before
    meter.close()
    with pytest.raises(MeterError, match="is closed"):
        meter.read()
    assert not set(threading.enumerate()) - before


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usb_multimeter", None)
    with pytest.raises(MissingDependencyError, match=r"ghostwatt\[fnirsi\]"):
        open_meter()


# --- the library itself, on a device without USB ----------------------------------------------------------------------


def _descriptor(**values: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(bLength=9, bDescriptorType=4, extra_descriptors=b"", **values)


def _make_backend(watts: list[float], sent: list[bytes]) -> Any:
    """What libusb would give for one FNB58 that sends ``watts``, again and again."""
    backend_module = importlib.import_module("usb.backend")
    crc = importlib.import_module("crc")
    checksum = crc.Calculator(crc.Configuration(8, 0x39, 0x42, 0x00, False, False), optimized=True).checksum

    class Backend(backend_module.IBackend):  # type: ignore[misc, name-defined]
        def enumerate_devices(self) -> Iterator[int]:
            yield 1

        def get_device_descriptor(self, dev: int) -> object:
            keys = ("bDeviceClass", "bDeviceSubClass", "bDeviceProtocol", "iManufacturer", "iProduct", "iSerialNumber")
            ids = {
                "bMaxPacketSize0": 64,
                "idVendor": 0x2E3C,
                "idProduct": 0x5558,
                "bNumConfigurations": 1,
                "bus": 1,
                "address": 30,
            }
            more = {"port_number": 1, "speed": 2, "bcdUSB": 0x200, "bcdDevice": 0x100}
            return types.SimpleNamespace(**vars(_descriptor(**dict.fromkeys(keys, 0), **ids, **more)), port_numbers=(1,))

        def get_configuration_descriptor(self, dev: int, config: int) -> object:
            if config:
                raise IndexError
            return _descriptor(
                wTotalLength=41, bNumInterfaces=1, bConfigurationValue=1, iConfiguration=0, bmAttributes=0x80, bMaxPower=50
            )

        def get_interface_descriptor(self, dev: int, intf: int, alt: int, config: int) -> object:
            if intf or alt:
                raise IndexError
            keys = ("bInterfaceNumber", "bAlternateSetting", "bInterfaceSubClass", "bInterfaceProtocol", "iInterface")
            return _descriptor(bInterfaceClass=3, bNumEndpoints=2, **dict.fromkeys(keys, 0))

        def get_endpoint_descriptor(self, dev: int, ep: int, intf: int, alt: int, config: int) -> object:
            return _descriptor(
                bEndpointAddress=(0x81, 0x01)[ep], bmAttributes=3, wMaxPacketSize=64, bInterval=1, bRefresh=0, bSynchAddress=0
            )

        def open_device(self, dev: int) -> int:
            return dev

        def get_configuration(self, dev_handle: int) -> int:
            return 1

        def is_kernel_driver_active(self, dev_handle: int, intf: int) -> bool:
            return True

        def intr_write(self, dev_handle: int, ep: int, intf: int, data: Any, timeout: int) -> int:
            sent.append(bytes(data))
            return len(data)

        def intr_read(self, dev_handle: int, ep: int, intf: int, buff: Any, timeout: int) -> int:
            time.sleep(0.002)
            packet = make_packet(watts, checksum)
            buff[:] = type(buff)("B", packet)
            return len(packet)

        def _ignore(self, *_: object) -> None:
            pass

        close_device = claim_interface = release_interface = reset_device = detach_kernel_driver = set_configuration = _ignore

    return Backend()


@pytest.mark.python312
def test_the_library_itself_decodes_what_a_meter_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usb_multimeter", reason="needs usb-multimeter: pip install 'ghostwatt[fnirsi]'", exc_type=ImportError)
    sent: list[bytes] = []
    libusb = importlib.import_module("usb.backend.libusb1")
    backend = _make_backend([2.0, 3.0, 4.0, 5.0], sent)
    monkeypatch.setattr(libusb, "get_backend", lambda *_, **__: backend)
    with open_meter(clock=SystemClock()) as meter:
        assert meter.origin.source == "fnirsi FNB58"
        for _ in range(3000):
            if sample := meter.read():
                break
            time.sleep(0.01)
        assert sample.power_w == pytest.approx(3.5)
    assert {packet[1] for packet in sent} >= {0x81, 0x82}
