"""Joulescope's JS220: what its counters give, and what becomes of it when it is pulled."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from device.contract import MeterConfig
from device.core.clock import ManualClock
from device.core.errors import MeterError, MissingDependencyError
from device.meters import select
from device.meters.joulescope import JoulescopeMeter
from device.meters.meter import MeterContext
from device.meters.sampler import PowerSampler
from tests.unit.joulescope_driver import FakeInstrument

CONFIG: MeterConfig = {"kind": "joulescope"}
PATH = "u/js220/000415"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=1_000_000_000)


@pytest.fixture
def instrument(monkeypatch: pytest.MonkeyPatch) -> FakeInstrument:
    instrument = FakeInstrument()
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", instrument.library())
    return instrument


def open_meter(clock: ManualClock, **keys: Any) -> JoulescopeMeter:
    meter = select.open_meter({**CONFIG, **keys}, MeterContext(clock=clock))
    assert isinstance(meter, JoulescopeMeter)
    return meter


def test_the_instrument_counts_energy_twenty_times_a_second(instrument: FakeInstrument, clock: ManualClock) -> None:
    with open_meter(clock) as meter:
        assert meter.origin.source == f"joulescope {PATH}"
        settings = {"s/i/range/mode": "auto", "s/stats/scnt": 50_000, "s/stats/ctrl": 1}
        assert instrument.published == {f"{PATH}/{topic}": value for topic, value in settings.items()}
        assert meter.read() is None
        # A short peak, between two reads.
        for power_w, duration_s in ((2.0, 0.05), (20.0, 0.05)):
            clock.advance(duration_s)
            instrument.send(power_w, duration_s)
        arrived_ns = clock.now_ns()
        clock.advance(0.01)
        sample = meter.read()
        assert sample is not None
        assert sample.power_w == pytest.approx(11.0)
        assert sample.energy_j == pytest.approx(1.1)
        assert sample.timestamp_ns == arrived_ns
        assert meter.read() is None
    assert instrument.calls == [f"open {PATH}", "finalize"]


def test_the_sampler_takes_its_energy_as_it_is(instrument: FakeInstrument, clock: ManualClock) -> None:
    with open_meter(clock) as meter:
        sampler = PowerSampler([meter], 10.0, clock)
        for power_w in (1.0, 9.0, 2.0, 8.0) * 5:
            sampler.sample()
            clock.advance(0.1)
            instrument.send(power_w, 0.1)
        sampler.sample()
        total = sampler.total()
        assert total is not None
        assert total.energy_j == pytest.approx(10.0)


def test_silence_is_an_error_and_the_instrument_is_opened_anew(instrument: FakeInstrument, clock: ManualClock) -> None:
    with open_meter(clock) as meter:
        meter.read()
        clock.advance(1.1)
        with pytest.raises(MeterError, match="sends nothing") as caught:
            meter.read()
        assert caught.value.reason == "stalled"
        assert instrument.subscribers == {}
        # Counters may have started anew meanwhile: nothing is counted across the gap.
        instrument.energy_j, instrument.end = 0.0, 0
        assert meter.read() is None
        clock.advance(0.5)
        instrument.send(3.0, 0.5)
        sample = meter.read()
        assert sample is not None
        assert sample.power_w == pytest.approx(3.0)


def test_after_a_gap_it_is_the_same_instrument_or_none(instrument: FakeInstrument, clock: ManualClock) -> None:
    with open_meter(clock) as meter:
        meter.read()
        instrument.paths = ["u/js220/000777"]
        clock.advance(1.1)
        for match in ("sends nothing", "no JS220 with the serial number 000415"):
            with pytest.raises(MeterError, match=match):
                meter.read()


def test_several_need_a_serial_number(instrument: FakeInstrument, clock: ManualClock) -> None:
    instrument.paths += ["u/js220/000777", "u/js110/000002"]
    with pytest.raises(MeterError, match="several: 000415, 000777") as caught:
        open_meter(clock)
    assert caught.value.reason == "ambiguous"
    with open_meter(clock, address="000777", scope="soc") as meter:
        assert (meter.origin.source, meter.origin.scope) == ("joulescope u/js220/000777", "soc")
    with pytest.raises(MeterError, match="no JS220 with the serial number 000002") as caught:
        open_meter(clock, address="000002")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("refusal", [TimeoutError("jsdrv_open timed out | u/js220/000415"), RuntimeError()])
def test_one_that_does_not_open_is_one_line_and_lets_go_of_the_driver(
    instrument: FakeInstrument, clock: ManualClock, refusal: Exception
) -> None:
    instrument.refusal = refusal
    with pytest.raises(MeterError, match="udev rules") as caught:
        open_meter(clock)
    assert caught.value.reason == "missing"
    assert caught.value.found == (str(refusal) or "RuntimeError")
    assert instrument.calls == ["finalize"]


@pytest.mark.parametrize(("power_w", "match"), [(-1.0, "swap IN and OUT"), (151.0, "0 to 150 W"), (float("nan"), "nan W")])
def test_what_no_board_draws_is_malformed(instrument: FakeInstrument, clock: ManualClock, power_w: float, match: str) -> None:
    with open_meter(clock) as meter:
        meter.read()
        instrument.send(power_w, 1.0)
        with pytest.raises(MeterError, match=match) as caught:
            meter.read()
        assert caught.value.reason == "malformed"


def test_an_offset_around_zero_is_zero(instrument: FakeInstrument, clock: ManualClock) -> None:
    with open_meter(clock) as meter:
        meter.read()
        instrument.send(-0.001, 1.0)
        sample = meter.read()
        assert sample is not None
        assert (sample.power_w, sample.energy_j) == (0.0, 0.0)


@pytest.mark.parametrize("message", [None, {}, {"time": {"samples": {"value": []}}}, {"time": 3}])
def test_a_message_of_another_shape_is_an_error_and_no_thread_dies(
    instrument: FakeInstrument, clock: ManualClock, message: Any
) -> None:
    with open_meter(clock) as meter:
        instrument.tell(message)
        with pytest.raises(MeterError, match="can't be read") as caught:
            meter.read()
        assert caught.value.reason == "malformed"


def test_a_closed_meter_stays_closed(instrument: FakeInstrument, clock: ManualClock) -> None:
    meter = open_meter(clock)
    meter.close()
    with pytest.raises(MeterError, match="is closed"):
        meter.read()


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ghostwatt\[joulescope\]'"):
        open_meter(clock)


def test_the_driver_itself_finds_no_instrument_and_that_is_one_line(clock: ManualClock) -> None:
    pytest.importorskip("pyjoulescope_driver", reason="needs pyjoulescope-driver", exc_type=ImportError)
    with pytest.raises(MeterError) as caught:
        open_meter(clock, address="no such instrument")
    assert caught.value.reason == "missing"
    assert str(caught.value).startswith("joulescope: no JS220 with the serial number no such instrument; expected one")
    assert "\n" not in str(caught.value)
