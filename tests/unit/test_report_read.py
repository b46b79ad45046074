from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.core.errors import ReportError
from device.protocols import Percentiles, SourceIntervalRecord
from device.report.__main__ import Selection, list_files, main, read_all
from device.report.summary import summarise_run
from device.report.table import encode_csv
from device.telemetry.read import Bucket, Extent, Span, Store
from tests.unit.stores import ESTIMATED, SECOND_NS, Row, interruption, power, run, second, write_store


def extent_of(store: Store, run_id: str = "run-1") -> Extent:
    extent = store.find_extent(run_id)
    assert extent is not None
    return extent


def buckets_of(path: Path, most: int) -> list[Bucket]:
    with Store(path) as store:
        return store.read_buckets("run-1", extent_of(store), most)


def write_while_reading(path: Path, writer: sqlite3.Connection) -> None:
    with Store(path):
        writer.execute("UPDATE run SET profile = 'changed'")
        writer.commit()


_stores: list[bytes] = []


def _small_store(folders: pytest.TempPathFactory) -> bytes:
    if not _stores:
        rows: list[Row] = [second(number, **power(2.0)) for number in range(1, 20)]
        _stores.append(write_store(folders.mktemp("whole") / "t.sqlite", (run(), rows)).read_bytes())
    return _stores[0]


def sum_all_up(path: Path) -> None:
    with Store(path) as store:
        for record in store.list_runs():
            store.sum_up(record.run_id)


class TestStores:
    def test_a_store_at_rest_is_read_without_a_file_beside_it(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1)]))
        with Store(path) as store:
            assert [one.run_id for one in store.list_runs()] == ["run-1"]
        assert os.listdir(tmp_path) == ["t.sqlite"]

    def test_rows_that_only_the_log_has_are_read(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1)]))
        writer = sqlite3.connect(path)
        writer.execute("UPDATE run SET profile = 'changed'")
        writer.commit()
        assert (tmp_path / "t.sqlite-wal").stat().st_size > 0
        with Store(path) as store:
            assert store.list_runs()[0].profile == "changed"
        writer.close()

    def test_a_store_that_is_opened_for_writing_meanwhile_is_refused(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1)]))
        writer = sqlite3.connect(path)
        with pytest.raises(ReportError) as caught:
            write_while_reading(path, writer)
        writer.close()
        assert caught.value.reason == "busy"

    def test_the_first_schema_is_read(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1, **power(2.0)), second(2, **power(2.0))]))
        with sqlite3.connect(path) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(interval)")]
            new = columns[columns.index("rss_bytes") + 1 :]
            connection.executescript(
                "ALTER TABLE run DROP COLUMN unknown_below;"
                "DROP TABLE source_interval; DROP TABLE interruption; DROP TABLE meter;"
                + "".join(f"ALTER TABLE interval DROP COLUMN {name};" for name in new)
                + "PRAGMA user_version=1; PRAGMA journal_mode=DELETE;"
            )
        with Store(path) as store:
            found = summarise_run(store, store.list_runs()[0], extent_of(store))
        assert found.unknown is None
        assert found.run.unknown_below is None
        assert (found.interruptions, found.sources) == ((), ())
        assert found.power[0].energy_j == 4.0

    @pytest.mark.parametrize(
        ("content", "reason"), [(b"", "damaged"), (b"SQLite format 3\x00 and then junk", "damaged"), (b"dear diary", "damaged")]
    )
    def test_what_is_no_store_is_refused(self, tmp_path: Path, content: bytes, reason: str) -> None:
        path = tmp_path / "t.sqlite"
        path.write_bytes(content)
        with pytest.raises(ReportError) as caught:
            Store(path)
        assert caught.value.reason == reason

    def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), []))
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version=99")
        with pytest.raises(ReportError, match="schema 99"):
            Store(path)

    def test_a_store_cut_short_is_refused_in_one_line(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(number) for number in range(1, 3000)]))
        path.write_bytes(path.read_bytes()[:200_000])
        with pytest.raises(ReportError) as caught:
            sum_all_up(path)
        assert caught.value.reason == "damaged"

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.one_of(st.integers(0, 99), st.integers(100, 1 << 15)), st.integers(0, 255)), min_size=1, max_size=20
        )
    )
    def test_damage_anywhere_is_a_report_or_one_line(
        self, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
    ) -> None:
        content = bytearray(_small_store(tmp_path_factory))
        for place, value in damage:
            content[place % len(content)] = value
        path = tmp_path_factory.getbasetemp() / "damaged.sqlite"
        path.write_bytes(content)
        wanted = [Selection(path, "")]
        with contextlib.suppress(ReportError):
            encode_csv(read_all(wanted, [], with_series=True)[0])
        with contextlib.suppress(ReportError):
            list_files(wanted)

    @pytest.mark.parametrize("name", [b"interval", b"run"])
    def test_a_schema_that_is_no_text_is_damage(self, tmp_path: Path, name: bytes) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1)]))
        content = path.read_bytes()
        path.write_bytes(content.replace(b"CREATE TABLE " + name, b"CREATE TAB\xff\xfe " + name))
        with pytest.raises(ReportError) as caught:
            Store(path)
        assert caught.value.reason == "damaged"

    @pytest.mark.parametrize(
        ("table", "change"),
        [
            ("run", "source = NULL"),
            ("run", "threads = 'many'"),
            ("interval", "power_scope = 'moon'"),
            ("interval", "frames = NULL, fps = NULL"),
            ("interval", "timestamp_ns = NULL"),
        ],
    )
    def test_a_row_that_no_daemon_writes_is_damage(self, tmp_path: Path, table: str, change: str) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1, **power(2.0))]))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            # What the schema forbids, a worn card does.
            connection.executescript(
                f"CREATE TABLE copy AS SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE copy RENAME TO {table};"
                f"UPDATE {table} SET {change};"
            )
        with pytest.raises(ReportError) as caught:
            main([str(path), "--json"])
        assert caught.value.reason == "damaged"


