"""``python -m device.calibrate``: fits the board's own power model to the readings of a meter.

The board is first left idle, then every core is kept busy. In both steps the operator, or the meter named by ``--meter``, reads
the power, and the kernel reports the utilisation. The straight line through both points replaces the published model of the
meter ``estimate``; its figures are still estimates.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from device.bundle import open_bundle
from device.calibrate.load import Load, multiply_matrices, run_network
from device.contract import MeterConfig, Power
from device.core.clock import SystemClock
from device.core.errors import MeterError, UsageError, exit_with_one_line
from device.core.state import make_state_folder
from device.machine.thermals import SysfsThermals
from device.machine.utilisation import read_ticks
from device.meters.calibration import (
    Calibration,
    MeasuredBoard,
    Point,
    calibration_path,
    identify_board,
    write_calibration,
)
from device.meters.estimate import POWER_MODELS
from device.meters.meter import MeterContext
from device.meters.registry import METERS
from device.meters.sampler import PowerSampler
from device.meters.select import open_meter, read_options
from device.protocols import Clock, PowerMeter, ThrottleFlag

DURATION_S = 60.0
"""Length of each of the two steps. The first third is for settling: earlier work must end, and the supply must follow."""

SETTLE_SHARE = 1 / 3
READ_INTERVAL_S = 0.5

MAX_IDLE_UTILISATION = 0.2
MIN_LOAD_UTILISATION = 0.6

PLAUSIBLE_FACTOR = 4.0
"""Factor by which a known board's reading may differ from its published model. More means a wrong unit or another device."""

MAX_QUESTIONS = 3


class Operator(NamedTuple):
    """The person who runs the calibration.

    Attributes:
        answers: stream of the typed answers.
        screen: stream for questions and progress.
    """

    answers: TextIO
    screen: TextIO

    def show(self, line: str) -> None:
        """Prints a line."""
        self.screen.write(line + "\n")
        self.screen.flush()

    def show_progress(self, text: str) -> None:
        """Shows progress in place if the screen is a terminal."""
        if self.screen.isatty():
            self.screen.write(f"\r\x1b[K{text}")
            self.screen.flush()

    def end_progress(self) -> None:
        """Clears the line of progress."""
        if self.screen.isatty():
            self.screen.write("\r\x1b[K")
            self.screen.flush()

    def ask_power_w(self, step: str) -> float:
        """Asks for the meter's reading until the answer is a power.

        Raises:
            UsageError: ``no_answer``.
        """
        for _ in range(MAX_QUESTIONS):
            self.screen.write(f"What does the meter show now, in watts, {step}? ")
            self.screen.flush()
            answer = self.answers.readline()
            if not answer:
                break
            try:
                return parse_watts(answer)
            except argparse.ArgumentTypeError as error:
                self.show(str(error))
        raise UsageError(
            "the meter's reading",
            "no answer",
            expected="watts, such as 2.31",
            remedy="pass --idle-w and --load-w, or --meter",
            reason="no_answer",
        )


class CalibrationSetup(NamedTuple):
    """What the two steps need.

    Attributes:
        root: folder that holds ``proc`` and ``sys``.
        clock: for every wait.
        operator: sees the progress, and reads the meter if ``meter`` is None.
        meter: the reference meter; None if the operator reads it.
        duration_s: length of a step.
    """

    root: Path
    clock: Clock
    operator: Operator
    meter: PowerMeter | None
    duration_s: float


def parse_watts(text: str) -> float:
    """Parses ``2.31``, ``2,31`` or ``2.31 W``.

    Raises:
        ArgumentTypeError: it isn't a power.
    """
    try:
        power_w = float(text.strip().removesuffix("W").strip().replace(",", "."))
    except ValueError:
        power_w = float("nan")
    if not 0 < power_w <= 2000:
        raise argparse.ArgumentTypeError(f"{text.strip()[:40]!r} isn't a power in watts")
    return power_w


