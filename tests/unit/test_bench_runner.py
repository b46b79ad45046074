"""From choices to a result: turns, figures, flags, failures, interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.bench.choices import describe_wait
from device.bench.figures import find_interval, overlap
from device.bench.plan import CONFORMING, QUICK, expected_s, find_choices
from device.bench.result import BenchResult, BenchSettings, Caveat, Choice, Conditions, RoundFailure, encode_result, read_result
from device.bench.rounds import Outcome, RoundJob
from device.bench.runner import Benchmark, Candidate
from device.bench.table import describe_caveats, format_result
from device.bundle import open_bundle
from device.core.errors import BenchError, UsageError
from tests.unit.boards import STEADY, Behaviour, SimulatedBoard, make_choice, make_conditions
from tests.unit.bundles import write_bundle

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bench"


def steady(_choice: Choice, _number: int) -> Behaviour:
    return Behaviour(0.04, 0.1)


def make_bench(
    execute: Callable[[RoundJob], Outcome],
    choices: Sequence[Choice],
    settings: BenchSettings = CONFORMING,
    *,
    no_energy_reason: str | None = None,
    is_strict: bool = False,
    said: list[str] | None = None,
    before: Conditions | None = None,
) -> Benchmark:
    return Benchmark(
        [Candidate(Path("bundle"), choice) for choice in choices],
        settings,
        no_energy_reason=no_energy_reason,
        meters_missing=(),
        before=before or make_conditions(),
        is_strict=is_strict,
        execute=execute,
        on_progress=(said if said is not None else []).append,
    )


def run(
    board: SimulatedBoard, *choices: Choice, settings: BenchSettings = CONFORMING, no_energy_reason: str | None = None
) -> BenchResult:
    bench = make_bench(board.execute, choices or [make_choice()], settings, no_energy_reason=no_energy_reason)
    bench.run()
    return bench.summarise(is_complete=True)


def test_gross_and_net_energy_are_known_to_the_digit() -> None:
    (found,) = run(SimulatedBoard(steady, idle_w=2.0)).choices
    assert found.energy is not None
    assert found.energy.net_j is not None
    assert found.energy.gross_j.median == pytest.approx(0.18)
    assert found.energy.net_j.median == pytest.approx(0.10)
    assert found.energy.power_w.median == pytest.approx(4.5)
    assert found.energy.gross_j.rounds == 5
    assert found.energy.samples == 500
    assert found.energy.resolution_w == 0.02
    assert found.energy.sampler_slowdown == pytest.approx(0.0, abs=1e-9)
    assert found.latency is not None
    assert found.latency.p50_s.median == pytest.approx(0.04)
    assert found.latency.inferences == 5 * 250
    assert found.flags == ()


def test_the_headline_is_the_median_round_and_the_interval_their_range() -> None:
    durations_s = [0.05, 0.03, 0.04, 0.06, 0.035]
    board = SimulatedBoard(lambda _choice, number: Behaviour(durations_s[number - 1], 0.0))
    (found,) = run(board).choices
    assert found.latency is not None
    p50_s = found.latency.p50_s
    assert (p50_s.median, p50_s.low, p50_s.high) == pytest.approx((0.04, 0.03, 0.06))
    assert p50_s.confidence == 0.9375


def test_choices_take_turns_in_jobs_of_their_own() -> None:
    board = SimulatedBoard(steady)
    one, other = make_choice(threads=1), make_choice(threads=2)
    run(board, one, other, settings=QUICK)
    assert [job.choice for job in board.jobs] == [None, one, other, one, other, one, other]
    assert board.jobs[0].energy_s == QUICK.idle_s


def test_without_a_meter_there_is_no_figure_but_the_reason() -> None:
    board = SimulatedBoard(steady)
    result = run(board, no_energy_reason="rapl: not there")
    assert result.idle is None
    assert all(job.energy_s is None for job in board.jobs)
    assert result.choices[0].energy is None
    assert result.choices[0].energy_missing_reason == "rapl: not there"
    assert "no energy: rapl: not there" in format_result(result)


def test_a_meter_that_falls_silent_spoils_the_figure_and_says_why() -> None:
    board = SimulatedBoard(steady)

    def execute(job: RoundJob) -> Outcome:
        outcome = board.execute(job)
        if outcome.round is None or outcome.round.energy is None or len(board.jobs) < 4:
            return outcome
        silent = msgspec.structs.replace(outcome.round.energy, power=None, power_missing_reason="covered 0.0 of 10.0 s")
        return Outcome(round=msgspec.structs.replace(outcome.round, energy=silent))

    bench = make_bench(execute, [make_choice()])
    bench.run()
    (found,) = bench.summarise(is_complete=True).choices
    assert found.energy is None
    assert found.energy_missing_reason == "in 3 of 5 windows: covered 0.0 of 10.0 s"
    assert found.latency is not None


def test_an_estimate_is_marked_in_the_table_and_below_it() -> None:
    text = format_result(run(SimulatedBoard(steady, is_estimate=True)))
    row = next(line for line in text.splitlines() if line.startswith("litert"))
    assert row.endswith("ESTIMATE")
    assert "energy: ESTIMATE, not measured: simulated" in text
    assert "ESTIMATE" not in format_result(run(SimulatedBoard(steady)))


def test_net_energy_that_drowns_in_the_idle_is_not_given_and_says_why() -> None:
    result = run(SimulatedBoard(lambda _choice, _number: Behaviour(0.04, 0.0), idle_w=2.0))
    (found,) = result.choices
    assert found.energy is not None
    assert found.energy.net_j is None
    assert found.energy.gross_j.median == pytest.approx(0.08)
    assert "no net figure: litert, 1 thread, int8, 32 px: drew no more than the idle machine" in format_result(result)


def test_idle_by_another_meter_is_not_subtracted_and_says_why() -> None:
    board = SimulatedBoard(steady)

    def execute(job: RoundJob) -> Outcome:
        outcome = board.execute(job)
        if outcome.idle is None or outcome.idle.power is None:
            return outcome
        power = msgspec.structs.replace(outcome.idle.power, source="estimate", is_estimate=True)
        return Outcome(idle=msgspec.structs.replace(outcome.idle, power=power))

    bench = make_bench(execute, [make_choice()])
    bench.run()
    text = format_result(bench.summarise(is_complete=True))
    assert "no net figure: litert, 1 thread, int8, 32 px: another meter gave the idle power: estimate" in text
    assert "idle: 2.00 W (ESTIMATE)" in text


def test_a_choice_that_fails_is_a_row_with_its_reason_and_the_others_go_on() -> None:
    board = SimulatedBoard(steady, failures={"executorch": RoundFailure("crashed", "its process ended by signal SIGSEGV")})
    said: list[str] = []
    bench = make_bench(board.execute, [make_choice("executorch"), make_choice()], said=said)
    bench.run()
    result = bench.summarise(is_complete=True)
    failed, good = result.choices
    assert failed.failure is not None
    assert (failed.failure.reason, failed.latency, failed.energy) == ("crashed", None, None)
    assert good.latency is not None
    assert sum(job.choice is not None and job.choice.runtime == "executorch" for job in board.jobs) == 1
    assert "failed: executorch, 1, int8: its process ended by signal SIGSEGV" in format_result(result)
    assert any("SIGSEGV" in line for line in said)


def test_flags_stand_beside_every_figure() -> None:
    throttled = msgspec.structs.replace(STEADY, throttled_since_start=("throttled",), governor="ondemand")
    result = run(SimulatedBoard(steady, thermals=throttled), make_choice(), make_choice("executorch"))
    for one in result.choices:
        assert [flag.code for flag in one.flags] == ["throttled", "governor"]
    text = format_result(result)
    assert text.count("throttled, governor") == 2
    assert "throttled: throttled during the measurement" in text


def test_a_quick_look_is_marked_as_too_short() -> None:
    result = run(SimulatedBoard(steady), settings=QUICK)
    assert [flag.code for flag in result.choices[0].flags] == ["too_short"]
    assert "not MLPerf-Tiny-style" in format_result(result)


@pytest.mark.parametrize("unsteady", ["idle", "round"])
def test_strict_refuses_at_the_first_flag(unsteady: str) -> None:
    board = SimulatedBoard(steady, thermals=msgspec.structs.replace(STEADY, governor="ondemand"))
    reason = None if unsteady == "idle" else "no meter"
    bench = make_bench(board.execute, [make_choice()], no_energy_reason=reason, is_strict=True)
    with pytest.raises(BenchError) as caught:
        bench.run()
    assert caught.value.reason == "governor"
    assert caught.value.exit_code == 70
    assert len(board.jobs) == 1


def test_strict_refuses_rounds_that_are_steady_each_but_not_together() -> None:
    board = SimulatedBoard(steady)

    def execute(job: RoundJob) -> Outcome:
        outcome = board.execute(job)
        if outcome.round is None or len(board.jobs) < 4:
            return outcome
        slower = make_conditions(frequency_low_hz=1.2e9, frequency_high_hz=1.2e9)
        return Outcome(round=msgspec.structs.replace(outcome.round, conditions=slower))

    with pytest.raises(BenchError) as caught:
        make_bench(execute, [make_choice()], is_strict=True).run()
    assert caught.value.reason == "frequency_moved"
    assert len(board.jobs) == 6


def test_strict_refuses_a_flag_that_idle_and_rounds_raise_only_together() -> None:
    board = SimulatedBoard(steady)

    def execute(job: RoundJob) -> Outcome:
        outcome = board.execute(job)
        if outcome.idle is None:
            return outcome
        slow = make_conditions(frequency_low_hz=1.2e9, frequency_high_hz=1.2e9)
        return Outcome(idle=msgspec.structs.replace(outcome.idle, conditions=slow))

    lenient = make_bench(execute, [make_choice()])
    lenient.run()
    beside_the_figures = [flag.code for flag in lenient.summarise(is_complete=True).choices[0].flags]
    with pytest.raises(BenchError) as caught:
        make_bench(execute, [make_choice()], is_strict=True).run()
    assert [caught.value.reason] == beside_the_figures == ["frequency_moved"]


def test_strict_lets_a_steady_machine_pass() -> None:
    bench = make_bench(SimulatedBoard(steady).execute, [make_choice(), make_choice("executorch")], is_strict=True)
    bench.run()
    assert all(one.flags == () for one in bench.summarise(is_complete=True).choices)


def test_what_is_so_beforehand_is_said_at_once_and_strict_refuses_it() -> None:
    board, said = SimulatedBoard(steady), list[str]()
    loaded = make_conditions(other_load_cores=1.5)
    make_bench(board.execute, [make_choice()], QUICK, before=loaded, said=said).run()
    assert said[0].startswith("warning: other_load: other programs used up to 1.50 cores")
    board = SimulatedBoard(steady)
    with pytest.raises(BenchError) as caught:
        make_bench(board.execute, [make_choice()], before=loaded, is_strict=True).run()
    assert caught.value.reason == "other_load"
    assert board.jobs == []


def test_an_interrupted_benchmark_keeps_what_it_has_and_says_so() -> None:
    board = SimulatedBoard(steady)

    def execute(job: RoundJob) -> Outcome:
        if len(board.jobs) == 4:
            raise KeyboardInterrupt
        return board.execute(job)

    bench = make_bench(execute, [make_choice(), make_choice("executorch")])
    assert not bench.has_rounds
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    result = bench.summarise(is_complete=False)
    assert [len(one.rounds) for one in result.choices] == [2, 1]
    assert all([flag.code for flag in one.flags] == ["interrupted"] for one in result.choices)
    text = format_result(result)
    assert "INTERRUPTED" in text
    # As many as there are, and as sure as those make it.
    assert "median of 1 to 2 rounds" in text
    assert "with at least 0.0% confidence" in text
    assert bench.has_rounds


@pytest.mark.parametrize("order", [1, -1])
def test_of_flags_of_a_kind_the_greatest_figure_is_told(order: int) -> None:
    flags = (Caveat("stolen_time", "gave up to 9%", 0.09), Caveat("stolen_time", "gave up to 12%", 0.12))[::order]
    assert describe_caveats(flags) == ["stolen_time: gave up to 12%"]


def test_flags_without_a_figure_are_all_told_once() -> None:
    capped, low = Caveat("throttled", "capped"), Caveat("throttled", "under voltage")
    assert describe_caveats([low, capped, low]) == ["throttled: under voltage", "throttled: capped"]


def test_the_table_tells_the_greatest_figure_of_all_choices() -> None:
    board = SimulatedBoard(steady)
    stolen = {"litert": 0.12, "executorch": 0.09}
    moved_hz = {"litert": 0.9e9, "executorch": 0.95e9}

    def execute(job: RoundJob) -> Outcome:
        outcome = board.execute(job)
        if outcome.round is None or job.choice is None:
            return outcome
        name = job.choice.runtime
        conditions = make_conditions(stolen_share=stolen[name], frequency_low_hz=moved_hz[name])
        return Outcome(round=msgspec.structs.replace(outcome.round, conditions=conditions))

    bench = make_bench(execute, [make_choice(), make_choice("executorch")])
    bench.run()
    text = format_result(bench.summarise(is_complete=True))
    assert "stolen_time: the hypervisor gave up to 12% of" in text
    assert "frequency_moved: the frequency varied between 900 and 1800 MHz" in text
    assert "9%" not in text
    assert "between 950" not in text


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    # A lopsided distribution, as latencies have; its median is ln 2.
    draws = np.random.default_rng(6).exponential(size=(5_000, 5))
    found = [find_interval(list(row)) for row in draws]
    held = np.mean([one.low <= np.log(2) <= one.high for one in found])
    assert held == pytest.approx(found[0].confidence, abs=0.012)


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=9), st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=9))
def test_intervals_overlap_exactly_where_a_value_lies_in_both(one: list[float], other: list[float]) -> None:
    first, second = find_interval(one), find_interval(other)
    assert first.low <= first.median <= first.high
    assert overlap(first, second) == overlap(second, first) == (max(first.low, second.low) <= min(first.high, second.high))


def test_one_round_is_sure_of_nothing() -> None:
    assert find_interval([3.0]).confidence == 0.0


# --- choices ----------------------------------------------------------------------------------------------------------


def test_every_choice_of_a_bundle_is_found(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert [(choice.runtime, choice.threads) for choice in find_choices(bundle, 3)] == [("litert", n) for n in (1, 2, 3)]
    assert [choice.threads for choice in find_choices(bundle, 3, ["litert"], [2, 2])] == [2]
    with pytest.raises(UsageError, match="at most 3"):
        find_choices(bundle, 3, threads=[4])
    with pytest.raises(UsageError, match="litert"):
        find_choices(bundle, 3, ["litertt"])


def test_how_long_it_takes_is_said_before() -> None:
    assert expected_s(CONFORMING, 2, has_energy=True) == 5 * 2 * (12 + 12) + 30
    assert expected_s(CONFORMING, 2, has_energy=False) == 5 * 2 * 12


@pytest.mark.parametrize(("duration_s", "words"), [(7.2, "8 s"), (119.0, "119 s"), (121.0, "3 minutes"), (600.0, "10 minutes")])
def test_a_wait_is_never_said_to_be_shorter_than_it_is(duration_s: float, words: str) -> None:
    assert describe_wait(duration_s) == words


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_results_that_were_kept_can_be_read_and_shown(path: Path) -> None:
    result = read_result(path)
    assert msgspec.json.decode(encode_result(result), type=BenchResult) == result
    assert result.machine.processor in format_result(result)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind": "something else"}', b"[1, 2]", b'{"started_at_utc": "\xff\xfe"}'])
def test_what_is_no_benchmark_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(BenchError) as caught:
        read_result(path)
    assert caught.value.reason == "malformed"
    with pytest.raises(BenchError, match="can't be read"):
        read_result(tmp_path / "none.json")