class TestGaps:
    def test_a_time_without_rows_is_a_gap(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(number) for number in (1, 2, 7, 8, 20)]))
        with Store(path) as store:
            assert store.read_gaps("run-1", 0.0) == ([Span(2.0, 6.0), Span(8.0, 19.0)], 2, 15.0)
            assert store.read_gaps("run-1", 100.0) == ([Span(2.0, 19.0)], 2, 15.0)

    def test_rows_that_were_thinned_out_into_each_other_leave_no_gap(self, tmp_path: Path) -> None:
        # Of a minute, 50 s with power are one row, and the 10 s without another that ends before it.
        rows = [
            second(60, duration_s=60.0),
            second(95, duration_s=10.0),
            second(120, duration_s=50.0, **power(2.0, 50.0)),
            second(180, duration_s=60.0),
        ]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        with Store(path) as store:
            assert store.read_gaps("run-1", 0.0) == ([], 0, 0.0)

    def test_three_kinds_within_one_hour_leave_no_gap(self, tmp_path: Path) -> None:
        rows = [
            second(3600, duration_s=3600.0),
            second(4200, duration_s=120.0),
            second(7140, duration_s=2400.0, **power(2.0, 2400.0)),
            second(7200, duration_s=1080.0, **power(2.0, 1080.0, **ESTIMATED)),
        ]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        with Store(path) as store:
            assert store.read_gaps("run-1", 0.0) == ([], 0, 0.0)

    def test_a_gap_among_thinned_out_rows_is_kept(self, tmp_path: Path) -> None:
        rows = [second(60, duration_s=60.0), second(300, duration_s=10.0), second(330, duration_s=40.0)]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        with Store(path) as store:
            spans, count, total_s = store.read_gaps("run-1", 0.0)
        assert (count, total_s) == (1, 220.0)
        assert spans == [Span(60.0, 280.0)]