def build_parser() -> argparse.ArgumentParser:
    """Builds the command's argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m device.calibrate",
        description="Fits this board's own power model to two readings of a meter: one at idle, one under full load.",
    )
    parser.add_argument(
        "--meter",
        metavar="KIND",
        help=f"read this meter instead of asking: {', '.join(METERS.own_names())}; or its keys as JSON",
    )
    parser.add_argument(
        "--bundle", type=Path, help="load the cores with this bundle's network, and take the meter's keys from its profile"
    )
    parser.add_argument(
        "--scope",
        choices=("board", "wall"),
        help="what the meter that you read covers: board (in the board's lead) or wall (in the socket)",
    )
    parser.add_argument("--idle-w", type=parse_watts, metavar="W", help="your reading at idle; nothing is measured then")
    parser.add_argument("--load-w", type=parse_watts, metavar="W", help="your reading with every core busy")
    parser.add_argument(
        "--duration", type=_duration, default=DURATION_S, metavar="S", help="length of each step (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print the model as JSON")
    return parser


def _duration(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 3600 seconds")
    return value


def check_flags(flags: argparse.Namespace) -> None:
    """Rejects flags that contradict each other.

    Raises:
        UsageError: ``flags``.
    """
    if (flags.idle_w is None) != (flags.load_w is None):
        raise UsageError("--idle-w, --load-w", "only one given", expected="both, or neither", reason="flags")
    if flags.meter and flags.idle_w is not None:
        raise UsageError("--meter", "given with --idle-w", expected="one of the two", reason="flags")
    if flags.meter and flags.scope:
        raise UsageError(
            "--scope", "given with --meter", expected="one of the two: the meter itself defines its scope", reason="flags"
        )
    if not flags.meter and not flags.scope:
        raise UsageError(
            "--scope",
            "not given",
            expected="--scope board for a meter in the board's own lead, --scope wall for a plug in the socket",
            remedy="or name a meter with --meter KIND",
            reason="flags",
        )


def choose_meter(flags: argparse.Namespace) -> MeterConfig:
    """Chooses the meter's keys: those given as JSON, those of the bundle's profile, or just the kind.

    Raises:
        UsageError: ``flags`` for JSON that doesn't describe a meter.
    """
    if flags.meter.startswith("{"):
        try:
            (config,) = msgspec.convert({"meters": [msgspec.json.decode(flags.meter)]}, Power).meters
            read_options(config)
        except (msgspec.DecodeError, MeterError) as error:
            raise UsageError("--meter", flags.meter[:60], expected=str(error), reason="flags") from error
        return config
    named = open_bundle(flags.bundle).manifest.profile.power.meters if flags.bundle else ()
    return next((meter for meter in named if meter["kind"] == flags.meter), {"kind": flags.meter})


def open_reference(config: MeterConfig, root: Path, clock: Clock) -> PowerMeter:
    """Opens the reference meter.

    Raises:
        UsageError: ``estimate``: the meter doesn't measure, and can't be a reference.
        MeterError: its keys are invalid, or it isn't available.
    """
    meter = open_meter(config, MeterContext(root, clock))
    if meter.origin.is_estimate:
        meter.close()
        found = f"{config['kind']} is itself an estimate"
        raise UsageError("--meter", found, expected="a meter that measures", reason="estimate")
    return meter


def measure_point(setup: CalibrationSetup, step: str, load: Load | None) -> Point:
    """Waits until the board has settled, then measures power and utilisation over the same time.

    Args:
        setup: the calibration's setup.
        step: ``at idle`` or ``under load``, for display.
        load: the work that keeps the cores busy; None at idle.

    Raises:
        MeterError: the meter gave no figure for most of the time, or the processor wasn't as busy or as idle as required.
        UsageError: the operator gave no answer.
    """
    settle_s = setup.duration_s * SETTLE_SHARE
    _wait(setup, step, 0.0, settle_s, load, None)
    sampler = PowerSampler([setup.meter], 1 / READ_INTERVAL_S, setup.clock) if setup.meter else None
    before = read_ticks(setup.root)
    _wait(setup, step, settle_s, setup.duration_s, load, sampler)
    power_w = _take_power_w(sampler, setup.duration_s - settle_s) if sampler else setup.operator.ask_power_w(step)
    utilisation = read_ticks(setup.root).utilisation_since(before)
    _check_load(load)
    return Point(_check_utilisation(utilisation, is_load=load is not None), power_w)


def _wait(
    setup: CalibrationSetup, step: str, from_s: float, to_s: float, load: Load | None, sampler: PowerSampler | None
) -> None:
    """Waits for a part of a step, while showing progress and sampling the meter."""
    started_ns = setup.clock.now_ns() - round(from_s * 1e9)
    while (passed_s := (setup.clock.now_ns() - started_ns) / 1e9) < to_s:
        _check_load(load)
        if sampler:
            sampler.sample()
        setup.operator.show_progress(f"{step}: {passed_s:.0f} of {setup.duration_s:.0f} s")
        setup.clock.sleep(min(READ_INTERVAL_S, to_s - passed_s))
    if sampler:
        sampler.sample()
    setup.operator.end_progress()


def _check_load(load: Load | None) -> None:
    if load is not None:
        load.check()


def _take_power_w(sampler: PowerSampler, wait_s: float) -> float:
    figure = sampler.total()
    if figure is None or figure.covered_s < wait_s / 2:
        raise MeterError(
            "--meter",
            sampler.error() or "gave no figure for more than half of the time",
            expected="a figure for most of the time",
            remedy="try again, or pass a longer --duration",
            reason="missing",
        )
    return figure.power_w


def _check_utilisation(utilisation: float | None, *, is_load: bool) -> float:
    if utilisation is None:
        raise MeterError("/proc/stat", "counted no ticks", expected="a longer --duration", reason="malformed")
    if not is_load and utilisation > MAX_IDLE_UTILISATION:
        raise MeterError(
            "at idle",
            f"the processor was {utilisation:.0%} busy",
            expected=f"at most {MAX_IDLE_UTILISATION:.0%}",
            remedy="stop other programs (systemctl stop 'ghostwatt*'), then try again",
            reason="implausible",
        )
    if is_load and utilisation < MIN_LOAD_UTILISATION:
        raise MeterError(
            "under load",
            f"the processor was only {utilisation:.0%} busy",
            expected=f"at least {MIN_LOAD_UTILISATION:.0%}",
            remedy="leave out --bundle: its network may not use every core fully",
            reason="implausible",
        )
    return utilisation


def check_plausible(calibration: Calibration) -> None:
    """Compares the points with the board's published model, if there is one, to detect a wrong unit.

    Raises:
        MeterError: ``implausible``.
    """
    published = POWER_MODELS.get(calibration.board.name)
    if published is None:
        return
    for name, point in (("at idle", calibration.idle), ("under load", calibration.load)):
        expected_w = published.idle_w + published.span_w * point.utilisation
        if not expected_w / PLAUSIBLE_FACTOR <= point.power_w <= expected_w * PLAUSIBLE_FACTOR:
            raise MeterError(
                name,
                f"{point.power_w:g} W",
                expected=f"about {expected_w:.1f} W, as published for {calibration.board.name}",
                remedy="give watts, not milliwatts or amperes, and connect nothing else to the meter",
                reason="implausible",
            )


def measure(setup: CalibrationSetup, make_load: Callable[[], Load]) -> tuple[Point, Point, str, tuple[ThrottleFlag, ...]]:
    """Measures both points.

    Returns:
        The point at idle, the point under load, the kind of load, and the throttle flags that were set under load.
    """
    setup.operator.show(f"Step 1 of 2, idle: leave the board alone for {setup.duration_s:.0f} s.")
    idle = measure_point(setup, "at idle", None)
    setup.operator.show(f"Step 2 of 2, load: every core is kept busy for {setup.duration_s:.0f} s.")
    thermals = SysfsThermals(setup.root)
    with make_load() as load:
        busy = measure_point(setup, "under load", load)
    return idle, busy, load.kind, thermals.read().throttled_since_start or ()


def calibrate(flags: argparse.Namespace, board: MeasuredBoard, root: Path, clock: Clock, operator: Operator) -> Calibration:
    """Measures both points, or takes them from the flags, and checks them.

    Raises:
        MeterError: the figures are ``implausible``, or the meter can't be read.
    """
    with ExitStack() as stack:
        config = choose_meter(flags) if flags.meter else None
        meter = stack.enter_context(open_reference(config, root, clock)) if config else None
        setup = CalibrationSetup(root, clock, operator, meter, flags.duration)
        if flags.idle_w is None:
            cores = os.cpu_count() or 1
            idle, load, load_kind, throttled = measure(
                setup, lambda: run_network(flags.bundle, cores) if flags.bundle else multiply_matrices(cores)
            )
        else:
            idle, load, load_kind, throttled = Point(0.0, flags.idle_w), Point(1.0, flags.load_w), "not said", ()
    now = datetime.fromtimestamp(clock.wall_time_s(), UTC)
    try:
        calibration = Calibration(
            board=board,
            idle=idle,
            load=load,
            meter=meter.origin.source if meter else "read by a person",
            scope=meter.origin.scope if meter else flags.scope,
            load_kind=load_kind,
            measured_at_utc=now.isoformat(timespec="seconds"),
            throttled=throttled,
        )
    except ValueError as error:
        found = f"{idle.power_w:g} W at {idle.utilisation:.0%}, {load.power_w:g} W at {load.utilisation:.0%}"
        raise MeterError("the two readings", found, expected=str(error), reason="implausible") from error
    check_plausible(calibration)
    return calibration


def format_calibration(calibration: Calibration, path: Path) -> str:
    """Formats the result for display."""
    model = calibration.model
    rows = [
        ("board", str(calibration.board)),
        ("meter", f"{calibration.meter}, scope {calibration.scope}"),
        ("idle", f"{calibration.idle.power_w:.2f} W at {calibration.idle.utilisation:.0%} busy"),
        ("load", f"{calibration.load.power_w:.2f} W at {calibration.load.utilisation:.0%} busy ({calibration.load_kind})"),
        ("model", f"{model.idle_w:.2f} W + {model.span_w:.2f} W x utilisation; its figures stay ESTIMATES"),
        ("kept in", str(path)),
    ]
    if calibration.throttled:
        rows.append(("warning", f"under load: {', '.join(calibration.throttled)}; a cooler board may draw more"))
    return "\n".join(f"{name:<10}{text}" for name, text in rows)


def main(
    arguments: list[str] | None = None, *, root: Path = Path("/"), clock: Clock | None = None, operator: Operator | None = None
) -> int:
    """Measures, then stores and prints the model."""
    flags = build_parser().parse_args(arguments)
    check_flags(flags)
    board = identify_board(root)
    if board is None:
        raise MeterError(
            "board",
            "has no name, so its model couldn't be distinguished from another board's",
            expected="a device tree, or DMI tables",
            reason="missing",
        )
    path = calibration_path(root)
    # Fail before two minutes of measuring, not after.
    make_state_folder(path.parent)
    calibration = calibrate(flags, board, root, clock or SystemClock(), operator or Operator(sys.stdin, sys.stderr))
    write_calibration(calibration, root)
    if flags.json:
        print(
            msgspec.json.encode({"path": str(path), "calibration": calibration, "model": calibration.model._asdict()}).decode()
        )
    else:
        print(format_calibration(calibration, path))
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
