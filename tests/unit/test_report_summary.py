from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.bench.result import read_result
from device.report.subjects import Report, find_panels, make_report
from device.report.summary import RunReport, summarise_run
from device.report.table import FigureRow, encode_csv, encode_json, list_figures
from device.report.throttling import describe_throttling, judge_throttling
from device.report.words import format_duration
from device.telemetry.read import Store
from tests.unit.records import interval
from tests.unit.stores import ESTIMATED, MEASURED, SECOND_NS, Row, interruption, meter, power, run, second, write_store

BENCHES = Path(__file__).parents[1] / "fixtures/bench"

SOC: dict[str, Any] = {"power_source": "pmic", "power_scope": "soc", "power_is_estimate": False}


def summaries(path: Path) -> list[RunReport]:
    found = []
    with Store(path) as store:
        for record in store.list_runs():
            extent = store.find_extent(record.run_id)
            assert extent is not None
            found.append(summarise_run(store, record, extent))
    return found


def one_run(tmp_path: Path, *rows: Row) -> RunReport:
    (found,) = summaries(write_store(tmp_path / "t.sqlite", (run(), rows)))
    return found


# Length of an interval, of the gap before it, its inferences, its power and what share of it the meter covered.
IRREGULAR = st.lists(
    st.tuples(
        st.floats(0.2, 30.0),
        st.sampled_from([0.0, 0.0, 0.0, 2.0, 50.0]),
        st.integers(0, 100),
        st.sampled_from([None, MEASURED, MEASURED, ESTIMATED, SOC]),
        st.floats(0.1, 20.0),
        st.floats(0.1, 1.0),
    ),
    min_size=1,
    max_size=40,
)


