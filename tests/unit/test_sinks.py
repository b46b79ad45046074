from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from device.contract import Telemetry
from device.core.errors import SinkError
from device.protocols import Event
from device.sinks.background import BackgroundSink
from device.sinks.base import SinkPlugin
from device.sinks.predictions import PredictionsFile
from device.sinks.telemetry import TelemetryStore
from tests.unit.records import frame, interval, run_record


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


class TestTelemetryStore:
    def test_keeps_what_was_flushed(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "telemetry.sqlite"
        with TelemetryStore(path) as store:
            store.write(run_record())
            store.write(interval(1, power_w=2.5, power_is_estimate=True, power_source="estimate", power_scope="board"))
            store.write(interval(2, power_w=None))
            store.flush()
        assert rows(path, "SELECT run_id, profile FROM run") == [("run-1", "host")]
        found = rows(
            path, "SELECT fps, latency_p90_s, power_w, power_is_estimate, power_source FROM interval ORDER BY timestamp_ns"
        )
        assert found == [(100.0, 0.02, 2.5, 1, "estimate"), (100.0, 0.02, None, None, None)]

    def test_many_runs_share_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        for run_id in ("run-1", "run-2"):
            with TelemetryStore(path) as store:
                store.write(msgspec.structs.replace(run_record(), run_id=run_id))
                store.write(interval(1))
                store.flush()
        assert rows(path, "SELECT run_id FROM interval ORDER BY run_id") == [("run-1",), ("run-2",)]

    def test_what_was_not_flushed_is_all_that_a_kill_loses(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom device.sinks.telemetry import TelemetryStore\n"
            "from tests.unit.records import interval, run_record\n"
            "store = TelemetryStore(Path(sys.argv[1]))\nstore.write(run_record())\nstore.write(interval(1))\nstore.flush()\n"
            "store.write(interval(2))\nos.kill(os.getpid(), 9)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
        assert rows(path, "SELECT count(*) FROM interval") == [(1,)]
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    def test_a_folder_for_a_file_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(SinkError, match="is a folder"):
            TelemetryStore(tmp_path)

    def test_another_kind_of_file_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("dear diary, this is not a database")
        with pytest.raises(SinkError) as caught:
            TelemetryStore(path)
        assert caught.value.reason == "damaged"
        assert path.read_text().startswith("dear diary")

    def test_a_store_of_another_schema_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version=99")
        store = TelemetryStore(path)
        store.write(run_record())
        with pytest.raises(SinkError, match="schema 99"):
            store.flush()

    def test_counts_unknown_frames_by_the_runs_threshold(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        with TelemetryStore(path) as store:
            store.write(msgspec.structs.replace(run_record(), unknown_below=0.6))
            store.write(interval(1, unknown=7))
            store.flush()
        assert rows(path, "SELECT unknown_below, unknown FROM run NATURAL JOIN interval") == [(0.6, 7)]

    def test_a_store_of_a_development_schema_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        with TelemetryStore(path) as store:
            store.write(run_record())
            store.flush()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version=2")
        with TelemetryStore(path) as store:
            store.write(msgspec.structs.replace(run_record(), run_id="run-2"))
            with pytest.raises(SinkError, match="has schema 2; expected 3"):
                store.flush()
        assert rows(path, "SELECT run_id FROM run") == [("run-1",)]

    def test_a_store_that_lacks_a_column_is_given_it_and_keeps_its_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        with TelemetryStore(path) as store:
            store.write(run_record())
            store.write(interval(1))
            store.flush()
        with sqlite3.connect(path) as connection:
            connection.executescript(
                "ALTER TABLE interval DROP COLUMN temperature_c; ALTER TABLE interval DROP COLUMN heat_limit_fps;"
            )
        with TelemetryStore(path) as store:
            store.write(msgspec.structs.replace(run_record(), run_id="run-2"))
            store.write(interval(2, heat_limit_fps=5.0))
            store.flush()
        assert rows(path, "SELECT run_id, temperature_c, heat_limit_fps FROM interval ORDER BY run_id") == [
            ("run-1", None, None),
            ("run-2", 50.0, 5.0),
        ]
        assert rows(path, "PRAGMA user_version") == [(3,)]

    def test_a_column_of_a_newer_program_stays_when_rows_are_merged(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        with TelemetryStore(path) as store:
            store.write(run_record())
            store.flush()
        with sqlite3.connect(path) as connection:
            connection.execute("ALTER TABLE interval ADD COLUMN novelty REAL")
        with TelemetryStore(path, settings=Telemetry(fine_kept_h=0.1), wall_time_s=lambda: 2e9) as store:
            store.write(msgspec.structs.replace(run_record(), run_id="run-2"))
            for second in range(60):
                store.write(interval(second * 10**9, wall_time_s=1.99999e9 + second, wall_is_synchronised=True))
            store.flush()
        assert rows(path, "SELECT frames, novelty FROM interval") == [(6000, None)]

    def test_rows_wait_while_the_disk_is_full_and_come_when_it_has_room(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        with TelemetryStore(path) as store:
            store.write(run_record())
            store.write(interval(1))
            store.flush()
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path), limit[1]))
            try:
                for index in range(2, 400):
                    store.write(interval(index))
                with pytest.raises(SinkError):
                    store.flush()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            store.flush()
        assert rows(path, "SELECT count(*) FROM interval") == [(399,)]

    def test_a_full_disk_loses_the_oldest_rows_only_beyond_the_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "telemetry.sqlite"
        with TelemetryStore(path, pending_limit=3) as store:
            store.write(run_record())
            for index in range(1, 6):
                store.write(interval(index))
            store.flush()
            assert store.lost == 2
        assert rows(path, "SELECT timestamp_ns FROM interval") == [(3,), (4,), (5,)]


def test_predictions_are_a_json_line_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with PredictionsFile(path) as sink:
        sink.write(frame(0, origin="a.jpg"))
        sink.write(frame(1, origin=None, is_unknown=True))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in lines] == ["a.jpg", 1]
    assert [(line["label"], line["is_unknown"]) for line in lines] == [("hat", False), ("unknown", True)]
    for line in lines:
        assert line["labels"] == ["hat", "shoes"]
        assert line["scores"] == [0.75, 0.25]


def test_predictions_in_a_place_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError):
        PredictionsFile(tmp_path / "file" / "predictions.jsonl")


