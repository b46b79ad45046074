"""The daemon watched from outside: Prometheus scrapes it, a real broker and a webhook hear of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon.conftest import PROJECT, command, daemon, environment
from tests.unit.bundles import copy_bundle
from tests.unit.endpoint import Endpoint
from tests.unit.mosquitto import PASSWORD, USER, Listener, Mosquitto, wait_until
from tests.unit.processes import free_port

SOURCE = "synthetic:64x48@50"


def frames_total(port: int) -> float | None:
    """What the page says now; None where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            text = response.read().decode()
    except urllib.error.URLError:
        return None
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next((sample.value for sample in samples if sample.name == "ghostwatt_frames_total"), None)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker", password=True)
    broker.start()
    yield broker
    broker.kill()


def test_both_watch_a_daemon_from_its_first_frames_to_its_end(bundle: Path, broker: Mosquitto, tmp_path: Path) -> None:
    port = free_port()
    listener = Listener(broker.port, password=True)
    uri = f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{broker.port}/attic"
    flags = ["--prometheus", port, "--mqtt", uri, "--mqtt-interval", 1, "--telemetry", tmp_path / "telemetry.sqlite", "--json"]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            command("--bundle", bundle, "--source", SOURCE, *flags), stdout=out, stderr=err, cwd=PROJECT, env=environment()
        )
    try:
        wait_until(lambda: frames_total(port) is not None, "scrape")
        first = frames_total(port)
        assert first is not None
        wait_until(lambda: (frames_total(port) or 0) > first, "growing counter")
        wait_until(lambda: len(listener.states()) >= 2, "states")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: listener.payloads("/availability") == [b"online", b"offline"], "goodbye")
    listener.close()
    assert frames_total(port) is None
    states = listener.states()
    assert all("label" not in state for state in states)
    assert states[-1]["frames_total"] > states[0]["frames_total"] > 0
    summary = msgspec.json.decode((tmp_path / "out").read_bytes())
    assert states[-1]["frames_total"] == summary["frames"]
    error_lines = (tmp_path / "err").read_text()
    assert "warning" not in error_lines
    assert PASSWORD not in error_lines
    (topic,) = {message.topic for message in listener.heard if message.topic.endswith("/state")}
    assert topic.startswith("attic/")


def test_labels_are_told_when_asked_for(bundle: Path, broker: Mosquitto) -> None:
    listener = Listener(broker.port, password=True)
    uri = f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{broker.port}"
    flags = ["--mqtt", uri, "--mqtt-labels", "--mqtt-interval", 1, "--duration", 3]
    assert daemon("--bundle", bundle, "--source", SOURCE, *flags).code == 0
    wait_until(lambda: b"offline" in listener.payloads("/availability"), "goodbye")
    listener.close()
    assert all(isinstance(state["label"], str) for state in listener.states())
    assert listener.states()


def test_a_broker_that_is_away_is_told_once_and_stops_nothing(bundle: Path) -> None:
    port = free_port()
    uri = f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{port}"
    run = daemon("--bundle", bundle, "--source", SOURCE, "--mqtt", uri, "--mqtt-interval", 1, "--duration", 4, "--json")
    assert run.code == 0
    assert run.summary["frames"] > 0
    assert run.err.count("can't be reached") == 1
    assert f"warning: --mqtt mqtt://127.0.0.1:{port}: can't be reached (Connection refused); the run continues" in run.err
    assert PASSWORD not in run.err


