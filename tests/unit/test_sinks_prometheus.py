"""The page for Prometheus, scraped over loopback, and read by prometheus-client's own parsers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families

from device.core.clock import ManualClock
from device.core.errors import SinkError, UsageError
from device.protocols import Event, IntervalRecord, Percentiles, SinkContext
from device.sinks.opening import OpenSinks, SinkSettings
from device.sinks.prometheus import PrometheusSink, TableCollector, parse_listen
from device.sinks.prometheus_series import FAMILIES, REASONS, SeriesTable
from device.sources.opening import AWAY
from tests.unit.bundles import make_profile
from tests.unit.mosquitto import wait_until
from tests.unit.processes import free_port
from tests.unit.records import frame, interruption, interval, meter, run_record, source_interval

Series = dict[str, dict[tuple[tuple[str, str], ...], float]]


def scrape(port: int, host: str = "127.0.0.1", accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://{host}:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as response:
        text: str = response.read().decode()
    return text


def parse(text: str) -> Series:
    """Name -> labels without the profile -> value; a series that stands there twice fails."""
    found: Series = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.get("profile") == "host"
            key = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "profile"))
            assert key not in found[sample.name], f"{sample.name}{key} stands there twice"
            found[sample.name][key] = sample.value
    return found


class Page:
    """A sink, and what a scrape of it gives."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.port = free_port()
        self.sink = PrometheusSink(str(self.port), clock=self.clock, interval_s=1.0)
        self.sink.write(run_record())

    def second(self, **changes: Any) -> None:
        """Lets a second go by, and tells of it."""
        self.clock.advance(1.0)
        self.sink.write(interval(self.clock.now_ns(), **changes))

    def read(self) -> Series:
        return parse(scrape(self.port))


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()
    with page.sink:
        yield page


MEASURED = {
    "power_w": 2.5,
    "energy_j": 2.0,
    "power_covered_s": 0.8,
    "power_source": "rapl",
    "power_scope": "cpu",
    "power_is_estimate": False,
}
ESTIMATED = MEASURED | {"power_source": "estimate", "power_is_estimate": True}


def power(*, estimate: str, meter: str = "rapl", **more: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"meter": meter, "scope": "cpu", "estimate": estimate, **more}.items()))


def test_counters_grow_and_gauges_are_of_the_last_interval(page: Page) -> None:
    page.second(frames=10, dropped=2, fps=10.0)
    page.second(frames=5, dropped=1, fps=5.0, latency_s=Percentiles(0.1, 0.2, 0.3))
    found = page.read()
    assert found["ghostwatt_frames_total"] == {(): 15}
    assert found["ghostwatt_dropped_frames_total"] == {(): 3}
    assert found["ghostwatt_frames_per_second"] == {(): 5.0}
    latency = {dict(labels)["quantile"]: value for labels, value in found["ghostwatt_latency_seconds"].items()}
    assert latency == {"0.5": 0.1, "0.9": 0.2, "0.99": 0.3}


def test_what_runs_is_told_as_labels(page: Page) -> None:
    (labels,) = page.read()["ghostwatt_run_info"]
    told = dict(labels)
    assert (told["model"], told["runtime"], told["version"], told["run_id"]) == ("ghostnet_100", "litert", "0.1.0", "run-1")


def test_a_figure_that_is_not_there_is_absent_and_not_0(page: Page) -> None:
    page.second(temperature_c=50.0, latency_s=None)
    page.second(temperature_c=None, latency_s=None)
    found = page.read()
    for name in (
        "ghostwatt_temperature_celsius",
        "ghostwatt_latency_seconds",
        "ghostwatt_power_watts",
        "ghostwatt_energy_joules_total",
        "ghostwatt_throttled",
        "ghostwatt_unknown_frames_total",
        "ghostwatt_heat_limit_frames_per_second",
    ):
        assert name not in found


def test_unknown_frames_are_counted_where_the_run_has_a_threshold(page: Page) -> None:
    page.sink.write(msgspec.structs.replace(run_record(), unknown_below=0.6))
    page.second(unknown=7)
    assert page.read()["ghostwatt_unknown_frames_total"] == {(): 7}


def test_an_estimate_and_a_measurement_are_never_one_series(page: Page) -> None:
    page.second(**MEASURED)
    page.second(**ESTIMATED | {"power_source": "rapl"})
    found = page.read()
    assert found["ghostwatt_power_watts"] == {power(estimate="true"): 2.5}
    assert found["ghostwatt_energy_joules_total"] == {power(estimate="false"): 2.0, power(estimate="true"): 2.0}


def test_a_slow_meters_figure_stays_between_its_readings_and_a_dead_meters_goes(page: Page) -> None:
    page.second(**MEASURED)
    page.second()
    assert page.read()["ghostwatt_power_watts"] == {power(estimate="false"): 2.5}
    for _ in range(10):
        page.second()
    found = page.read()
    assert "ghostwatt_power_watts" not in found
    assert found["ghostwatt_energy_joules_total"] == {power(estimate="false"): 2.0}