class RecordingSink(SinkPlugin):
    """Remembers; blocks or fails on demand."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_broken = False
        self.flushes = 0
        self.closed = False

    def write(self, event: Event) -> None:
        self.gate.wait()
        if self.is_broken:
            raise SinkError("sink", "broken", reason="write")
        self.events.append(event)

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        self.closed = True


class TestBackgroundSink:
    def test_writes_everything_in_order_and_closes(self) -> None:
        sink = RecordingSink()
        background = BackgroundSink(sink, lambda _: None, may_wait=True)
        sent = [frame(index) for index in range(100)]
        for event in sent:
            background.write(event)
        background.close()
        background.close()
        assert sink.events == sent
        assert sink.closed
        assert sink.flushes >= 1

    def test_a_sink_that_blocks_never_blocks_the_writer(self) -> None:
        sink = RecordingSink()
        sink.gate.clear()
        sink.queue_capacity = 4
        troubles: list[str] = []
        background = BackgroundSink(sink, troubles.append)
        for index in range(50):
            background.write(frame(index))
        assert background.lost >= 45
        background.close(timeout_s=0.2)
        assert "hangs" in troubles[-1]
        sink.gate.set()

    def test_trouble_is_told_once_and_the_rest_is_still_written(self) -> None:
        sink = RecordingSink()
        sink.is_broken = True
        troubles: list[str] = []
        background = BackgroundSink(sink, troubles.append, may_wait=True)
        for index in range(10):
            background.write(frame(index))
        background.close()
        assert [line for line in troubles if "the run continues" in line] == ["sink: broken; the run continues"]

    def test_what_a_sink_did_not_foresee_stops_neither_it_nor_the_writer(self) -> None:
        class Surprised(RecordingSink):
            def write(self, event: Event) -> None:
                if not self.events:
                    self.events.append(event)
                    raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")
                super().write(event)

        sink = Surprised()
        sink.queue_capacity = 4
        troubles: list[str] = []
        background = BackgroundSink(sink, troubles.append)
        for index in range(10):
            background.write(frame(index))
            while background._queue.qsize() > 2 and background._thread.is_alive():
                background._thread.join(0.001)
        background.close()
        assert len(sink.events) == 10
        assert sink.closed
        assert "surrogates not allowed" in troubles[0]