def test_a_port_that_is_taken_ends_it_with_one_line(bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = daemon("--bundle", bundle, "--source", SOURCE, "--prometheus", port, "--telemetry", tmp_path / "t.sqlite")
    assert run.code == 50
    assert run.error_lines == [f"error: --prometheus 127.0.0.1:{port}: is taken by another program; choose another port"]


@pytest.mark.parametrize("flags", [["--prometheus", "host"], ["--mqtt", "broker"], ["--mqtt", f"mqtt://me:{PASSWORD}@"]])
def test_addresses_that_are_none(bundle: Path, flags: list[str]) -> None:
    run = daemon("--bundle", bundle, "--source", SOURCE, *flags)
    assert run.code == 2
    assert len(run.error_lines) == 1
    assert run.error_lines[0].startswith(f"error: {flags[0]}: ")
    assert PASSWORD not in run.err


@pytest.mark.parametrize(("flag", "value", "package"), [("--prometheus", "9464", "prometheus"), ("--mqtt", "mqtt://x", "mqtt")])
def test_a_package_that_is_missing_is_named(bundle: Path, tmp_path: Path, flag: str, value: str, package: str) -> None:
    for name in ("prometheus_client", "paho"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not installed')\n")
    surroundings = {**environment(), "PYTHONPATH": f"{tmp_path}:{PROJECT}"}

    def run(*flags: object) -> subprocess.CompletedProcess[str]:
        arguments = command("--bundle", bundle, "--source", SOURCE, *flags)
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120, env=surroundings)

    refused = run(flag, value)
    assert refused.returncode == 30
    assert f"pip install 'ghostwatt[{package}]'" in refused.stderr
    assert run("--frames", 3).returncode == 0


def test_a_webhook_hears_of_a_run_from_its_beginning_to_its_end(bundle: Path) -> None:
    endpoint = Endpoint()
    try:
        run = daemon("--bundle", bundle, "--source", SOURCE, "--webhook", endpoint.url, "--duration", 3, "--json")
    finally:
        endpoint.close()
    assert run.code == 0
    events = [body["event"] for body in endpoint.bodies]
    assert events[0] == "run_started"
    assert events[-1] == "run_ended"
    assert {"interval", "source_interval", "run_stopping"} <= set(events)
    assert endpoint.bodies[-1]["data"]["summary"] == run.summary
    assert [int(body["id"].rpartition("-")[2]) for body in endpoint.bodies] == list(range(len(events)))


def test_a_profile_names_sinks_beside_those_of_the_flags(bundle: Path, tmp_path: Path) -> None:
    endpoint = Endpoint()
    sinks = ({"kind": "webhook", "url": endpoint.url}, {"kind": "predictions", "path": str(tmp_path / "frames.jsonl")})
    named = copy_bundle(bundle, tmp_path / "named", sinks=sinks)
    try:
        run = daemon("--bundle", named, "--source", SOURCE, "--telemetry", tmp_path / "t.sqlite", "--frames", 20, "--json")
    finally:
        endpoint.close()
    assert run.code == 0
    assert endpoint.bodies[-1]["event"] == "run_ended"
    assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 20
    assert (tmp_path / "t.sqlite").exists()


@pytest.mark.parametrize(
    ("sink", "error"),
    [
        ({"kind": "webhok"}, "sink: 'webhok' is not known; expected did you mean 'webhook'?"),
        (
            {"kind": "webhook", "url": "http://x", "retrys": 1},
            "profile host sinks retrys: is no key of webhook; expected",
        ),
        ({"kind": "webhook"}, "profile host sinks kind: webhook without url"),
        ({"kind": "webhook", "url": "http://x", "retries": "many"}, "profile host sinks retries: 'many'; expected `int`"),
    ],
)
def test_a_profiles_sink_that_can_not_be_opened_ends_it_with_one_line(
    bundle: Path, tmp_path: Path, sink: dict[str, object], error: str
) -> None:
    named = copy_bundle(bundle, tmp_path / "named", sinks=(sink,))
    run = daemon("--bundle", named, "--source", SOURCE, "--frames", 1)
    assert run.code in (2, 10)
    (line,) = run.error_lines
    assert line.startswith(f"error: {error}")


def test_an_endpoint_that_is_away_costs_no_frame_and_no_time(bundle: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/hook"
    run = daemon("--bundle", bundle, "--source", SOURCE, "--webhook", url, "--duration", 3, "--json")
    assert run.code == 0
    assert run.summary["frames"] > 50
    assert run.summary["duration_s"] < 6
    assert run.err.count("can't be reached") == 1
