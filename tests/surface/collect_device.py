"""What the board's side shows, got from the code that shows it. All imports from inside of ``device`` are here."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints
from unittest import mock

import msgspec

from device import __version__
from device.bench.result import BenchResult
from device.bundle import __main__ as bundle_command
from device.bundle.store import Stored
from device.contract import MANIFEST_SCHEMA, OLDEST_MANIFEST_SCHEMA, PROFILE_SCHEMA, Manifest
from device.core import errors
from device.core.clock import ManualClock
from device.daemon.journal import JournalSocket
from device.daemon.journal_log import JournalLog
from device.doctor.table import Findings
from device.meters.calibration import Calibration
from device.meters.registry import METERS
from device.protocols import RunSummary
from device.report.subjects import Report
from device.report.table import encode_csv
from device.runtimes.registry import RUNTIMES
from device.service.commands import Commands
from device.service.install import Installation, Service
from device.service.layout import Layout
from device.sinks.mqtt import MqttSink
from device.sinks.predictions import PredictionsFile
from device.sinks.prometheus import PrometheusSink
from device.sinks.registry import SINKS
from device.sinks.telemetry import TelemetryStore
from device.sources.registry import SOURCES
from device.sources.uri import option_structs
from device.tune.result import TuneResult
from tests.surface.mqtt_broker import Broker, Message
from tests.surface.shapes import describe_type, describe_value
from tests.unit import test_service_install as boards
from tests.unit.processes import free_port
from tests.unit.records import frame, interruption, interval, meter, run_record, source_interval
from tests.unit.test_service_journal import Journal, Plain

PROJECT = Path(__file__).parents[2]
PACKAGES = ("device", "converter")
"""Where our code is."""

REQUEST_TIMEOUT_S = 30.0

MEASURED = {
    "power_w": 2.5,
    "energy_j": 2.5,
    "power_covered_s": 1.0,
    "power_source": "rapl",
    "power_scope": "cpu",
    "power_is_estimate": False,
}
ESTIMATED = MEASURED | {"power_source": "estimate", "power_is_estimate": True}
POOR = {"temperature_c": None, "latency_s": None}
RICH = {"throttled": "throttled,under_voltage", "frequency_hz": 1.5e9, "heat_limit_fps": 5.0}


# --- errors, words of the environment, names ---


def error_facts() -> Iterator[str]:
    """Each class of errors with its base, its exit code, and the reasons that the code raises it with word for word."""
    classes = _errors_below(errors.GhostwattError)
    names = [kind.__name__ for kind in classes]
    reasons = _find_reasons(names)
    for kind in classes:
        base = next(above for above in kind.__mro__[1:] if not above.__name__.startswith("_"))
        yield f"{kind.__name__}({base.__name__}): exit code {kind.exit_code}"
        yield from (f"{kind.__name__}: {reason}" for reason in sorted(reasons[kind.__name__]))
    yield from (f"by way of a function: {reason}" for reason in sorted(reasons[""]))
    for raised in (KeyboardInterrupt(), BrokenPipeError()):
        yield f"{type(raised).__name__}: exit code {_exit_code(raised)}"


def _errors_below(kind: type[errors.GhostwattError]) -> list[type[errors.GhostwattError]]:
    below = [each for child in kind.__subclasses__() for each in _errors_below(child)]
    public = {each for each in (kind, *below) if not each.__name__.startswith("_")}
    return sorted(public, key=lambda each: (each.exit_code, each.__name__))


def _exit_code(raised: BaseException) -> int:
    def main() -> int:
        raise raised

    # What is written after a reader went away must go nowhere, and not into the tests' own output.
    with mock.patch("os.open"), mock.patch("os.dup2"), mock.patch("sys.stdout"):
        return errors.exit_with_one_line(main)


def _find_reasons(names: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in ["", *names]}
    for node in _nodes():
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            for keyword in node.keywords:
                if keyword.arg == "reason":
                    found[name if name in found else ""] |= _words(keyword.value)
    return found


def _words(node: ast.expr) -> set[str]:
    """The words that an expression may come to: of ``"missing" if … else "permission"`` both."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Recipes have a reason too, which is a sentence.
        return {node.value} if re.fullmatch("[a-z0-9_]+", node.value) else set()
    if isinstance(node, ast.IfExp):
        return _words(node.body) | _words(node.orelse)
    return set()


def _nodes() -> Iterator[ast.AST]:
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text()))