def test_a_loop_that_hangs_leaves_counters_and_no_gauges(page: Page) -> None:
    page.second(**MEASURED)
    page.sink.write(source_interval(page.clock.now_ns()))
    page.clock.advance(11.0)
    found = page.read()
    assert {name for name in found if not name.endswith("_total")} == {"ghostwatt_run_info"}
    assert found["ghostwatt_frames_total"] == {(): 100}


def test_throttling(page: Page) -> None:
    page.second(throttled="")
    assert page.read()["ghostwatt_throttled"] == {(): 0}
    page.second(throttled="throttled,under_voltage")
    found = page.read()
    assert found["ghostwatt_throttled"] == {(): 1}
    assert set(found["ghostwatt_throttle_flag"]) == {(("flag", "throttled"),), (("flag", "under_voltage"),)}
    page.second(throttled="")
    assert "ghostwatt_throttle_flag" not in page.read()


def test_each_source_has_its_series_and_interruptions_are_there_before_the_first(page: Page) -> None:
    page.clock.advance(1.0)
    for source in ("v4l2:0", "rtsp://camera/stream"):
        page.sink.write(source_interval(page.clock.now_ns(), source, frames=30, is_interrupted=source == "v4l2:0"))
    stalled = (("reason", "stalled"), ("source", "v4l2:0"))
    found = page.read()
    assert found["ghostwatt_source_frames_total"] == {(("source", "v4l2:0"),): 30, (("source", "rtsp://camera/stream"),): 30}
    assert found["ghostwatt_source_interrupted"][("source", "v4l2:0"),] == 1
    assert found["ghostwatt_source_interruptions_total"][stalled] == 0
    page.sink.write(interruption())
    assert page.read()["ghostwatt_source_interruptions_total"][stalled] == 1
    page.sink.write(interruption(duration_s=7.5, is_over=True))
    found = page.read()
    assert found["ghostwatt_source_interruptions_total"][stalled] == 1
    assert found["ghostwatt_source_interrupted_seconds_total"][stalled] == 7.5


def test_all_meters_and_two_of_a_kind(page: Page) -> None:
    page.sink.write(meter(0, source="rapl", scope="cpu", energy_j=100.0))
    page.sink.write(meter(1, source="rapl", scope="cpu", energy_j=200.0))
    page.sink.write(meter(2, source="estimate", scope="cpu", is_estimate=True, energy_j=None, resolution_w=None, failed=3))
    found = page.read()
    assert found["ghostwatt_meter_energy_joules_total"] == {
        power(estimate="false", place="0"): 100.0,
        power(estimate="false", place="1"): 200.0,
    }
    assert found["ghostwatt_meter_failed_reads_total"][power(estimate="true", meter="estimate", place="2")] == 3
    assert found["ghostwatt_sampler_cpu_seconds_total"] == {(): 0.5}


def test_a_new_run_begins_anew(page: Page) -> None:
    page.second(**MEASURED)
    page.sink.write(msgspec.structs.replace(run_record(), run_id="run-2"))
    found = page.read()
    assert set(found) == {"ghostwatt_run_info"}
    assert dict(next(iter(found["ghostwatt_run_info"])))["run_id"] == "run-2"


def test_predictions_and_records_before_the_run_tell_nothing() -> None:
    table = SeriesTable(ManualClock(), 1.0)
    table.take(interval(1))
    assert table.read() == []
    table.take(run_record())
    table.take(frame(0))
    assert [family.name for family, _ in table.read()] == ["ghostwatt_run"]


OPTIONAL = st.none() | st.floats(0, 1e6)
TEXT = st.text(max_size=8)
TIMES_NS = st.integers(0, 10**11)
PERCENTILES = st.none() | st.builds(Percentiles, st.floats(0, 9), st.floats(0, 9), st.floats(0, 9))
INTERVALS = st.fixed_dictionaries(
    {
        "power_w": OPTIONAL,
        "energy_j": st.floats(0, 1e6),
        "power_covered_s": st.floats(0, 1e6),
        "power_source": st.sampled_from(["rapl", 'a "\\\n']),
        "power_scope": st.sampled_from(["cpu", "board"]),
        "power_is_estimate": st.booleans(),
        "temperature_c": OPTIONAL,
        "throttled": st.sampled_from([None, "", "throttled", "throttled,under_voltage"]),
        "latency_s": PERCENTILES,
        "frames": st.integers(0, 1000),
    }
)
METERS = st.fixed_dictionaries(
    {
        "source": st.sampled_from(["rapl", 'a "\\\n']),
        "is_estimate": st.booleans(),
        "energy_j": OPTIONAL,
        "resolution_w": OPTIONAL,
    }
)
RECORDS: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda at, values: interval(at, **values), TIMES_NS, INTERVALS),
    st.builds(
        lambda at, source, latency: source_interval(at, source, latency_s=latency), st.integers(0, 10**11), TEXT, PERCENTILES
    ),
    st.builds(lambda source, reason: interruption(source, reason), TEXT, st.sampled_from(["stalled", "decode"])),
    st.builds(lambda source: interruption(source, duration_s=1.0, is_over=True), TEXT),
    st.builds(lambda place, values: meter(place, **values), st.integers(0, 3), METERS),
    st.just(run_record()),
    st.just(frame(0)),
)


