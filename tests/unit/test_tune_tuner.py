"""From a simulated board to a profile that the converter reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.profiles import FOLDER, LoadedProfile, load_profile
from device.bench.choices import PowerAvailability
from device.bench.result import Choice, RoundFailure
from device.bench.rounds import Outcome, RoundJob
from device.bench.runner import Candidate
from device.contract import Profile
from device.core.errors import BenchError, UsageError
from device.tune.aims import Aim, LeastEnergy, LeastPowerAtRate, MostFrames, MostFramesWithinPower
from device.tune.governor import Governors
from device.tune.profile_text import FIRST_LINE, check_name, write_profile
from device.tune.result import PointResult, TuneResult, TuneSettings
from device.tune.search import NOISE
from device.tune.space import build_space
from device.tune.table import format_tuning
from device.tune.tuner import Tuner
from tests.unit.boards import Behaviour, SimulatedBoard, make_choice, make_conditions

SETTINGS = TuneSettings(False, True, rounds=3, warm_up_s=0.5, window_s=10.0, idle_s=30.0, noise=NOISE)
CHOICES = [make_choice(runtime, threads) for runtime in ("litert", "executorch") for threads in (1, 2, 3, 4)]


def behave(choice: Choice, _number: int) -> Behaviour:
    """Two threads are best, four a disaster; each inference costs 0.1 J, more with more threads."""
    duration_s = {1: 0.060, 2: 0.040, 3: 0.045, 4: 0.200}[choice.threads] * (1.1 if choice.runtime == "litert" else 1.0)
    return Behaviour(duration_s, 0.08 + 0.02 * choice.threads)


def tune(
    aim: Aim,
    board: SimulatedBoard | None = None,
    *,
    governors: tuple[str | None, ...] = (None,),
    set_governors: list[str] | None = None,
    is_exhaustive: bool = False,
    no_power_reason: str | None = None,
) -> TuneResult:
    points = build_space([Candidate(Path("bundle"), choice) for choice in CHOICES], aim, 30.0, governors)
    return Tuner(
        points,
        aim,
        msgspec.structs.replace(SETTINGS, is_exhaustive=is_exhaustive),
        PowerAvailability((), no_power_reason, False),
        execute=(board or SimulatedBoard(behave)).execute,
        use_governor=(set_governors if set_governors is not None else []).append,
        on_progress=lambda _line: None,
    ).run()


def picked(result: TuneResult) -> tuple[str, int, float | None]:
    assert result.pick is not None
    point = result.points[result.pick]
    return point.choice.runtime, point.choice.threads, point.asked_rate_fps


def test_most_frames() -> None:
    result = tune(MostFrames())
    assert picked(result) == ("executorch", 2, None)
    point = result.points[result.pick or 0]
    assert point.rate_fps is not None
    assert point.rate_fps.median == pytest.approx(25.0)
    assert point.state == "measured"
    assert result.idle == {}
    assert {one.state for one in result.points if one.choice.threads == 4} == {"stopped"}


def test_least_energy_counts_the_idle_time() -> None:
    # Two threads: 0.12 J and 40 ms of 2 W: 0.2 J. One: 0.1 J and 60 ms: 0.22 J.
    result = tune(LeastEnergy())
    assert picked(result) == ("executorch", 2, None)
    assert result.points[result.pick or 0].energy_j == pytest.approx(0.2, rel=1e-3)


def test_a_rate_at_least_power_takes_the_thriftier_choice() -> None:
    # At 10 a second one thread draws 2 + 10 * 0.1 W.
    result = tune(LeastPowerAtRate(10.0))
    assert picked(result) == ("litert", 1, 10.0)
    power_w = result.points[result.pick or 0].power_w
    assert power_w is not None
    assert power_w.median == pytest.approx(3.0, rel=0.01)
    # Both runtimes cost the same here: the earlier one is taken, and the other named.
    assert [result.points[index].choice.runtime for index in result.rivals] == ["executorch"]


def test_within_a_power_the_highest_rate() -> None:
    # Within 3.4 W one thread gives 14 a second, of the rates that are tried 12.
    result = tune(MostFramesWithinPower(3.4))
    assert picked(result) == ("litert", 1, 12.0)


def test_nothing_within_a_power_is_no_pick() -> None:
    assert tune(MostFramesWithinPower(1.0)).pick is None


@pytest.mark.parametrize("aim", [MostFrames(), LeastEnergy(), LeastPowerAtRate(10.0), MostFramesWithinPower(3.4)])
def test_early_stops_save_measurements_and_change_nothing(aim: Aim) -> None:
    lazy, full = SimulatedBoard(behave), SimulatedBoard(behave)
    assert picked(tune(aim, lazy)) == picked(tune(aim, full, is_exhaustive=True))
    assert len(lazy.jobs) < len(full.jobs)


def test_an_idle_power_that_is_an_estimate_says_so() -> None:
    text = format_tuning(tune(LeastEnergy(), SimulatedBoard(behave, is_estimate=True)))
    assert "idle: 2.00 W (ESTIMATE)" in text
    assert "idle: 2.00 W\n" in format_tuning(tune(LeastEnergy())) + "\n"


def test_an_estimate_is_said_beside_every_figure() -> None:
    text = format_tuning(tune(LeastPowerAtRate(10.0), SimulatedBoard(behave, is_estimate=True)))
    rows = [line for line in text.splitlines() if " int8 " in line and "FPS" not in line]
    assert rows
    assert all("ESTIMATE" in row for row in rows)
    assert "power: ESTIMATE, not measured" in text


def test_a_choice_that_crashes_is_named_and_left_out() -> None:
    board = SimulatedBoard(behave, failures={"executorch": RoundFailure("crashed", "its process ended by signal SIGILL")})
    result = tune(MostFrames(), board)
    assert picked(result) == ("litert", 2, None)
    assert "failed: executorch, 1 thread, int8, 32 px: its process ended by signal SIGILL" in format_tuning(result)


def test_without_a_meter_speed_is_found_and_the_reason_said() -> None:
    result = tune(MostFrames(), SimulatedBoard(behave, has_meter=False), no_power_reason="rapl: not there")
    assert picked(result) == ("executorch", 2, None)
    assert "no power: rapl: not there" in format_tuning(result)
    assert all(point.power_w is None and point.energy_j is None for point in result.points)


class _PlugThatGoes(SimulatedBoard):
    """Its meter is there for the idle machine and for one runtime; for the other, the profile's next one stands in."""

    def execute(self, job: RoundJob) -> Outcome:
        outcome = super().execute(job)
        if job.choice is None or job.choice.runtime == "executorch":
            return outcome
        taken = outcome.round
        assert taken is not None
        assert taken.energy is not None
        assert taken.energy.power is not None
        other = msgspec.structs.replace(taken.energy.power, source="estimate", is_estimate=True, power_w=0.5)
        energy = msgspec.structs.replace(taken.energy, power=other)
        return Outcome(round=msgspec.structs.replace(taken, energy=energy))