class TestEnergy:
    @settings(deadline=None, max_examples=40)
    @given(rows=IRREGULAR, says_covered=st.booleans())
    def test_of_irregular_intervals_with_gaps_is_its_integral(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        rows: list[tuple[float, float, int, dict[str, Any] | None, float, float]],
        says_covered: bool,
    ) -> None:
        records, now_ns = [], 0
        integral_j: dict[object, float] = {}
        covered_s: dict[object, float] = {}
        for length_s, gap_s, frames, kind, watts, share in rows:
            now_ns += round((length_s + gap_s) * SECOND_NS)
            figures = power(watts, length_s * share, **kind) if kind else {}
            if not says_covered:
                figures["power_covered_s"] = None
            records.append(interval(now_ns, duration_s=length_s, frames=frames, fps=frames / length_s, **figures))
            if kind:
                key = (kind["power_source"], kind["power_is_estimate"])
                integral_j[key] = integral_j.get(key, 0.0) + watts * length_s * share
                covered_s[key] = covered_s.get(key, 0.0) + length_s * share
        (found,) = summaries(write_store(tmp_path_factory.mktemp("energy") / "t.sqlite", (run(), records)))
        assert {(one.source, one.is_estimate) for one in found.power} == set(integral_j)
        for one in found.power:
            key = (one.source, one.is_estimate)
            assert one.energy_j == pytest.approx(integral_j[key])
            assert one.covered_s == pytest.approx(covered_s[key])
            assert one.power_w == pytest.approx(integral_j[key] / covered_s[key])
            assert one.least_w is not None
            assert one.most_w is not None
            assert one.least_w <= one.power_w * (1 + 1e-9)
            assert one.power_w <= one.most_w * (1 + 1e-9)
        assert found.recorded_s == pytest.approx(sum(length_s for length_s, *_ in rows))
        expected_gap_s = sum(gap_s for _, gap_s, *_ in rows[1:])
        assert found.gaps_s == pytest.approx(expected_gap_s, abs=1e-6)
        assert found.length_s == pytest.approx(found.recorded_s + found.gaps_s)

    def test_an_inference_costs_what_was_counted_while_it_was_made(self, tmp_path: Path) -> None:
        # Twice as fast while the meter was away: those inferences must not make the others cheaper.
        found = one_run(
            tmp_path,
            second(1, frames=10, fps=10.0, **power(4.0)),
            second(2, frames=20, fps=20.0),
            second(3, frames=10, fps=10.0, **power(6.0)),
        )
        assert found.power[0].energy_per_inference_j == pytest.approx(0.5)
        assert found.power[0].fps_per_w == pytest.approx(2.0)

    def test_time_without_inferences_costs_too(self, tmp_path: Path) -> None:
        found = one_run(
            tmp_path, second(1, frames=10, fps=10.0, **power(4.0)), second(2, frames=0, fps=0.0, latency_s=None, **power(2.0))
        )
        assert found.power[0].energy_per_inference_j == pytest.approx(0.6)

    def test_a_meter_slower_than_the_intervals_is_not_counted_twice(self, tmp_path: Path) -> None:
        rows = [second(number, frames=10, fps=10.0, **(power(5.0, 2.0) if number % 2 == 0 else {})) for number in range(1, 11)]
        found = one_run(tmp_path, *rows)
        assert found.power[0].covered_s == pytest.approx(10.0)
        assert found.power[0].energy_per_inference_j == pytest.approx(0.5)

    def test_nothing_is_made_of_no_inferences_or_no_energy(self, tmp_path: Path) -> None:
        found = one_run(tmp_path, second(1, frames=0, fps=0.0, latency_s=None, **power(0.0)))
        assert found.power[0].power_w == 0.0
        assert found.power[0].energy_per_inference_j is None
        assert found.power[0].fps_per_w is None
        assert found.latency_s == {}

    def test_a_board_that_draws_nothing_for_a_while_is_covered_for_that_while(self, tmp_path: Path) -> None:
        found = one_run(tmp_path, second(1, **power(0.0, 0.25)), second(2, **power(3.0, 0.75)))
        assert (found.power[0].covered_s, found.power[0].power_w) == (1.0, 2.25)

    def test_other_meters_have_their_totals(self, tmp_path: Path) -> None:
        found = one_run(
            tmp_path,
            *(second(number, frames=10, fps=10.0, **power(4.0)) for number in (1, 2)),
            meter(0, 4.0, 2.0, source="ina219 (hwmon)", scope="board"),
            meter(1, 6.0, 1.5),
            meter(2, None, source="pmic", scope="soc", failed=9, error="gone"),
        )
        assert [(one.source, one.scope, one.power_w) for one in found.power] == [
            ("ina219 (hwmon)", "board", 4.0),
            ("shelly", "wall", 6.0),
        ]
        assert [one.energy_per_inference_j for one in found.power] == pytest.approx([0.4, 0.6])
        assert [one.error for one in found.meters] == [None, None, "gone"]
        panels = find_panels(make_report([found], []).subjects)
        assert [(panel.scope, len(panel.bars)) for panel in panels] == [("board", 1), ("wall", 1)]

    def test_power_that_does_not_say_where_it_comes_from_is_left_out(self, tmp_path: Path) -> None:
        found = one_run(tmp_path, second(1, power_w=3.0, energy_j=3.0), second(2, **power(5.0)))
        assert [one.power_w for one in found.power] == [5.0]
        assert found.unmarked_power_intervals == 1


