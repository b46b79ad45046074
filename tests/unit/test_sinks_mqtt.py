"""MQTT against a real broker, and what Home Assistant would make of it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import jinja2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.errors import GhostwattError, SinkError, UsageError
from device.protocols import InterruptionRecord, Percentiles
from device.sinks.background import BackgroundSink
from device.sinks.home_assistant import STATUS_TOPIC, Topics, describe, identify
from device.sinks.mqtt import MqttSink, parse_broker
from device.sinks.mqtt_state import MqttState, Shown
from tests.unit.certificates import make_certificate
from tests.unit.mosquitto import PASSWORD, USER, Listener, Mosquitto, wait_until
from tests.unit.records import frame, interruption, interval, run_record, source_interval

MACHINE_ID = "0123456789abcdef0123456789abcdef"
MEASURED = {
    "power_w": 2.5,
    "energy_j": 2.5,
    "power_covered_s": 1.0,
    "power_source": "rapl",
    "power_scope": "cpu",
    "power_is_estimate": False,
}
ESTIMATED = MEASURED | {"power_source": "estimate", "power_is_estimate": True}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/machine-id").write_text(f"{MACHINE_ID}\n")
    return tmp_path / "root"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.close()


def connected(sink: MqttSink, listener: Listener, *, times: int = 1) -> None:
    """Begins a run, and waits until the broker knows of it."""
    sink.write(run_record())
    wait_until(lambda: listener.payloads("/availability").count(b"online") >= times, "sign of life")


def open_sink(
    broker: Mosquitto, root: Path, *, interval_s: float = 1.0, environ: Mapping[str, str] = MappingProxyType({})
) -> MqttSink:
    return MqttSink(f"mqtt://127.0.0.1:{broker.port}", interval_s=interval_s, root=root, environ=environ)


def components(payload: bytes) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = msgspec.json.decode(payload)["components"]
    return found


class TestBroker:
    def test_state_comes_once_an_interval(self, broker: Mosquitto, listener: Listener, root: Path) -> None:
        with open_sink(broker, root, interval_s=60.0) as sink:
            connected(sink, listener)
            for index in range(4):
                sink.write(interval(index, **MEASURED))
            sink.flush()
            for index in range(4, 10):
                sink.write(interval(index, frames=50, **MEASURED))
            sink.flush()
            wait_until(lambda: len(listener.states()) == 2, "two states")
            first, second = listener.states()
        assert (first["span_s"], first["frames_total"], first["fps"]) == (4.0, 400, 100.0)
        assert (second["span_s"], second["frames_total"], second["fps"]) == (6.0, 700, 50.0)
        assert not any(message.retain for message in listener.heard)

    def test_the_first_state_does_not_wait_for_the_interval(self, broker: Mosquitto, listener: Listener, root: Path) -> None:
        with open_sink(broker, root, interval_s=60.0) as sink:
            connected(sink, listener)
            for index in range(6):
                sink.write(interval(index))
            wait_until(lambda: len(listener.states()) == 1, "a state")
            assert listener.states()[0]["span_s"] == 5.0

    def test_says_offline_when_it_goes(self, broker: Mosquitto, listener: Listener, root: Path) -> None:
        with open_sink(broker, root) as sink:
            connected(sink, listener)
        wait_until(lambda: listener.payloads("/availability") == [b"online", b"offline"], "goodbye")
        sink.close()

    def test_the_broker_says_it_for_a_daemon_that_was_killed(self, broker: Mosquitto, listener: Listener, root: Path) -> None:
        code = (
            "import os, sys, time\nfrom pathlib import Path\nfrom device.sinks.mqtt import MqttSink\n"
            "from tests.unit.records import run_record\n"
            "sink = MqttSink(sys.argv[1], interval_s=1.0, root=Path(sys.argv[2]))\nsink.write(run_record())\ntime.sleep(600)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, f"mqtt://127.0.0.1:{broker.port}", str(root)])
        wait_until(lambda: listener.payloads("/availability") == [b"online"], "sign of life")
        process.kill()
        process.wait()
        wait_until(lambda: listener.payloads("/availability") == [b"online", b"offline"], "last will")

    def test_home_assistant_is_told_and_told_again_when_it_comes(
        self, broker: Mosquitto, listener: Listener, root: Path
    ) -> None:
        with open_sink(broker, root) as sink:
            connected(sink, listener)
            sink.write(interval(1))
            wait_until(lambda: len(listener.payloads("/config")) == 1, "discovery")
            sink.flush()
            listener.say(STATUS_TOPIC, "online")
            before = len(listener.states())

            def again() -> bool:
                sink.write(source_interval(2))
                return len(listener.payloads("/config")) == 2 and len(listener.states()) > before

            wait_until(again, "discovery and state again")
            topic = next(message.topic for message in listener.heard if message.topic.endswith("/config"))
        late = Listener(broker.port)
        wait_until(lambda: late.payloads("/config"), "the retained discovery")
        assert topic == "homeassistant/device/ghostwatt_ebbec4849c5c_host/config"
        assert late.payloads("/availability") == [b"offline"]
        assert late.states() == []
        late.close()

    def test_power_that_comes_later_is_announced_later(self, broker: Mosquitto, listener: Listener, root: Path) -> None:
        with open_sink(broker, root) as sink:
            connected(sink, listener)
            sink.write(interval(1))
            sink.write(interval(2, **ESTIMATED))
            sink.flush()
            wait_until(lambda: len(listener.payloads("/config")) == 2, "two discoveries")
            first, second = (components(payload) for payload in listener.payloads("/config"))
        assert first["power_estimated"] == first["power_measured"] == second["power_measured"] == {"platform": "sensor"}
        assert second["power_estimated"]["name"] == "Power (cpu, estimated)"

    def test_a_camera_in_trouble_is_told_at_once(self, broker: Mosquitto, listener: Listener, root: Path) -> None:
        with open_sink(broker, root, interval_s=600.0) as sink:
            connected(sink, listener)
            for index in range(5):
                sink.write(interval(index))
            sink.write(interruption())
            sink.write(interruption(duration_s=7.0, is_over=True))
            wait_until(lambda: len(listener.states()) == 3, "three states")
            states = listener.states()
        assert [state["camera_problem"] for state in states] == [False, True, False]
        assert states[1]["camera_problem_detail"] == "v4l2:0: stalled"

    def test_a_broker_that_comes_back_is_told_how_things_are_then(self, broker: Mosquitto, root: Path, tmp_path: Path) -> None:
        listener = Listener(broker.port)
        troubles: list[str] = []
        sink = open_sink(broker, root)
        sink.flush_interval_s = 0.1
        with BackgroundSink(sink, troubles.append) as background:
            background.write(run_record())
            wait_until(lambda: listener.payloads("/availability"), "sign of life")
            listener.close()
            broker.kill()
            wait_until(lambda: troubles, "trouble")
            for index in range(500):
                background.write(interval(index, frames=1))
            time.sleep(0.3)
            assert len(troubles) == 1
            broker.start()
            back = Listener(broker.port)
            wait_until(lambda: back.payloads("/availability"), "sign of life")
            background.write(interval(501, frames=1))
            wait_until(lambda: back.payloads("/config"), "discovery")
            wait_until(lambda: [state for state in back.states() if state["frames_total"] == 501], "the newest state")
            wait_until(lambda: len(troubles) == 2, "all clear")
            assert len(back.states()) < 10
            back.close()
        assert re.fullmatch(r"--mqtt mqtt://127.0.0.1:\d+: .+; the run continues", troubles[0])
        assert troubles[1:] == ["MqttSink works again"]

    def test_a_broker_that_is_not_there_is_told_of_and_holds_nobody_up(self, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        sink = MqttSink(f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{port}", interval_s=1.0, root=root)
        sink.write(run_record())
        for index in range(10000):
            sink.write(interval(index))

        def fails() -> str:
            try:
                sink.flush()
            except SinkError as error:
                return f"{error.reason}: {error}"
            return ""

        wait_until(fails, "failure")
        assert fails() == f"unreachable: --mqtt mqtt://127.0.0.1:{port}: can't be reached (Connection refused)"
        sink.close()

    def test_a_frozen_broker_fills_no_memory_and_holds_nobody_up(
        self, broker: Mosquitto, listener: Listener, root: Path
    ) -> None:
        with open_sink(broker, root) as sink:
            connected(sink, listener)
            broker.freeze()
            for index in range(100):
                sink.write(interval(index, **(MEASURED if index % 2 else ESTIMATED | {"power_scope": f"x{index}"})))
                sink.flush()
            client = sink._link._client  # type: ignore[union-attr]
            assert len(client._out_messages) <= 16

    def test_a_password_is_needed_and_taken(self, root: Path, tmp_path: Path) -> None:
        broker = Mosquitto(tmp_path / "broker", password=True)
        broker.start()
        listener = Listener(broker.port, password=True)
        try:
            netrc = tmp_path / "netrc"
            netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
            netrc.chmod(0o600)
            with open_sink(broker, root, environ={"NETRC": str(netrc)}) as sink:
                connected(sink, listener)
            uri = f"mqtt://{USER}:{quote(PASSWORD)}@127.0.0.1:{broker.port}"
            with MqttSink(uri, interval_s=1.0, root=root, environ={}) as sink:
                connected(sink, listener, times=2)
            wrong = f"mqtt://{USER}:wrong-{PASSWORD}@127.0.0.1:{broker.port}"
            for uri, said in ((wrong, "user or password"), (f"mqtt://127.0.0.1:{broker.port}", "names no user")):
                with MqttSink(uri, interval_s=1.0, root=root, environ={}) as sink:
                    sink.write(run_record())
                    wait_until(lambda sink=sink: sink._link.failure, "refusal")
                    with pytest.raises(SinkError, match=said) as caught:
                        sink.flush()
                    assert caught.value.reason == "unauthorised"
                    assert PASSWORD not in str(caught.value)
        finally:
            listener.close()
            broker.kill()

    def test_tls_is_checked(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        certificate = make_certificate(tmp_path)
        broker = Mosquitto(tmp_path / "broker", certificate=certificate)
        broker.start()
        try:
            uri = f"mqtts://127.0.0.1:{broker.port}"
            with MqttSink(uri, interval_s=1.0, root=root, environ={}) as sink:
                sink.write(run_record())
                wait_until(lambda: sink._link and sink._link.failure, "refusal")
                with pytest.raises(SinkError, match="can't be trusted") as caught:
                    sink.flush()
                assert caught.value.reason == "certificate"
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            with MqttSink(uri, interval_s=1.0, root=root, environ={}) as sink:
                sink.write(run_record())
                wait_until(lambda: sink._link and sink._link._is_connected, "connection")
        finally:
            broker.kill()


class TestState:
    def test_a_mean_weighs_power_by_the_time_that_was_covered(self) -> None:
        state = MqttState()
        state.add(interval(1, **MEASURED | {"power_w": 1.0, "energy_j": 0.3, "power_covered_s": 0.3}))
        state.add(interval(2, power_w=None))
        state.add(interval(3, **MEASURED | {"power_w": 2.0, "energy_j": 0.2, "power_covered_s": 0.1}))
        taken = state.take()
        assert taken is not None
        assert taken["power_measured_w"] == 1.25
        assert (taken["power_estimated_w"], taken["power_source"], taken["power_scope"]) == (None, "rapl", "cpu")

    def test_estimates_and_measurements_have_keys_of_their_own(self) -> None:
        state = MqttState()
        state.add(interval(1, **MEASURED | {"power_w": 1.0, "energy_j": 1.0}))
        state.add(interval(2, **ESTIMATED | {"power_w": 3.0, "energy_j": 3.0}))
        state.add(interval(3, **ESTIMATED | {"power_w": 5.0, "energy_j": 5.0}))
        taken = state.take()
        assert taken is not None
        assert (taken["power_measured_w"], taken["power_estimated_w"]) == (1.0, 4.0)

    def test_of_two_meters_there_is_no_mean(self) -> None:
        state = MqttState()
        state.add(interval(1, **MEASURED | {"power_w": 100.0, "energy_j": 100.0}))
        state.add(interval(2, **MEASURED | {"power_w": 2.0, "energy_j": 2.0, "power_source": "ina219"}))
        taken = state.take()
        assert taken is not None
        assert (taken["power_measured_w"], taken["power_source"]) == (2.0, "ina219")

    def test_latency_is_a_mean_by_frames_and_an_upper_bound(self) -> None:
        state = MqttState()
        state.add(interval(1, frames=3, latency_s=Percentiles(0.01, 0.02, 0.09)))
        state.add(interval(2, frames=1, latency_s=Percentiles(0.03, 0.04, 0.05)))
        state.add(interval(3, frames=0, latency_s=None))
        taken = state.take()
        assert taken is not None
        assert (taken["latency_p50_s"], taken["latency_p99_s"]) == (0.015, 0.09)

    def test_what_is_not_known_is_null_and_not_0(self) -> None:
        state = MqttState()
        state.add(interval(1, latency_s=None, temperature_c=None))
        taken = state.take()
        assert taken is not None
        unknown = {"latency_p50_s", "latency_p99_s", "power_measured_w", "power_estimated_w", "power_source", "power_scope"}
        assert {key for key, value in taken.items() if value is None} == unknown | {
            "temperature_c",
            "throttled",
            "heat_limit_fps",
        }
        assert state.take() is None

    def test_labels_are_told_only_where_predictions_come(self) -> None:
        state = MqttState()
        state.add(interval(1))
        taken = state.take()
        assert taken is not None
        assert "label" not in taken
        state.add(frame(0))
        state.add(interval(2))
        taken = state.take()
        assert taken is not None
        assert taken["label"] == "hat"

    def test_darkness_is_no_trouble_and_each_trouble_ends_by_itself(self) -> None:
        state = MqttState()
        assert not state.add(interruption(reason="dark"))
        assert not state.camera_problem()["camera_problem"]
        begun = [interruption("a", started_ns=1), interruption("b", "frozen", started_ns=2)]
        assert all(state.add(each) for each in begun)
        assert state.camera_problem()["camera_problem_detail"] == "a: stalled; b: frozen"
        state.add(over(begun[0]))
        assert state.camera_problem() == {"camera_problem": True, "camera_problem_detail": "b: frozen"}
        state.add(over(begun[1]))
        assert state.camera_problem() == {"camera_problem": False, "camera_problem_detail": ""}


def over(record: InterruptionRecord) -> InterruptionRecord:
    return msgspec.structs.replace(record, duration_s=1.0, is_over=True)


EVERYTHING = Shown("cpu", "board", has_temperature=True, knows_throttling=True, has_label=True)


class TestHomeAssistant:
    def message(self, root: Path, shown: Shown = EVERYTHING) -> dict[str, Any]:
        identity = identify("host", root=root, hostname="kitchen")
        return describe(run_record(), identity, Topics.under("ghostwatt", identity), shown, expire_after_s=180.0)

    def test_entities_have_what_home_assistant_wants(self, root: Path) -> None:
        message = self.message(root)
        assert message["origin"]["name"] == "ghostwatt"
        assert message["device"]["identifiers"] == ["ghostwatt_ebbec4849c5c_host"]
        found = message["components"]
        assert len({entity["unique_id"] for entity in found.values()}) == len(found)
        assert all(entity["expire_after"] == 180 for entity in found.values())
        measured, estimated = found["power_measured"], found["power_estimated"]
        assert (measured["device_class"], measured["unit_of_measurement"], measured["state_class"]) == (
            "power",
            "W",
            "measurement",
        )
        assert (measured["name"], estimated["name"]) == ("Power (cpu)", "Power (board, estimated)")
        assert found["camera_problem"]["device_class"] == "problem"

    def test_what_has_no_figure_has_no_entity(self, root: Path) -> None:
        found = self.message(root, Shown())["components"]
        gone = {key: entity for key, entity in found.items() if "unique_id" not in entity}
        assert set(gone) == {"power_measured", "power_estimated", "temperature", "throttled", "label"}
        assert all(set(entity) == {"platform"} for entity in gone.values())

    def test_templates_give_what_the_state_says(self, root: Path) -> None:
        state = MqttState()
        state.add(frame(0))
        state.add(interruption())
        state.add(interval(1, throttled="throttled", temperature_c=61.04, **ESTIMATED))
        assert self.render(root, state) == {
            "fps": "100.0",
            "latency_p50": "10.0",
            "latency_p99": "30.0",
            "power_measured": "None",
            "power_estimated": "2.5",
            "frames": "100",
            "dropped": "0",
            "temperature": "61.0",
            "throttled": "ON",
            "camera_problem": "ON",
            "label": "hat",
        }

    def test_templates_of_what_is_unknown_say_none(self, root: Path) -> None:
        state = MqttState()
        state.add(interval(1, latency_s=None, temperature_c=None))
        rendered = self.render(root, state)
        unknown = {"latency_p50", "latency_p99", "power_measured", "power_estimated", "temperature", "throttled"}
        assert {key for key, text in rendered.items() if text == "None"} == unknown
        assert rendered["camera_problem"] == "OFF"

    def render(self, root: Path, state: MqttState) -> dict[str, str]:
        """As Home Assistant would: "None" is unknown to it."""
        taken = msgspec.json.decode(msgspec.json.encode(state.take()))
        environment = jinja2.Environment(autoescape=False)
        return {
            key: environment.from_string(entity["value_template"]).render(value_json=taken)
            for key, entity in self.message(root)["components"].items()
        }

    def test_a_board_is_known_again_when_it_is_renamed(self, root: Path) -> None:
        one = identify("host", root=root, hostname="raspberrypi")
        other = identify("host", root=root, hostname="küche pi")
        assert one.device == other.device
        assert one.client == other.client
        assert one.name == "raspberrypi-host-ebbe"
        assert re.fullmatch(r"[A-Za-z0-9_-]+", other.name)
        assert re.fullmatch(r"[A-Za-z0-9]{1,23}", one.client)

    def test_the_machines_id_is_not_told_and_boards_of_one_name_differ(self, root: Path) -> None:
        one = identify("host", root=root, hostname="raspberrypi")
        assert MACHINE_ID[:4] not in "".join(one)
        (root / "etc/machine-id").write_text("f" * 32)
        other = identify("host", root=root, hostname="raspberrypi")
        assert one.name != other.name
        assert one.device != other.device
        (root / "etc/machine-id").unlink()
        assert identify("host", root=root, hostname="phone").device == "ghostwatt_phone_host"


@pytest.mark.parametrize(
    ("uri", "host", "port", "prefix"),
    [
        ("mqtt://broker", "broker", 1883, "ghostwatt"),
        ("mqtts://broker/", "broker", 8883, "ghostwatt"),
        ("MQTT://u:p@[::1]:99/home/attic", "::1", 99, "home/attic"),
        ("mqtt://broker/k%C3%BCche", "broker", 1883, "küche"),
    ],
)
def test_brokers(uri: str, host: str, port: int, prefix: str) -> None:
    found = parse_broker(uri)
    assert (found.address.host, found.address.port, found.prefix) == (host, port, prefix)


@pytest.mark.parametrize(
    "uri",
    [
        "broker",
        "//broker",
        "http://broker",
        "mqtt:broker",
        "mqtt://",
        "mqtt://broker/a+b",
        "mqtt://broker/a%23",
        "mqtt://broker/$SYS",
        "mqtt://broker/a//b",
        "mqtt://broker?x=1",
        "mqtt://broker#x",
        "mqtt://broker:x",
        f"mqtt://{'a' * 70}",
        "mqtt://broker/" + "a" * 300,
    ],
)
def test_a_broker_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_broker(uri)
    assert str(caught.value).startswith("--mqtt: ")
    assert caught.value.reason == "malformed_uri"


@given(st.text(alphabet="/:@?#[]%=&+$ab1. \\\n\x00é", max_size=12), st.sampled_from(["mqtt", "mqtts", "http", "x"]))
def test_whatever_is_written_the_password_is_not_shown(text: str, scheme: str) -> None:
    try:
        shown = str(parse_broker(f"{scheme}://me:{text}Kanarienvogel@broker/x").address)
    except GhostwattError as error:
        shown = str(error)
    assert "Kanarienvogel" not in shown


def test_a_netrc_that_cannot_be_read_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(SinkError) as caught:
        MqttSink("mqtt://broker", interval_s=1.0, environ={"NETRC": str(tmp_path / "missing")})
    assert caught.value.reason == "missing"
