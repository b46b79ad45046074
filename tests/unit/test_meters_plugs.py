"""Plugs on loopback that answer, stall, lie, ask for a password, and talk junk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.core.clock import ManualClock, SystemClock
from device.core.errors import MeterError
from device.meters.meter import MeterContext
from device.meters.plugs import MAX_POWER_W, PlugMeter, PlugOptions, ShellyMeter, TasmotaMeter
from device.meters.sampler import PowerSampler
from tests.unit.plugs import FakePlug

SECRET = "s3cret-w0rd"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No one's own passwords, and no proxy."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    return tmp_path


@pytest.fixture(params=["shelly", "shelly_gen1", "tasmota"])
def plug(request: pytest.FixtureRequest) -> Iterator[FakePlug]:
    with FakePlug(request.param) as plug:
        yield plug


def open_meter(plug: FakePlug, clock: ManualClock | SystemClock | None = None, **keys: Any) -> PlugMeter:
    kind = plug.kind.removesuffix("_gen1")
    options = PlugOptions(**{"address": plug.address, **keys})
    return {"shelly": ShellyMeter, "tasmota": TasmotaMeter}[kind].open(options, MeterContext(clock=clock or ManualClock()))


def read_w(meter: PlugMeter) -> float:
    sample = meter.read()
    assert sample is not None
    return sample.power_w


def reason_of(plug: FakePlug, **keys: Any) -> str:
    with pytest.raises(MeterError) as caught:
        open_meter(plug, **keys)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value.reason


def write_netrc(home: Path, password: str = SECRET) -> None:
    path = home / ".netrc"
    path.write_text(f"machine 127.0.0.1 login admin password {password}\n")
    path.chmod(0o600)


@given(power_w=st.floats(0.0, MAX_POWER_W) | st.integers(0, int(MAX_POWER_W)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_watts_are_watts(plug: FakePlug, power_w: float) -> None:
    plug.power = power_w
    meter = open_meter(plug)
    assert read_w(meter) == pytest.approx(power_w)
    assert (meter.origin.scope, meter.origin.is_estimate) == ("wall", False)
    assert meter.origin.source == f"{plug.kind.removesuffix('_gen1')} (127.0.0.1)"


@pytest.mark.parametrize(
    ("powers", "step_w"),
    [([12], 1.0), ([12.5], 0.1), ([12, 12.25, 13.0, 13], 0.01), ([3.0], 0.1), ([0.1 + 0.2], 0.1), ([2 / 3], 0.001), ([0], 1.0)],
)
def test_the_finest_digit_that_it_wrote_is_its_resolution(plug: FakePlug, powers: list[float], step_w: float) -> None:
    clock = ManualClock()
    plug.power = powers[0]
    meter = open_meter(plug, clock)
    for plug.power in powers:
        meter.read()
        clock.advance(1.0)
    assert meter.resolution_w == pytest.approx(step_w)


def test_an_answer_counts_once_and_the_plug_is_asked_once_a_second(plug: FakePlug) -> None:
    clock = ManualClock()
    meter = open_meter(plug, clock)
    asked = len(plug.questions)
    samples = []
    for _ in range(51):
        samples += [sample] if (sample := meter.read()) else []
        clock.advance(0.1)
    assert len(samples) == 6
    assert len(plug.questions) - asked == 6
    assert [sample.timestamp_ns for sample in samples] == [index * 10**9 for index in range(6)]
    assert {sample.period_s for sample in samples} == {1.0}


@pytest.mark.parametrize(
    "power", [-0.5, float("nan"), float("inf"), -float("inf"), 10_001, 10**400, True, None, "3.1", {"w": 3}]
)
def test_a_plug_that_lies_is_not_believed(plug: FakePlug, power: object) -> None:
    plug.power = power
    assert reason_of(plug) == "malformed"


@pytest.mark.parametrize(
    "answer", [b"", b"<html>Shelly</html>", b"\xff\xfe\x00", b"[" * 50_000, b'{"apower": 3.1', b" " * 70_000]
)
def test_an_answer_that_is_no_json_is_malformed(plug: FakePlug, answer: bytes) -> None:
    plug.answer = answer
    assert reason_of(plug) == "malformed"


def test_an_answer_without_end_is_not_read_to_its_end(plug: FakePlug) -> None:
    meter = open_meter(plug)
    answer = b'{"apower": 3, "meters": [{"power": 3, "is_valid": true}], "StatusSNS": {"ENERGY": {"Power": 3}}}'
    plug.answer = answer
    assert read_w(meter) == 3.0
    plug.answer = None
    meter = open_meter(plug)
    plug.answer = answer + b" " * 70_000
    with pytest.raises(MeterError, match="more than 65536 bytes") as caught:
        meter.read()
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("answer", [b"{}", b"[]", b"null", b'"text"', b"3.1", b'{"StatusSNS": {}}', b'{"meters": []}'])
def test_an_answer_without_a_power_is_no_metering_plug(plug: FakePlug, answer: bytes) -> None:
    meter = open_meter(plug)
    plug.answer = answer
    with pytest.raises(MeterError, match="its answer has no") as caught:
        meter.read()
    assert caught.value.reason == "missing"
    assert reason_of(plug) == "missing"


@given(st.binary(max_size=100) | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_junk_is_an_error_and_never_a_crash(plug: FakePlug, answer: bytes | str) -> None:
    plug.answer = answer.encode(errors="replace") if isinstance(answer, str) else answer
    assert reason_of(plug) in ("malformed", "missing")


def test_a_plug_that_stalls_is_a_gap_and_no_old_value(plug: FakePlug, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    meter = open_meter(plug, clock)
    monkeypatch.setattr(PlugMeter, "timeout_s", 0.1)
    assert read_w(meter) == 3.0
    clock.advance(1.0)
    plug.is_stalled = True
    with pytest.raises(MeterError, match=r"no whole answer within 0\.1 s") as caught:
        meter.read()
    assert caught.value.reason == "stalled"
    asked = len(plug.questions)
    for _ in range(3):
        clock.advance(0.1)
        assert meter.read() is None
    assert len(plug.questions) == asked
    plug.is_stalled = False
    plug.power = 7.0
    clock.advance(1.0)
    assert read_w(meter) == 7.0
    assert len(plug.questions) == asked + 1


def test_a_question_that_failed_counts_once_and_is_told_until_the_next_answer(plug: FakePlug) -> None:
    clock = ManualClock()
    meter = open_meter(plug, clock)
    sampler = PowerSampler([meter], 10.0, clock)

    def sample(count: int) -> None:
        for _ in range(count):
            sampler.sample()
            clock.advance(0.1)

    sample(11)
    plug.status = 500
    asked = len(plug.questions)
    # The sample at 1 s was the last; the questions at 2, 3 and 4 s fail.
    sample(30)
    assert len(plug.questions) - asked == 3
    (total,) = sampler.figures()
    assert (total.samples, total.failed) == (2, 3)
    assert sampler.error() == total.error
    assert "HTTP status 500" in str(total.error)
    plug.status = 200
    sample(20)
    (total,) = sampler.figures()
    assert (total.samples, total.failed) == (4, 3)
    assert sampler.error() is None
    # From 0 to 1 s, and from 5 to 6 s: nothing in between.
    assert total.covered_s == pytest.approx(2.0)


def test_a_plug_that_takes_its_time_does_not_hang(plug: FakePlug, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    meter = open_meter(plug, clock)
    is_asked, release = threading.Event(), threading.Event()

    def measure_slowly() -> float:
        is_asked.set()
        assert release.wait(30.0)
        return 3.0

    monkeypatch.setattr(meter, "_measure_w", measure_slowly)
    sampler = PowerSampler([meter], 10.0, clock)
    sampler.start()
    assert is_asked.wait(30.0)
    clock.advance(PlugMeter.timeout_s)
    assert sampler.error() is None
    clock.advance(1.0)
    assert sampler.error() == f"{meter.origin.source}: no answer for 3.0 s"
    release.set()
    assert sampler.stop(timeout_s=30.0)


def test_a_plug_that_drips_is_given_up(plug: FakePlug, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = open_meter(plug)
    monkeypatch.setattr(PlugMeter, "timeout_s", 0.2)
    plug.drip_s = 0.05
    begun_s = time.monotonic()
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert caught.value.reason == "stalled"
    # Each piece comes well within the timeout: only the whole is late.
    assert time.monotonic() - begun_s < 60.0
    plug.release.set()


def test_a_plug_that_stalls_holds_up_no_other_meter(plug: FakePlug, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = threading.Event()
    slow, quick = open_meter(plug, SystemClock()), _Counter(enough)
    monkeypatch.setattr(PlugMeter, "timeout_s", 30.0)
    plug.is_stalled = True
    with PowerSampler([slow, quick], 200.0) as sampler:
        assert enough.wait(30.0)
        assert sampler.total(0) is None
        assert sampler.figures()[1].samples >= 20
        plug.release.set()


class _Counter(PlugMeter):
    """A plug that is asked nothing, and answers always."""

    kind = "counter"
    period_s = 0.0

    def __init__(self, enough: threading.Event) -> None:
        self._asked = 0
        self._enough = enough
        super().__init__(PlugOptions(address="http://127.0.0.1"), MeterContext())

    def _measure(self) -> object:
        self._asked += 1
        if self._asked > 25:
            self._enough.set()
        return 1.0


@pytest.mark.parametrize("status", [404, 500, 503, 302])
def test_a_status_that_is_no_answer_is_told(plug: FakePlug, status: int) -> None:
    plug.status = status
    with pytest.raises(MeterError, match=f"HTTP status {status}"):
        open_meter(plug)


def test_a_plug_that_is_not_there_is_missing(plug: FakePlug) -> None:
    meter = open_meter(plug)
    plug.close()
    with pytest.raises(MeterError, match="check its address") as caught:
        meter.read()
    assert caught.value.reason == "missing"


def test_a_channel_that_the_plug_has_not_is_missing(plug: FakePlug) -> None:
    if plug.kind == "tasmota":
        plug.power = [3.0, 4.5]
        assert read_w(open_meter(plug, channel=1)) == 4.5
        assert reason_of(plug, channel=2) == "missing"
    else:
        assert reason_of(plug, channel=3) == "missing"


def test_a_power_that_a_first_shelly_calls_invalid_is_none() -> None:
    with FakePlug("shelly_gen1") as plug:
        meter = open_meter(plug)
        plug.answer = b'{"meters": [{"power": 3.1, "is_valid": false}]}'
        with pytest.raises(MeterError, match="invalid"):
            meter.read()


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shelly", "tasmota"])
def test_a_password_is_taken_from_netrc(kind: str, home: Path) -> None:
    write_netrc(home)
    with FakePlug(kind, password=SECRET) as plug:
        assert read_w(open_meter(plug)) == 3.0


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5", "md5"])
def test_every_digest_that_a_camera_may_ask_for_a_plug_may(algorithm: str, home: Path) -> None:
    write_netrc(home)
    with FakePlug("shelly", password=SECRET, algorithm=algorithm) as plug:
        assert read_w(open_meter(plug)) == 3.0


def test_a_login_of_another_kind_is_told(home: Path) -> None:
    write_netrc(home)
    with FakePlug("shelly", password=SECRET) as plug:
        plug.challenge = 'Negotiate realm="house"'
        with pytest.raises(MeterError, match=r"unsupported kind of login.*expected Basic, or Digest") as caught:
            open_meter(plug)
    assert caught.value.reason == "unauthorised"


@pytest.mark.parametrize("kind", ["shelly", "tasmota"])
def test_a_password_that_is_missing_or_wrong_is_told_and_never_shown(kind: str, home: Path) -> None:
    with FakePlug(kind, password=SECRET) as plug:
        with pytest.raises(MeterError, match=r"asks for a password.*machine 127\.0\.0\.1 login admin") as caught:
            open_meter(plug)
        assert caught.value.reason == "permission"
        write_netrc(home, "wr0ng-w0rd")
        with pytest.raises(MeterError, match="refuses the password in netrc") as caught:
            open_meter(plug)
        assert caught.value.reason == "permission"
        assert "w0rd" not in str(caught.value)


@pytest.mark.parametrize("kind", ["shelly", "tasmota"])
@pytest.mark.parametrize("trouble", ["stall", "gone", "status", "junk"])
def test_no_trouble_shows_the_password(kind: str, trouble: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(home)
    with FakePlug(kind, password=SECRET) as plug:
        meter = open_meter(plug)
        monkeypatch.setattr(PlugMeter, "timeout_s", 0.1)
        plug.is_stalled = trouble == "stall"
        plug.status = 500 if trouble == "status" else 200
        plug.answer = SECRET.encode() if trouble == "junk" else None
        if trouble == "gone":
            plug.close()
        with pytest.raises(MeterError) as caught:
            meter.read()
        assert SECRET not in str(caught.value)
        plug.release.set()


def test_a_redirect_is_not_followed_with_the_password(home: Path) -> None:
    write_netrc(home)
    with FakePlug("tasmota", password=SECRET) as plug, FakePlug("tasmota") as other:
        plug.status, plug.location = 302, other.address
        with pytest.raises(MeterError, match="HTTP status 302"):
            open_meter(plug)
        assert other.questions == []


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("", "address ''"),
        ("plug.local", "plug.local"),
        ("ftp://plug.local", "ftp"),
        ("http://", "http://"),
        ("http://plug.local/rpc", "rpc"),
        ("http://plug.local?id=0", "id=0"),
        ("http://plug.local:port", "port"),
        ("http://[::1", ""),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, found: str) -> None:
    with pytest.raises(MeterError, match="http://HOST") as caught:
        ShellyMeter.open(PlugOptions(address=address), MeterContext())
    assert caught.value.reason == "address"
    assert found in str(caught.value)


@pytest.mark.parametrize("login", [f"admin:{SECRET}", f"admin:{SECRET}/x", f"admin:{SECRET}#", f"admin:{SECRET}?", SECRET])
def test_a_password_in_the_address_is_refused_and_not_repeated(login: str) -> None:
    with pytest.raises(MeterError, match="netrc") as caught:
        TasmotaMeter.open(PlugOptions(address=f"http://{login}@plug.local"), MeterContext())
    assert caught.value.reason == "address"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", ["shelly", "tasmota"])
def test_netrc_is_where_it_says_or_at_home(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakePlug(kind, password=SECRET) as plug:
        assert reason_of(plug) == "permission"
        (home / "other").write_text(f"machine 127.0.0.1 login admin password {SECRET}\n")
        monkeypatch.setenv("NETRC", str(home / "other"))
        assert read_w(open_meter(plug)) == 3.0
        (home / "other").write_text(f"machine plug login admin password {SECRET}\n")
        assert reason_of(plug) == "permission"


def test_a_netrc_that_is_named_and_not_there_is_told(plug: FakePlug, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(home / "none"))
    with pytest.raises(MeterError, match="none: doesn't exist; expected the file that NETRC names") as caught:
        open_meter(plug)
    assert caught.value.reason == "missing"


def test_a_netrc_that_can_not_be_read_is_told_without_its_words(plug: FakePlug, home: Path) -> None:
    (home / ".netrc").write_text(f"machine plug pasword {SECRET}\n")
    with pytest.raises(MeterError, match=r"netrc.*machine HOST login USER") as caught:
        open_meter(plug)
    assert caught.value.reason == "malformed"
    assert SECRET not in str(caught.value)