class TestPanels:
    @settings(deadline=None, max_examples=30)
    @given(
        runs=st.lists(
            st.lists(
                st.tuples(st.sampled_from([None, MEASURED, ESTIMATED, SOC]), st.sampled_from(["", "throttled"])),
                min_size=1,
                max_size=6,
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_never_mix_measured_and_estimated_or_scopes(
        self, tmp_path_factory: pytest.TempPathFactory, runs: list[list[tuple[dict[str, Any] | None, str]]]
    ) -> None:
        # Estimates are of a thousand watts, so that one among measured figures can't hide in a mean.
        stored = []
        for index, rows in enumerate(runs):
            seconds = []
            for number, (kind, flags) in enumerate(rows):
                watts = 1000.0 if kind is ESTIMATED else 1.0
                seconds.append(second(number + 1, throttled=flags, **(power(watts, **kind) if kind else {})))
            stored.append((run(f"run-{index}", profile=f"profile-{index % 2}"), seconds))
        report = make_report(summaries(write_store(tmp_path_factory.mktemp("panels") / "t.sqlite", *stored)), [])
        for panel in find_panels(report.subjects):
            assert {bar.is_estimate for _, bar in panel.bars} == {panel.is_estimate}
            assert {bar.scope for _, bar in panel.bars} == {panel.scope}
            for _, bar in panel.bars:
                for watts in (bar.power_w.low, bar.power_w.value, bar.power_w.high):
                    assert (watts > 500) == panel.is_estimate
        for figure in list_figures(report):
            if figure.name == "power_w":
                assert (figure.value > 500) == (figure.kind == "estimated") == (figure.source == "estimate")

    def test_runs_and_benchmarks_stand_apart(self, tmp_path: Path) -> None:
        runs = summaries(write_store(tmp_path / "t.sqlite", (run(), [second(1, **power(2.0))])))
        path = BENCHES / "simulated-measured.json"
        panels = find_panels(make_report(runs, [(path, read_result(path))]).subjects)
        assert [(panel.method, len(panel.bars)) for panel in panels] == [("run", 1), ("bench", 6)]


class TestSubjects:
    def test_runs_of_one_setting_are_pooled_by_their_sums(self, tmp_path: Path) -> None:
        long = [second(number, frames=10, fps=10.0, **power(2.0)) for number in range(1, 10)]
        short = [second(1, frames=30, fps=30.0, **power(8.0))]
        (subject,) = make_report(
            summaries(write_store(tmp_path / "t.sqlite", (run("a"), long), (run("b"), short))), []
        ).subjects
        assert subject.of == ("a", "b")
        assert subject.fps is not None
        assert (subject.fps.value, subject.fps.low, subject.fps.high) == (12.0, 10.0, 30.0)
        (figures,) = subject.power
        assert (figures.power_w.value, figures.power_w.low, figures.power_w.high) == (2.6, 2.0, 8.0)

    def test_a_throttled_run_stands_apart_and_says_so(self, tmp_path: Path) -> None:
        path = write_store(
            tmp_path / "t.sqlite",
            (run("a"), [second(1, throttled="")]),
            (run("b"), [second(1, throttled=""), second(2, throttled="under_voltage")]),
            (run("c"), [second(1, throttled=None)]),
        )
        report = make_report(summaries(path), [])
        assert {subject.of: subject.throttling.state for subject in report.subjects} == {
            ("a",): "not_throttled",
            ("b",): "throttled",
            ("c",): "unsupported",
        }
        assert {subject.of: subject.label for subject in report.subjects} == {
            ("a",): "host, not throttled",
            ("b",): "host, throttled",
            ("c",): "host, throttling unknown",
        }
        assert {figure.throttled for figure in list_figures(report) if figure.run_id == "b"} == {"throttled"}

    @pytest.mark.parametrize(
        ("change", "label"),
        [
            ({"board": "Other"}, "host, Other"),
            ({"runtime": "executorch"}, "host, executorch"),
            ({"threads": 4}, "host, 4 threads"),
        ],
    )
    def test_labels_say_what_tells_them_apart(self, tmp_path: Path, change: dict[str, object], label: str) -> None:
        path = write_store(tmp_path / "t.sqlite", (run("a"), [second(1)]), (run("b", **change), [second(1)]))
        assert label in [subject.label for subject in make_report(summaries(path), []).subjects]

    def test_interruptions_and_gaps_are_warned_of(self, tmp_path: Path) -> None:
        found = one_run(tmp_path, second(1), second(5), interruption(1.0, 2.5), interruption(1.0, 2.5, reason="dark"))
        (subject,) = make_report([found], []).subjects
        assert subject.warnings == ("sources interrupted for 2.5 s", "not recorded for 3 s")

    def test_the_profiles_own_limit_is_warned_of(self, tmp_path: Path) -> None:
        found = one_run(tmp_path, second(1), second(2, heat_limit_fps=5.0), second(3, heat_limit_fps=5.0))
        assert found.heat_limited_s == 2.0
        (subject,) = make_report([found], []).subjects
        assert subject.warnings == ("held to a lower rate by the profile's limit on heat, during intervals of 2 s in all",)

    def test_a_benchmark_keeps_its_figures_and_its_flags(self) -> None:
        path = BENCHES / "simulated-flagged.json"
        result = read_result(path)
        report = make_report([], [(path, result)])
        measured = [choice for choice in result.choices if choice.latency]
        assert len(report.subjects) == len(measured)
        for choice, subject in zip(measured, report.subjects, strict=True):
            assert choice.energy is not None
            assert choice.latency is not None
            assert subject.fps is not None
            assert subject.fps.value == choice.latency.rate_fps.median
            assert subject.power[0].power_w.value == choice.energy.power_w.median
            assert subject.power[0].energy_per_inference_j is not None
            assert subject.power[0].energy_per_inference_j.value == choice.energy.gross_j.median
            assert subject.throttling.state == "throttled"
            assert any(warning.startswith("throttled: ") for warning in subject.warnings)


class TestTables:
    def report(self, tmp_path: Path) -> Report:
        path = write_store(
            tmp_path / "t.sqlite",
            (run("a"), [second(1, **power(2.0 / 3)), second(2, throttled="throttled", **power(0.1, **ESTIMATED))]),
            (run("b", profile="eco", board='a, "b"\nc'), [second(1, **power(3.0, 0.3, **SOC)), interruption(0.0, 0.5)]),
        )
        bench = BENCHES / "simulated-measured.json"
        return make_report(summaries(path), [(bench, read_result(bench))], ["empty"])

    def test_json_reads_back_equal(self, tmp_path: Path) -> None:
        report = self.report(tmp_path)
        assert msgspec.json.decode(encode_json(report), type=Report) == report

    def test_csv_reads_back_equal(self, tmp_path: Path) -> None:
        report = self.report(tmp_path)
        rows = list(csv.DictReader(io.StringIO(encode_csv(report))))
        optional = ("low", "high")
        read = [
            msgspec.convert({k: None if v == "" and k in optional else v for k, v in row.items()}, FigureRow, strict=False)
            for row in rows
        ]
        assert read == list_figures(report)

    def test_every_figure_of_power_says_source_scope_and_kind(self, tmp_path: Path) -> None:
        for figure in list_figures(self.report(tmp_path)):
            is_power = figure.name.startswith(("power_", "energy_", "net_")) or figure.name.endswith("_w")
            assert bool(figure.source) == bool(figure.scope) == is_power, figure
            assert is_power or figure.kind == "measured"


class TestWords:
    @pytest.mark.parametrize(
        ("length_s", "text"),
        [
            (0.0, "0 s"),
            (4.24, "4.2 s"),
            (60, "1 min"),
            (185.2, "3 min 5 s"),
            (7800, "2 h 10 min"),
            (86400 * 41 + 3600 * 3, "41 d 3 h"),
        ],
    )
    def test_lengths(self, length_s: float, text: str) -> None:
        assert format_duration(length_s) == text

    @pytest.mark.parametrize(
        ("lengths_s", "text"),
        [
            ({None: 5.0}, "can't tell whether it was throttled"),
            ({"": 5.0, None: 1.0}, "not throttled"),
            (
                {"": 5.0, "under_voltage,throttled": 2.0, "throttled": 1.0},
                "throttled: throttled (in 3 s), under voltage (in 2 s)",
            ),
        ],
    )
    def test_throttling(self, lengths_s: dict[str | None, float], text: str) -> None:
        assert describe_throttling(judge_throttling(lengths_s)) == text