@pytest.mark.parametrize("aim", [LeastEnergy(), LeastPowerAtRate(15.0), MostFramesWithinPower(30.0)], ids=lambda aim: aim.slug)
def test_watts_of_different_meters_are_not_compared(aim: Aim) -> None:
    result = tune(aim, _PlugThatGoes(behave))
    assert picked(result)[0] == "executorch"
    others = [point for point in result.points if point.choice.runtime == "litert" and point.failure]
    assert others
    assert all(point.failure is not None and "another meter" in point.failure.message for point in others)
    assert {point.source for point in result.points if point.source} == {"simulated"}


def test_each_governor_gets_its_own_idle_and_is_in_the_result() -> None:
    used: list[str] = []
    result = tune(LeastPowerAtRate(10.0), governors=("performance", "powersave"), set_governors=used)
    assert set(result.idle) == {"performance", "powersave"}
    assert used[:2] == ["performance", "powersave"]
    assert result.points[result.pick or 0].governor in ("performance", "powersave")


def test_a_point_answers_for_the_idle_of_its_own_governor_alone() -> None:
    steady_hz = {"performance": 1.8e9, "powersave": 0.6e9}
    noisy_idle = {"performance": 0.0, "powersave": 0.5}
    used: list[str] = []

    class Board(SimulatedBoard):
        def execute(self, job: RoundJob) -> Outcome:
            governor, outcome = used[-1], super().execute(job)
            hz = steady_hz[governor]
            calm = make_conditions(frequency_low_hz=hz, frequency_high_hz=hz, governors=(governor,))
            if outcome.round is not None:
                return Outcome(round=msgspec.structs.replace(outcome.round, conditions=calm))
            assert outcome.idle is not None
            loud = msgspec.structs.replace(calm, other_load_cores=noisy_idle[governor])
            return Outcome(idle=msgspec.structs.replace(outcome.idle, conditions=loud))

    result = tune(LeastPowerAtRate(10.0), Board(behave), governors=tuple(steady_hz), set_governors=used, is_exhaustive=True)
    found = {point.governor: {flag.code for flag in point.flags} for point in result.points}
    assert found == {"performance": set(), "powersave": {"other_load"}}


# --- the profile ------------------------------------------------------------------------------------------------------


def load(name: str, text: str, tmp_path: Path) -> LoadedProfile:
    folder = tmp_path / "profiles"
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return load_profile(name, folder)


def parent_of(name: str) -> Profile:
    return load_profile(name).profile