class TestBuckets:
    def test_each_row_is_its_own_bucket_where_there_are_few(self, tmp_path: Path) -> None:
        path = write_store(
            tmp_path / "t.sqlite", (run(), [second(number, frames=number, fps=float(number)) for number in (1, 2, 9)])
        )
        found = buckets_of(path, 10)
        assert [(one.start_s, one.end_s, one.rows, one.fps.middle) for one in found] == [
            (0.0, 1.0, 1, 1.0),
            (1.0, 2.0, 1, 2.0),
            (8.0, 9.0, 1, 9.0),
        ]

    @settings(deadline=None, max_examples=30)
    @given(
        rows=st.lists(st.tuples(st.integers(0, 60), st.floats(0.001, 5.0), st.floats(20.0, 90.0)), min_size=2, max_size=120),
        most=st.integers(1, 40),
    )
    def test_buckets_keep_sums_and_extremes(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float]], most: int
    ) -> None:
        records = [
            second(
                number + 1, frames=frames, fps=float(frames), latency_s=Percentiles(p50, 2 * p50, 3 * p50), temperature_c=heat
            )
            for number, (frames, p50, heat) in enumerate(rows)
        ]
        path = write_store(tmp_path_factory.mktemp("buckets") / "t.sqlite", (run(), records))
        found = buckets_of(path, most)
        assert len(found) <= max(most, len(rows) if len(rows) <= most else 0)
        assert sum(one.rows for one in found) == len(rows)
        assert sum(one.fps.middle * one.rows for one in found) == pytest.approx(sum(frames for frames, _, _ in rows))
        assert max(one.fps.most for one in found) == max(frames for frames, _, _ in rows)
        assert min(one.latency_s["p50"].least for one in found) == min(p50 for _, p50, _ in rows)
        assert max(one.latency_s["p99"].most for one in found) == max(3 * p50 for _, p50, _ in rows)
        assert all(before.end_s <= after.start_s + 1e-6 for before, after in itertools.pairwise(found))
        assert {one.latency_s["p50"].middle for one in found} <= {p50 for _, p50, _ in rows}

    def test_the_median_is_the_rows_own(self, tmp_path: Path) -> None:
        values = [0.05, 0.01, 0.04, 0.02, 0.03, 0.09]
        rows = [second(number + 1, latency_s=Percentiles(value, 1.0, 1.0)) for number, value in enumerate(values)]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        (one,) = buckets_of(path, 1)
        assert one.latency_s["p50"].middle == statistics.median_low(values)
        with Store(path) as store:
            band = store.find_band("run-1", "latency_p50_s")
        assert band is not None
        assert (band.least, band.middle, band.most) == (0.01, 0.03, 0.09)

    def test_rows_without_frames_have_no_latency(self, tmp_path: Path) -> None:
        path = write_store(tmp_path / "t.sqlite", (run(), [second(1, frames=0, fps=0.0, latency_s=None), second(2)]))
        first, last = buckets_of(path, 10)
        assert first.latency_s == {}
        assert first.fps.middle == 0.0
        assert last.latency_s["p50"].middle == 0.01

    def test_power_has_no_bucket_where_it_has_no_figure(self, tmp_path: Path) -> None:
        rows = [second(1, **power(2.0)), second(2), second(3, **power(4.0, **ESTIMATED)), second(4, **power(6.0))]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        with Store(path) as store:
            measured, estimated = sorted(store.sum_power("run-1"), key=lambda one: one.is_estimate)
            found = store.read_power_buckets("run-1", extent_of(store), 100, measured.origin)
            assert [(one.start_s, one.power_w.middle) for one in found] == [(0.0, 2.0), (3.0, 6.0)]
            assert [one.start_s for one in store.read_power_buckets("run-1", extent_of(store), 100, estimated.origin)] == [2.0]


class TestSpans:
    def test_interruptions_that_never_ended_last_to_the_end(self, tmp_path: Path) -> None:
        rows: list[Row] = [second(1), interruption(1.0, 3.5), second(10), interruption(8.0, None)]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        with Store(path) as store:
            extent = extent_of(store)
            assert store.read_interrupted("run-1", extent, 0.0) == [Span(1.0, 4.5), Span(8.0, 10.0)]
            (found,) = store.sum_interruptions("run-1", extent.end_s)
        assert (found.count, found.total_s, found.longest_s) == (2, 5.5, 3.5)

    def test_flags_are_whole_words(self, tmp_path: Path) -> None:
        rows = [second(1, throttled=""), second(2, throttled="under_voltage,throttled"), second(3, throttled="not_throttled")]
        path = write_store(tmp_path / "t.sqlite", (run(), rows))
        with Store(path) as store:
            assert store.read_throttled("run-1", "throttled", 0.0) == [Span(1.0, 2.0)]

    def test_sources_are_summed_up(self, tmp_path: Path) -> None:
        rows = [
            SourceIntervalRecord(number * SECOND_NS, source, 10, 1, 2, 10.0, None, None, False)
            for number in (1, 2)
            for source in ("v4l2:0", "v4l2:1")
        ]
        path = write_store(tmp_path / "t.sqlite", (run(), (second(1), second(2), *rows)))
        with Store(path) as store:
            found = store.sum_sources("run-1")
        assert [(one.source, one.frames, one.dropped, one.bad_frames) for one in found] == [
            ("v4l2:0", 20, 2, 4),
            ("v4l2:1", 20, 2, 4),
        ]
