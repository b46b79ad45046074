"""Batteries: only while they are drained, whatever sign and unit the vendor chose."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.contract import MeterConfig
from device.core.clock import ManualClock
from device.core.errors import MeterError
from device.meters.battery import TermuxBatteryMeter, parse_termux
from device.meters.meter import MeterContext
from device.meters.select import open_meter

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "android-phone"
BATTERY: MeterConfig = {"kind": "battery"}
TERMUX: MeterConfig = {"kind": "termux_battery"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREE, tmp_path / "root"))


@pytest.fixture
def supplies(root: Path) -> Path:
    return root / "sys/class/power_supply"


def reason_of(root: Path, config: MeterConfig = BATTERY) -> str:
    with pytest.raises(MeterError) as caught:
        open_meter(config, MeterContext(root, ManualClock())).read()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def read_w(root: Path, config: MeterConfig = BATTERY) -> float:
    sample = open_meter(config, MeterContext(root, ManualClock())).read()
    assert sample is not None
    return sample.power_w


# --- power_supply -----------------------------------------------------------------------------------------------------


def test_a_phone_that_is_drained(root: Path) -> None:
    assert read_w(root) == pytest.approx(3.914062 * 0.404296)


@pytest.mark.parametrize("current", ["404296", "-404296"])
def test_the_sign_tells_nothing(root: Path, supplies: Path, current: str) -> None:
    (supplies / "battery/current_now").write_text(f"{current}\n")
    assert read_w(root) == pytest.approx(1.58244, rel=1e-4)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown", ""])
def test_nothing_is_said_unless_it_is_drained(root: Path, supplies: Path, status: str) -> None:
    (supplies / "battery/status").write_text(f"{status}\n")
    assert reason_of(root) == "charging"


@pytest.mark.parametrize("supply", ["usb", "wireless"])
def test_nothing_is_said_while_something_is_plugged_in(root: Path, supplies: Path, supply: str) -> None:
    meter = open_meter(BATTERY, MeterContext(root, ManualClock()))
    (supplies / supply / "online").write_text("1\n")
    with pytest.raises(MeterError, match=f"{supply}: is plugged in") as caught:
        meter.read()
    assert caught.value.reason == "charging"
    (supplies / supply / "online").write_text("0\n")
    sample = meter.read()
    assert sample is not None
    assert sample.power_w > 0


def test_milliamperes_are_not_taken_for_microamperes(root: Path, supplies: Path) -> None:
    (supplies / "battery/current_now").write_text("-404\n")
    with pytest.raises(MeterError, match=r"uncalibrated: 404 would be 0\.000404 A.*current_unit: ma") as caught:
        open_meter(BATTERY, MeterContext(root, ManualClock())).read()
    assert caught.value.reason == "uncalibrated"
    assert read_w(root, {"kind": "battery", "current_unit": "ma"}) == pytest.approx(3.914062 * 0.404)


def test_a_wrong_unit_in_the_profile_is_told(root: Path) -> None:
    with pytest.raises(MeterError, match="current_unit: ua"):
        open_meter({"kind": "battery", "current_unit": "ma"}, MeterContext(root, ManualClock())).read()


def test_who_says_the_unit_may_be_drained_very_little(root: Path, supplies: Path) -> None:
    (supplies / "battery/current_now").write_text("2000\n")
    assert reason_of(root) == "uncalibrated"
    assert read_w(root, {"kind": "battery", "current_unit": "ua"}) == pytest.approx(3.914062 * 0.002)


@given(current_ua=st.integers(10_000, 20_000_000), voltage_uv=st.integers(2_000_000, 60_000_000), is_negative=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_microvolts_times_microamperes(root: Path, supplies: Path, current_ua: int, voltage_uv: int, is_negative: bool) -> None:
    (supplies / "battery/current_now").write_text(f"{-current_ua if is_negative else current_ua}\n")
    (supplies / "battery/voltage_now").write_text(f"{voltage_uv}\n")
    assert read_w(root) == pytest.approx(current_ua / 1e6 * voltage_uv / 1e6)


@pytest.mark.parametrize("voltage", ["3914", "0", "-3914062", "99000000", "", "volts"])
def test_a_voltage_that_no_battery_has_is_an_error(root: Path, supplies: Path, voltage: str) -> None:
    (supplies / "battery/voltage_now").write_text(f"{voltage}\n")
    assert reason_of(root) == "malformed"


def test_a_battery_that_tells_its_power_is_taken_at_its_word(root: Path, supplies: Path) -> None:
    (supplies / "battery/current_now").unlink()
    (supplies / "battery/power_now").write_text("7250000\n")
    assert read_w(root) == 7.25
    (supplies / "battery/power_now").write_text("7250\n")
    assert reason_of(root) == "malformed"


def test_a_battery_that_tells_no_power_is_missing_from_the_start(root: Path, supplies: Path) -> None:
    (supplies / "battery/status").write_text("Charging\n")
    open_meter(BATTERY, MeterContext(root, ManualClock()))
    (supplies / "battery/current_now").unlink()
    with pytest.raises(MeterError) as caught:
        open_meter(BATTERY, MeterContext(root, ManualClock()))
    assert caught.value.reason == "missing"


def test_a_mouses_battery_is_not_the_machines(root: Path, supplies: Path) -> None:
    mouse = Path(shutil.copytree(supplies / "battery", supplies / "hidpp_battery_0"))
    (mouse / "scope").write_text("Device\n")
    assert read_w(root) > 0
    shutil.rmtree(supplies / "battery")
    assert reason_of(root) == "missing"


def test_two_batteries_are_told_apart_by_name(root: Path, supplies: Path) -> None:
    other = Path(shutil.copytree(supplies / "battery", supplies / "BAT1"))
    (other / "current_now").write_text("1000000\n")
    assert reason_of(root) == "ambiguous"
    assert read_w(root, {"kind": "battery", "address": "BAT1"}) == pytest.approx(3.914062)
    assert reason_of(root, {"kind": "battery", "address": "BAT2"}) == "missing"


def test_a_folder_that_android_keeps_from_apps_points_at_termux(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(MeterError, match="termux_battery") as caught:
        open_meter(BATTERY, MeterContext(root, ManualClock()))
    assert caught.value.reason == "permission"


@given(junk=st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_is_an_error_and_never_a_crash(root: Path, supplies: Path, junk: bytes) -> None:
    for name in ("current_now", "voltage_now", "status"):
        shutil.copyfile(TREE / f"sys/class/power_supply/battery/{name}", supplies / f"battery/{name}")
    meter = open_meter(BATTERY, MeterContext(root, ManualClock()))
    for name in ("current_now", "voltage_now", "status"):
        (supplies / f"battery/{name}").write_bytes(junk)
        with contextlib.suppress(MeterError):
            sample = meter.read()
            assert sample is not None
            assert 0.02 <= sample.power_w <= 1200.0


# --- termux-battery-status --------------------------------------------------------------------------------------------


def report(**changes: object) -> bytes:
    return json.dumps(
        {"plugged": "UNPLUGGED", "status": "DISCHARGING", "temperature": 28.4, "voltage": 3914, "current": -404296, **changes}
    ).encode()


def test_what_termux_prints() -> None:
    assert parse_termux(report(), None) == pytest.approx(3.914 * 0.404296)
    assert parse_termux(report(current=404296), None) == pytest.approx(3.914 * 0.404296)


@pytest.mark.parametrize(
    ("current", "unit", "current_a"),
    [
        (-404_000, "ma", 0.404),  # 404 mA, which Termux has multiplied by 1000
        (-1350, "ma", 1.35),  # 1350 mA, which it has not
        (-350_000, "ua", 0.35),
        (-1350, "ua", 0.00135),
    ],
)
def test_milliamperes_that_termux_multiplied_and_those_that_it_did_not(current: int, unit: str, current_a: float) -> None:
    assert parse_termux(report(current=current), unit) == pytest.approx(3.914 * current_a)


def test_what_may_be_either_is_uncalibrated() -> None:
    with pytest.raises(MeterError, match="current_unit: ma") as caught:
        parse_termux(report(current=-1350), None)
    assert caught.value.reason == "uncalibrated"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "CHARGING"},
        {"status": "FULL"},
        {"status": "UNKNOWN"},
        {"status": None},
        {"plugged": "PLUGGED_USB"},
        {"plugged": "PLUGGED_AC", "status": "CHARGING"},
    ],
)
def test_termux_says_nothing_unless_the_phone_is_drained(changes: dict[str, object]) -> None:
    with pytest.raises(MeterError) as caught:
        parse_termux(report(**changes), None)
    assert caught.value.reason == "charging"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        report(voltage=4000),
        report(voltage=3.914),
        report(voltage="3914"),
        report(voltage=True),
        report(current=None),
        report(current=10**400),
        report(voltage=-1),
        report(voltage=70_001),
    ],
)
def test_what_termux_never_prints_is_malformed(text: bytes) -> None:
    with pytest.raises(MeterError) as caught:
        parse_termux(text, None)
    assert caught.value.reason == "malformed"
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_junk_of_termux_is_an_error(text: bytes | str) -> None:
    with pytest.raises(MeterError):
        parse_termux(text.encode(errors="replace") if isinstance(text, str) else text, None)


@given(voltage_mv=st.integers(2001, 59_999).filter(lambda mv: mv % 1000), current_ua=st.integers(-20_000_000, 20_000_000))
def test_millivolts_times_microamperes(voltage_mv: int, current_ua: int) -> None:
    if abs(current_ua) >= 10_000:
        assert parse_termux(report(voltage=voltage_mv, current=current_ua), None) == pytest.approx(
            voltage_mv / 1e3 * abs(current_ua) / 1e6
        )
    else:
        with pytest.raises(MeterError):
            parse_termux(report(voltage=voltage_mv, current=current_ua), None)


def replace_command(root: Path, text: str) -> None:
    command = root / "data/data/com.termux/files/usr/bin/termux-battery-status"
    command.write_text(text)
    command.chmod(0o755)


def test_termux_is_asked_once_in_two_seconds(root: Path) -> None:
    clock = ManualClock()
    meter = open_meter(TERMUX, MeterContext(root, clock))
    replace_command(root, f'#!/bin/sh\necho >> "{root}/asked"\nexec cat "${{0%/*}}/../share/battery.json"\n')
    given_w = []
    for _ in range(41):
        sample = meter.read()
        given_w += [sample.power_w] if sample else []
        clock.advance(0.1)
    assert len(given_w) == 3
    assert (root / "asked").read_text().count("\n") == 3


def test_a_command_that_hangs_is_killed_with_all_that_it_started(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = open_meter(TERMUX, MeterContext(root, ManualClock()))
    monkeypatch.setattr(TermuxBatteryMeter, "timeout_s", 0.2)
    replace_command(root, f'#!/bin/sh\nsleep 60 &\necho $! > "{root}/child"\nwait\n')
    with pytest.raises(MeterError, match=r"no answer within 0\.2 s") as caught:
        meter.read()
    assert caught.value.reason == "stalled"
    child = int((root / "child").read_text())
    for _ in range(500):
        if not _is_running(child):
            break
        time.sleep(0.01)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_command_that_fails_is_no_figure(root: Path) -> None:
    replace_command(root, "#!/bin/sh\nexit 3\n")
    with pytest.raises(MeterError, match="exit code 3"):
        open_meter(TERMUX, MeterContext(root, ManualClock()))
    os.remove(root / "data/data/com.termux/files/usr/bin/termux-battery-status")
    with pytest.raises(MeterError, match="pkg install termux-api") as caught:
        open_meter(TERMUX, MeterContext(root, ManualClock()))
    assert caught.value.reason == "missing"