@pytest.mark.parametrize("aim", [MostFrames(), LeastEnergy(), LeastPowerAtRate(10.0), MostFramesWithinPower(2.5)])
@pytest.mark.parametrize("parent", ["rpi4", "rpi4-eco", "rpi5-max", "rpi-zero2w"])
def test_the_converter_reads_what_is_written(aim: Aim, parent: str, tmp_path: Path) -> None:
    result = tune(aim)
    point = result.points[result.pick if result.pick is not None else 0]
    name = f"{parent}-tuned-{aim.slug}"
    text = write_profile(name, parent_of(parent), result, msgspec.structs.replace(point, choice=_sized(point.choice)))
    found, was = load(name, text, tmp_path).profile, parent_of(parent)
    assert (found.name, found.inherits, found.board) == (name, parent, was.board)
    assert (found.runtime.name, found.runtime.threads) == (point.choice.runtime, point.choice.threads)
    assert found.limits.max_rate_fps == point.asked_rate_fps
    assert (found.camera, found.power, found.telemetry) == (was.camera, was.power, was.telemetry)
    assert msgspec.structs.replace(found.model, input_px=was.model.input_px) == was.model


def _sized(choice: Choice) -> Choice:
    return msgspec.structs.replace(choice, input_px=224)


def test_the_measurements_that_justify_it_stand_in_the_comments(tmp_path: Path) -> None:
    result = tune(LeastPowerAtRate(10.0))
    text = write_profile("rpi4-tuned-10fps", parent_of("rpi4"), result, result.points[result.pick or 0])
    assert text.startswith(FIRST_LINE)
    for line in format_tuning(result).splitlines():
        assert f"# {line}".rstrip() in text


def test_a_rate_for_heat_that_is_no_lower_is_dropped(tmp_path: Path) -> None:
    parent = parent_of("rpi4")
    limits = msgspec.structs.replace(parent.limits, slow_above_c=80.0, slow_rate_fps=10.0)
    hot = msgspec.structs.replace(parent, name="hot", limits=limits)
    text_of_hot = "name: hot\ndescription: x\ninherits: rpi4\nlimits:\n  slow_above_c: 80\n  slow_rate_fps: 10\n"
    result = tune(LeastPowerAtRate(10.0))
    text = write_profile("hot-tuned-10fps", hot, result, _real_size(result))
    folder = tmp_path / "profiles"
    shutil.copytree(FOLDER, folder)
    (folder / "hot.yaml").write_text(text_of_hot)
    found = load("hot-tuned-10fps", text, tmp_path).profile.limits
    assert (found.max_rate_fps, found.slow_above_c, found.slow_rate_fps) == (10.0, None, None)


def _real_size(result: TuneResult) -> PointResult:
    point = result.points[result.pick or 0]
    return msgspec.structs.replace(point, choice=_sized(point.choice))


@settings(deadline=None, max_examples=40)
@given(title=st.text(max_size=40), reason=st.text(max_size=60))
def test_no_words_can_break_the_profile(title: str, reason: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    parent = parent_of("rpi4")
    parent = msgspec.structs.replace(parent, board=msgspec.structs.replace(parent.board, title=title))
    result = msgspec.structs.replace(QUIET, no_power_reason=reason or "none")
    text = write_profile("rpi4-tuned-fps", parent, result, _real_size(result))
    found = load("rpi4-tuned-fps", text, tmp_path_factory.mktemp("words")).profile
    assert found.description == f"{title}, tuned: {result.aim}"
    assert found.runtime.threads == 2


QUIET = tune(MostFrames())


@pytest.mark.parametrize("name", ["", "Rpi4", "-x", "a" * 65, "a.b", "ä"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


# --- governors --------------------------------------------------------------------------------------------------------


def write_cpu(root: Path, number: int, governor: str, available: str) -> Path:
    folder = root / f"sys/devices/system/cpu/cpu{number}/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text(f"{governor}\n")
    (folder / "scaling_available_governors").write_text(f"{available}\n")
    return folder / "scaling_governor"


def test_governors_are_set_and_put_back_core_by_core(tmp_path: Path) -> None:
    one = write_cpu(tmp_path, 0, "ondemand", "performance ondemand userspace")
    other = write_cpu(tmp_path, 1, "schedutil", "performance ondemand schedutil")

    def interrupted() -> None:
        with Governors(tmp_path) as governors:
            assert governors.available() == ("performance", "ondemand")
            governors.use("performance")
            assert (one.read_text(), other.read_text()) == ("performance", "performance")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (one.read_text(), other.read_text()) == ("ondemand", "schedutil")


def test_a_machine_without_cpufreq_has_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cpufreq"):
        Governors(tmp_path)


def test_one_that_may_not_be_set_says_what_to_do(tmp_path: Path) -> None:
    node = write_cpu(tmp_path, 0, "ondemand", "performance ondemand")
    governors = Governors(tmp_path)
    node.unlink()
    node.mkdir()  # nobody can write to a folder, root neither
    with pytest.raises(BenchError, match="sudo"):
        governors.use("performance")
