"""The board's own model: measured on a board whose clock, ticks and sensor move together, kept, and used."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.calibrate.__main__ import Operator, main, parse_watts
from device.core.clock import ManualClock
from device.core.errors import GhostwattError, MeterError, SinkError, UsageError
from device.meters.calibration import (
    Calibration,
    MeasuredBoard,
    Point,
    calibration_path,
    identify_board,
    read_calibration,
    write_calibration,
)
from device.meters.estimate import EstimateMeter

TREES = Path(__file__).parents[1] / "fixtures" / "sysfs"
INA219 = '{"kind": "ina2xx", "shunt_ohm": 0.1}'
SENSOR = "sys/class/hwmon/hwmon2/power1_input"
WALL_TIME_S = 1_772_000_000.0  # 2026-02-25


def write(path: Path, text: str) -> None:
    path.write_text(text)


class LivingBoard(ManualClock):
    """A clock on which the board lives: while it sleeps, ticks pass and the sensor shows what the load draws."""

    def __init__(self, root: Path, *, idle_w: float = 2.5, load_w: float = 6.1, idle: float = 0.04, load: float = 0.96) -> None:
        super().__init__(start_ns=7_000_000_000, wall_time_s=WALL_TIME_S)
        self._root = root
        self._powers_w = (idle_w, load_w)
        self._utilisations = (idle, load)
        self._ticks = [0, 0]
        self.on_sleep: Callable[[bool], None] = lambda is_loaded: None
        self.sleep(0.1)

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        is_loaded = any(thread.name == "load" for thread in threading.enumerate())
        utilisation = self._utilisations[is_loaded]
        self._ticks[0] += round(duration_s * 40_000 * utilisation)
        self._ticks[1] += round(duration_s * 40_000 * (1 - utilisation))
        (self._root / "proc/stat").write_text(f"cpu  {self._ticks[0]} 0 0 {self._ticks[1]} 0 0 0 0 0 0\n")
        sensor = self._root / SENSOR
        if sensor.parent.is_dir():
            sensor.write_text(f"{round(self._powers_w[is_loaded] * 1e6)}\n")
        self.on_sleep(is_loaded)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("GHOSTWATT_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/pi")
    return Path(shutil.copytree(TREES / "rpi4-ina219", tmp_path / "root"))


def run(root: Path, clock: ManualClock, *flags: str, answers: str = "") -> str:
    """Runs the command; returns what the operator saw."""
    screen = io.StringIO()
    assert main(["--duration", "12", *flags], root=root, clock=clock, operator=Operator(io.StringIO(answers), screen)) == 0
    return screen.getvalue()


def stored(root: Path) -> Calibration:
    calibration = read_calibration(root)
    assert calibration is not None
    return calibration


def make_calibration(root: Path, **changes: object) -> Calibration:
    board = identify_board(root)
    assert board is not None
    calibration = Calibration(
        board=board,
        idle=Point(0.0, 2.0),
        load=Point(1.0, 6.0),
        meter="read by a operator",
        scope="wall",
        load_kind="matrix products",
        measured_at_utc="2026-02-25T06:13:20+00:00",
    )
    return msgspec.structs.replace(calibration, **changes)


# --- measuring --------------------------------------------------------------------------------------------------------


def test_a_named_meter_is_read_at_idle_and_under_load(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = run(root, LivingBoard(root), "--meter", INA219, "--json")
    printed = json.loads(capsys.readouterr().out)
    calibration = stored(root)
    assert calibration.idle.power_w == pytest.approx(2.5)
    assert calibration.load.power_w == pytest.approx(6.1)
    assert calibration.idle.utilisation == pytest.approx(0.04, abs=1e-3)
    assert calibration.load.utilisation == pytest.approx(0.96, abs=1e-3)
    assert (calibration.meter, calibration.scope) == ("ina219 (hwmon)", "board")
    assert calibration.board == MeasuredBoard("raspberrypi,4-model-b", "10000000b2c3d4e5")
    assert printed["path"] == str(root / "home/pi/.local/state/ghostwatt/power-model.json")
    assert printed["model"]["span_w"] == pytest.approx(3.6 / 0.92, rel=1e-2)
    assert "Step 1 of 2" in screen
    assert "Step 2 of 2" in screen
    assert not [thread for thread in threading.enumerate() if thread.name == "load"]


def test_a_person_reads_the_meter_while_the_load_goes_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = run(root, LivingBoard(root), "--scope", "wall", answers="what?\n3,1\n7.4 W\n")
    assert "'what?' isn't a power in watts" in screen
    calibration = stored(root)
    assert (calibration.idle.power_w, calibration.load.power_w, calibration.scope) == (3.1, 7.4, "wall")
    assert calibration.load.utilisation == pytest.approx(0.96, abs=1e-3)
    assert "ESTIMATES" in capsys.readouterr().out


def test_readings_that_were_taken_before_are_kept_without_waiting(root: Path) -> None:
    clock = LivingBoard(root)
    before_ns = clock.now_ns()
    run(root, clock, "--scope", "wall", "--idle-w", "2.8", "--load-w", "6.9")
    assert clock.now_ns() == before_ns
    assert stored(root).model == pytest.approx((2.8, 4.1))


def test_a_load_that_was_throttled_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = LivingBoard(root)
    word = root / "sys/devices/platform/soc/soc:firmware/get_throttled"
    clock.on_sleep = lambda is_loaded: write(word, "80000" if is_loaded else "0")
    run(root, clock, "--meter", INA219)
    assert stored(root).throttled == ("soft_temperature_limit",)
    assert "soft_temperature_limit" in capsys.readouterr().out


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "flags", "answers", "match", "reason"),
    [
        ({"idle": 0.4}, (), "", "40% busy", "implausible"),
        ({"load": 0.5}, (), "", "only 50% busy", "implausible"),
        ({"load_w": 2.5}, (), "", "at least 3% above", "implausible"),
        ({"load_w": 2.0}, (), "", "at least 3% above", "implausible"),
        ({}, ("--scope", "wall"), "2300\n6100\n", "no answer", "no_answer"),
        ({}, ("--scope", "wall"), "0.45\n1.2\n", "not milliwatts or amperes", "implausible"),
        ({}, ("--scope", "wall"), "230\n610\n", "not milliwatts or amperes", "implausible"),
        ({}, ("--scope", "wall"), "", "no answer", "no_answer"),
        ({}, ("--scope", "wall"), "x\n" * 9, "no answer", "no_answer"),
        ({}, ("--meter", "estimate"), "", "itself an estimate", "estimate"),
        ({}, ("--meter", "rapl"), "", "no RAPL here", "missing"),
        ({}, ("--meter", "shely"), "", "did you mean 'shelly'", "unknown_meter"),
        ({}, ("--meter", '{"kind": 3}'), "", "--meter", "flags"),
        ({}, ("--duration", "60"), "", "--scope board for a meter in", "flags"),
        ({}, ("--scope", "wall", "--idle-w", "2"), "", "only one given", "flags"),
        ({}, ("--meter", INA219, "--idle-w", "2", "--load-w", "5"), "", "one of the two", "flags"),
        ({}, ("--meter", INA219, "--scope", "wall"), "", "itself defines its scope", "flags"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_kept(
    root: Path, board: dict[str, float], flags: tuple[str, ...], answers: str, match: str, reason: str
) -> None:
    clock = LivingBoard(root, **board)
    with pytest.raises(GhostwattError, match=match) as caught:
        run(root, clock, *(flags or ("--meter", INA219)), answers=answers)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert not calibration_path(root).exists()


def test_a_meter_that_dies_on_the_way_gives_no_model(root: Path) -> None:
    clock = LivingBoard(root)
    node = (root / SENSOR).parent
    clock.on_sleep = lambda is_loaded: shutil.rmtree(node, ignore_errors=True) if is_loaded else None
    with pytest.raises(MeterError, match="ina219"):
        run(root, clock, "--meter", INA219)
    assert not calibration_path(root).exists()


def test_an_old_model_stays_where_the_new_one_fails(root: Path) -> None:
    run(root, LivingBoard(root), "--meter", INA219)
    before = calibration_path(root).read_bytes()
    with pytest.raises(MeterError):
        run(root, LivingBoard(root, load_w=1.0), "--meter", INA219)
    assert calibration_path(root).read_bytes() == before


def test_ctrl_c_ends_the_load_and_keeps_nothing(root: Path) -> None:
    clock = LivingBoard(root)

    def interrupt(is_loaded: bool) -> None:
        if is_loaded:
            raise KeyboardInterrupt

    clock.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(root, clock, "--meter", INA219)
    assert not [thread for thread in threading.enumerate() if thread.name == "load"]
    assert not calibration_path(root).exists()


def test_a_folder_that_can_not_be_written_is_told_before_anything_is_measured(root: Path) -> None:
    (root / "var/lib").mkdir(parents=True)
    (root / "home").write_text("no folder")
    clock = LivingBoard(root)
    before_ns = clock.now_ns()
    with pytest.raises(SinkError, match="can't be written"):
        run(root, clock, "--meter", INA219)
    assert clock.now_ns() == before_ns


def test_a_machine_without_a_name_gets_no_model(root: Path) -> None:
    shutil.rmtree(root / "proc/device-tree")
    with pytest.raises(MeterError, match="has no name"):
        run(root, LivingBoard(root), "--meter", INA219)


@given(st.text(max_size=12))
def test_an_answer_is_a_power_or_refused(text: str) -> None:
    try:
        assert 0 < parse_watts(text) <= 2000
    except Exception as error:
        assert type(error).__name__ == "ArgumentTypeError"  # noqa: PT017


def test_the_command_has_the_name_that_people_type() -> None:
    for name in ("device.calibrate", "device.calibrate.__main__"):
        done = subprocess.run(
            [sys.executable, "-m", name, "--idle-w", "2"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == UsageError.exit_code
        assert done.stderr == "error: --idle-w, --load-w: only one given; expected both, or neither\n"


# --- the model in use -------------------------------------------------------------------------------------------------


def estimate_w(root: Path, utilisation: float) -> float:
    clock = ManualClock()
    write(root / "proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0\n")
    meter = EstimateMeter(root, clock)
    meter.read()
    clock.advance(1.0)
    write(root / "proc/stat", f"cpu  {round(utilisation * 1000)} 0 0 {round((1 - utilisation) * 1000)} 0 0 0 0 0 0\n")
    sample = meter.read()
    assert sample is not None
    return sample.power_w


def test_the_boards_own_model_goes_before_the_published_one_and_stays_an_estimate(root: Path) -> None:
    assert estimate_w(root, 0.5) == pytest.approx(2.2857 + 4.5344 / 2)
    run(root, LivingBoard(root), "--scope", "wall", "--idle-w", "3", "--load-w", "7")
    meter = EstimateMeter(root, ManualClock())
    assert meter.origin.source == "estimate (two-point calibration, 2026-02-25)"
    assert (meter.origin.scope, meter.origin.is_estimate) == ("wall", True)
    assert estimate_w(root, 0.5) == pytest.approx(5.0)


def test_a_board_without_a_published_model_gets_figures_by_its_own(tmp_path: Path, root: Path) -> None:
    zero = Path(shutil.copytree(TREES / "rpi-zero2w", tmp_path / "zero"))
    with pytest.raises(MeterError, match=r"device\.calibrate"):
        EstimateMeter(zero, ManualClock())
    run(zero, LivingBoard(zero), "--scope", "board", "--idle-w", "0.6", "--load-w", "1.8")
    assert estimate_w(zero, 1.0) == pytest.approx(1.8)


def test_a_machine_without_a_device_tree_is_known_by_its_maker(tmp_path: Path, root: Path) -> None:
    host = Path(shutil.copytree(TREES / "x86-rapl", tmp_path / "host"))
    run(host, LivingBoard(host), "--scope", "wall", "--idle-w", "8", "--load-w", "45")
    assert stored(host).board == MeasuredBoard("Example Systems Mini 8 G4")
    assert estimate_w(host, 0.0) == pytest.approx(8.0)


@pytest.mark.parametrize(
    "board",
    [MeasuredBoard("raspberrypi,4-model-b", "10000000ffffffff"), MeasuredBoard("raspberrypi,5-model-b", "10000000b2c3d4e5")],
)
def test_a_model_of_another_board_is_refused_and_the_published_one_does_not_step_in(root: Path, board: MeasuredBoard) -> None:
    calibration_path(root).parent.mkdir(parents=True)
    write_calibration(make_calibration(root, board=board), root)
    with pytest.raises(MeterError, match="belongs to") as caught:
        EstimateMeter(root, ManualClock())
    assert caught.value.reason == "other_board"


@given(st.binary(max_size=60) | st.just(b"{}"))
def test_a_damaged_model_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    damaged = tmp_path_factory.mktemp("damaged")
    (damaged / "var/lib/ghostwatt").mkdir(parents=True)
    (damaged / "var/lib/ghostwatt/power-model.json").write_bytes(junk)
    with pytest.raises(MeterError) as caught:
        read_calibration(damaged)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"load": {"utilisation": 1.0, "power_w": 2.01}}, "at least 3%"),
        ({"load": {"utilisation": 0.3, "power_w": 6.0}}, "at least 40%"),
        ({"idle": {"utilisation": 0.5, "power_w": 2.0}}, "above 0 W at idle"),
        ({"idle": {"utilisation": 0.0, "power_w": -2.0}}, "> 0"),
        ({"schema": 2}, "schema"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_model_that_was_changed_by_hand_is_checked_like_a_new_one(root: Path, changes: dict[str, object], match: str) -> None:
    content = msgspec.to_builtins(make_calibration(root)) | changes
    (root / "var/lib/ghostwatt").mkdir(parents=True)
    (root / "var/lib/ghostwatt/power-model.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(MeterError, match=match):
        read_calibration(root)


@given(
    idle=st.floats(0.0, 0.2),
    load=st.floats(0.6, 1.0),
    idle_w=st.floats(1.0, 50.0),
    rise_w=st.floats(2.0, 50.0),
    at=st.floats(0, 1),
)
def test_the_line_goes_through_both_points(idle: float, load: float, idle_w: float, rise_w: float, at: float) -> None:
    board = MeasuredBoard("board")
    points = Point(idle, idle_w), Point(load, idle_w + rise_w)
    try:
        calibration = Calibration(board, *points, "meter", "board", "load", "2026-02-25T00:00:00")
    except ValueError as error:
        assert "above 0 W" in str(error) or "at least" in str(error)  # noqa: PT017
        return
    model = calibration.model
    for point in points:
        assert model.idle_w + model.span_w * point.utilisation == pytest.approx(point.power_w)
    assert model.idle_w > 0
    assert model.idle_w + model.span_w * at > 0