@given(st.lists(RECORDS, max_size=30), st.floats(0, 100))
def test_whatever_comes_the_page_can_be_read_and_mixes_nothing(records: list[Event], now_s: float) -> None:
    clock = ManualClock(round(now_s * 1e9))
    table = SeriesTable(clock, 1.0)
    registry = CollectorRegistry()
    registry.register(TableCollector(table))
    table.take(run_record())
    measured, estimated = 0.0, 0.0
    for record in records:
        table.take(record)
        if record == run_record():
            measured = estimated = 0.0
        if isinstance(record, IntervalRecord) and record.power is not None:
            measured += 0.0 if record.power.is_estimate else record.power.energy_j
            estimated += record.power.energy_j if record.power.is_estimate else 0.0
    found = parse(generate_latest(registry).decode())
    energy = found.get("ghostwatt_energy_joules_total", {})
    for flag, expected in (("false", measured), ("true", estimated)):
        assert sum(value for labels, value in energy.items() if dict(labels)["estimate"] == flag) == pytest.approx(expected)
    for name, series in found.items():
        if any(word in name for word in ("power", "energy", "ghostwatt_meter")):
            assert all(dict(labels)["estimate"] in ("true", "false") for labels in series)


def test_the_page_is_open_metrics_too_when_asked(page: Page) -> None:
    page.second(**MEASURED)
    page.sink.write(source_interval(page.clock.now_ns()))
    page.sink.write(meter())
    text = scrape(page.port, accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = parse_open_metrics(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} <= set(FAMILIES)


def test_promtool_finds_nothing_to_complain_of(page: Page) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: make setup-board")
    page.second(**MEASURED, throttled="throttled", frequency_hz=1e9, heat_limit_fps=5.0)
    page.sink.write(source_interval(page.clock.now_ns()))
    page.sink.write(meter())
    done = subprocess.run([promtool, "check", "metrics"], input=scrape(page.port), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9464", "127.0.0.1", 9464),
        ("0.0.0.0:9464", "0.0.0.0", 9464),
        ("[::1]:80", "::1", 80),
        ("board.local:65535", "board.local", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == (host, port)
    assert parse_listen(str(parse_listen(text))) == (host, port)


@pytest.mark.parametrize("text", ["", "0", "65536", "host", ":80", "::1:80", "a b:80", "http://x:80", "[x]:80", "80 ", "8٠"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_listen(text)


def test_a_port_that_is_taken_is_refused_in_one_line(page: Page) -> None:
    with pytest.raises(SinkError, match="is taken by another program") as caught:
        PrometheusSink(str(page.port), clock=page.clock, interval_s=1.0)
    assert caught.value.reason == "busy"


def test_an_address_of_another_machine_is_refused() -> None:
    # 192.0.2.0/24 is for documents (RFC 5737): nobody has it.
    with pytest.raises(SinkError) as caught:
        PrometheusSink("192.0.2.1:9464", clock=ManualClock(), interval_s=1.0)
    assert caught.value.reason == "address"


def test_once_closed_nothing_answers(page: Page) -> None:
    page.sink.close()
    page.sink.close()
    with pytest.raises(urllib.error.URLError):
        scrape(page.port)
    assert "prometheus" not in {thread.name for thread in threading.enumerate()}


def test_what_was_opened_before_a_port_that_is_taken_is_closed(page: Page, tmp_path: Path) -> None:
    def open_sinks() -> OpenSinks:
        wanted = [
            SinkSettings("predictions", {"path": str(tmp_path / "predictions.jsonl")}, "--predictions"),
            SinkSettings("telemetry", {"path": str(tmp_path / "telemetry.sqlite")}, "--telemetry"),
            SinkSettings("prometheus", {"listen": str(page.port)}, "--prometheus"),
        ]
        return OpenSinks(wanted, SinkContext(make_profile(), page.clock, lambda _: None), may_wait=False)

    with pytest.raises(SinkError, match="is taken"):
        open_sinks()
    assert not sink_threads()
    page.sink.close()
    sinks = open_sinks()
    assert {"sink-TelemetryStore", "sink-PredictionsFile", "sink-PrometheusSink"} <= sink_threads()
    for event in (run_record(), interval(page.clock.now_ns()), frame(0)):
        for sink in sinks.listeners:
            if isinstance(event, sink.takes):
                sink.write(event)
    wait_until(lambda: "ghostwatt_frames_total" in scrape(page.port), "frames")
    sinks.close()
    assert sinks.lost == 0
    assert not sink_threads()


def sink_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("sink-")}


def test_serves_ipv6_where_there_is_such_a_thing() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as unused:
            port = unused.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    with PrometheusSink(f"[::1]:{port}", clock=ManualClock(), interval_s=1.0) as sink:
        sink.write(run_record())
        assert "ghostwatt_run_info" in parse(scrape(port, "[::1]"))


def test_a_client_that_says_nothing_keeps_nobody_waiting(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.port)):
        assert "ghostwatt_run_info" in page.read()


def test_every_reason_of_an_absence_is_there_from_the_start() -> None:
    assert set(REASONS) >= AWAY