def name_facts() -> Iterator[str]:
    """Names that a profile, a flag, the environment or a package from outside uses."""
    for table in (SOURCES, RUNTIMES, METERS, SINKS):
        for name in table.own_names():
            options = msgspec.structs.fields(table.load(name).Options)
            needs = ",".join(field.name for field in options if field.required)
            takes = ",".join(field.name for field in options if not field.required)
            keys = (f" needs={needs}" if needs else "") + (f" takes={takes}" if takes else "")
            yield f"entry point ghostwatt.{table.kind}s {name}{keys}"
    words = {node.value for node in _nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    yield from sorted(f"variable or field {word}" for word in words if re.fullmatch("GHOSTWATT_[A-Z_]+", word))
    listed = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    yield from sorted(re.findall(r"^ +(make [a-z-]+)", listed, re.MULTILINE))


# --- the service ---


def service_facts(folder: Path) -> Iterator[str]:
    """What an installation leaves on a board: its files outside of the release, and their text without comments."""
    layout = Layout(folder / "board")
    (layout.root / "etc").mkdir(parents=True)
    (layout.root / "etc/group").write_text("".join(f"{name}:x:44:\n" for name in ("video", "render", "i2c", "gpio", "audio")))
    wanted = Installation(
        boards.wheels(folder / "wheels"),
        boards.bundle(folder, 1, uri="rtsp://user:secret@192.0.2.7/stream"),
    )
    # The bundle's networks are none that a runtime takes.
    with mock.patch.object(bundle_command, "prove_by_self_test", return_value=None):
        Service(layout, Commands(boards.FakeBoard(layout)), lambda _: None).install(wanted)
    release = layout.current.resolve().name
    (bundle,) = {path.name for path in (layout.state / "bundles").iterdir()} if (layout.state / "bundles").exists() else {""}
    for path in sorted(layout.root.rglob("*")):
        name = "/" + str(path.relative_to(layout.root)).replace(release, "RELEASE").replace(bundle or "\0", "BUNDLE")
        if "/releases/RELEASE/" in name or name == "/etc/group":
            continue
        if path.is_symlink():
            yield f"{name} -> {path.readlink()}".replace(release, "RELEASE").replace(bundle or "\0", "BUNDLE")
        elif path.is_file():
            yield f"{name} {path.stat().st_mode & 0o777:o}"
            if layout.state not in path.parents:
                lines = path.read_text().splitlines()
                yield from (f"    {line}" for line in lines if line and (not line.startswith("#") or line.startswith("#!")))


def journal_facts(folder: Path) -> Iterator[str]:
    """Entries of the journal: a minute's summary, with and without figures, and an interruption's two ends."""
    journal = Journal(folder / "journal")
    with contextlib.closing(journal):
        log = JournalLog(JournalSocket(str(folder / "journal")), "rpi4", Plain())
        for title, changes in (("summary", MEASURED | RICH), ("summary of an estimate", ESTIMATED), ("poor summary", POOR)):
            for second in range(60):
                log.write(interval(second, **changes))
            yield from _describe_entries(title, journal)
        log.write(interruption("rtsp://camera/"))
        yield from _describe_entries("interruption", journal)
        log.write(interruption("rtsp://camera/", duration_s=7.25, attempts=3, is_over=True))
        yield from _describe_entries("end of an interruption", journal)


def _describe_entries(title: str, journal: Journal) -> Iterator[str]:
    entries = journal.entries()
    assert entries
    for entry in entries:
        yield from sorted(f"{title}: {name}={value}" for name, value in entry.items())


# --- sinks ---


def mqtt_facts(folder: Path) -> Iterator[str]:
    """What a broker hears: of a board that has figures for everything, and of one that has next to none."""
    (folder / "etc").mkdir()
    (folder / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    rich = [
        interval(1, **MEASURED, **RICH),
        interval(2, **ESTIMATED, **RICH),
        source_interval(2),
        frame(0),
        interruption(),
    ]
    with mock.patch.object(socket, "gethostname", return_value="board"):
        for title, records in (("rich", rich), ("poor", [interval(1, **POOR)])):
            broker = Broker()
            with contextlib.closing(broker):
                yield from _describe_mqtt(title, broker, folder, records)


def _describe_mqtt(title: str, broker: Broker, root: Path, records: list[Any]) -> Iterator[str]:
    def heard(end: str) -> bool:
        return any(message.topic.endswith(end) for message in broker.messages)

    with MqttSink(f"mqtt://127.0.0.1:{broker.port}", interval_s=60.0, root=root, environ={}) as sink:
        sink.write(run_record())
        _wait_until(lambda: heard("/availability"))
        for record in records:
            sink.write(record)

        def is_sent() -> bool:
            sink.flush()
            return heard("/state")

        # The sink learns of its connection a moment after the broker has heard from it; until then it sends nothing.
        _wait_until(is_sent)
    _wait_until(lambda: broker.messages[-1].payload == b"offline")
    ((client, keepalive_s, will),) = broker.connections
    yield f"{title}: client {client}, keep-alive {keepalive_s} s, subscribed to {', '.join(broker.subscriptions)}"
    yield f"{title}: last will {_describe_message(will)} {will.payload.decode()}"
    # A state that was sent again is told once.
    for message in dict.fromkeys(broker.messages):
        if message.payload.startswith(b"{"):
            yield f"{title}: {_describe_message(message)}"
            yield from describe_value(f"{title}: {message.topic.rpartition('/')[2]}", json.loads(message.payload))
        else:
            yield f"{title}: {_describe_message(message)} {message.payload.decode()}"


def _describe_message(message: Message) -> str:
    return f"{message.topic} qos={message.qos}{' retained' if message.retain else ''}"


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "the broker didn't hear of it"
        time.sleep(0.01)


def prometheus_facts() -> Iterator[str]:
    """Each metric with its type, each series with its labels; values aren't told."""
    clock, port = ManualClock(), free_port()
    with PrometheusSink(str(port), clock=clock, interval_s=1.0) as sink:
        sink.write(run_record())
        for changes in (MEASURED, ESTIMATED | RICH):
            clock.advance(1.0)
            sink.write(interval(clock.now_ns(), **changes))
        for record in (source_interval(clock.now_ns()), interruption(duration_s=7.5, is_over=True), meter()):
            sink.write(record)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=REQUEST_TIMEOUT_S) as response:
            yield f"content type {response.headers.get_content_type()}"
            page: str = response.read().decode()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            yield line.removeprefix("# ")
        elif not line.startswith("#"):
            yield f"    {line.rpartition(' ')[0]}"


def telemetry_facts(folder: Path) -> Iterator[str]:
    """The tables of a fresh store, a line a column."""
    path = folder / "telemetry.sqlite"
    with TelemetryStore(path) as store:
        store.write(run_record())
        store.flush()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for pragma in ("user_version", "application_id", "journal_mode", "auto_vacuum", "encoding"):
            yield f"{pragma} {connection.execute(f'PRAGMA {pragma}').fetchone()[0]}"
        made = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
        for kind, name in connection.execute(made).fetchall():
            options = connection.execute("SELECT strict, wr FROM pragma_table_list WHERE name = ?", (name,)).fetchone()
            yield f"{kind} {name}{' strict' if options[0] else ''}{' without rowid' if options[1] else ''}"
            for _, column, affinity, not_null, default, key in connection.execute(f"PRAGMA table_info({name})"):
                marks = [affinity, *(["NOT NULL"] if not_null else []), *([f"default {default}"] if default else [])]
                yield f"    {column} {' '.join(marks)}{f' key {key}' if key else ''}"
            for row in connection.execute(f"PRAGMA foreign_key_list({name})"):
                yield f"    {row[3]} references {row[2]}"


# --- JSON ---


def manifest_facts() -> Iterator[str]:
    """What a manifest holds, and within it a profile."""
    yield f"manifest schema {MANIFEST_SCHEMA}, oldest that is read {OLDEST_MANIFEST_SCHEMA}, profile schema {PROFILE_SCHEMA}"
    yield from describe_type("manifest", Manifest)
    for kind, struct in option_structs().items():
        yield from describe_type(f"manifest.profile.camera.{kind}", struct)


def output_facts() -> Iterator[str]:
    """What commands print or write for programs."""
    shapes = {
        "device.run --json": RunSummary,
        "device.bench (bench.json)": BenchResult,
        "device.tune --json": TuneResult,
        "device.doctor --json": Findings,
        "device.report --json": Report,
        "device.calibrate --json .calibration": Calibration,
    }
    for title, kind in shapes.items():
        for fact in describe_type(title, kind):
            yield fact.replace(f'default="{__version__}"', "default=<version>")
    for name, hint in get_type_hints(Stored).items():
        yield f"device.bundle list --json [].{name}: {hint.__name__}"
    yield f"device.report --csv: {encode_csv(Report((), (), ())).strip()}"
    with tempfile.TemporaryDirectory() as folder, PredictionsFile(path := Path(folder) / "predictions.jsonl") as sink:
        for record in (frame(0), frame(1, "a.jpg", is_unknown=True)):
            sink.write(record)
        sink.flush()
        for line in path.read_bytes().splitlines():
            yield from describe_value("device.run --predictions", msgspec.json.decode(line))
