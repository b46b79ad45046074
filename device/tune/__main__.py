"""``python -m device.tune``: finds the best operating point for an aim on this machine, and writes it as a profile."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from device import __version__
from device.bench.child import run_in_child
from device.bench.choices import add_choice_flags, check_meters, describe_wait, find_candidates, open_bundles, show_progress
from device.bench.runner import Candidate, interrupt_on_termination
from device.contract import Board, Profile
from device.core.durable import write_durably
from device.core.errors import BenchError, UsageError, exit_with_one_line
from device.core.flags import positive_float
from device.machine.board import detect_board
from device.tune.aims import Aim, LeastEnergy, LeastPowerAtRate, MostFrames, MostFramesWithinPower
from device.tune.governor import Governors
from device.tune.profile_text import FIRST_LINE, check_name, write_profile
from device.tune.result import TuneResult, TuneSettings
from device.tune.search import NOISE
from device.tune.space import build_space
from device.tune.table import format_tuning
from device.tune.tuner import Tuner

PROFILES = Path("firmware_profiles")


def build_parser() -> argparse.ArgumentParser:
    """Builds the command's argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m device.tune",
        description="Finds the best runtime, threads, rate and size for an aim by measuring, and writes them as a profile.",
    )
    aim = parser.add_mutually_exclusive_group(required=True)
    aim.add_argument("--for", dest="goal", choices=("fps", "efficiency"), help="most FPS, or least energy per inference")
    aim.add_argument("--fps", type=positive_float, metavar="F", help="least power at this many frames a second")
    aim.add_argument("--watts", type=positive_float, metavar="W", help="most FPS within this power")
    add_choice_flags(parser)
    parser.add_argument(
        "--allow-governor",
        action="append",
        nargs="?",
        const="",
        metavar="NAME",
        help="also try the processor's governors, or only this one; the current governor is restored at the end",
    )
    parser.add_argument("--exhaustive", action="store_true", help="measure every point in full, without early stopping")
    parser.add_argument("--quick", action="store_true", help="a first look: short windows, marked as too short everywhere")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the profile's file (default: its name, in firmware_profiles/)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


def choose_aim(flags: argparse.Namespace) -> Aim:
    """Chooses the aim by the flags."""
    if flags.fps is not None:
        return LeastPowerAtRate(flags.fps)
    if flags.watts is not None:
        return MostFramesWithinPower(flags.watts)
    return MostFrames() if flags.goal == "fps" else LeastEnergy()


def choose_settings(flags: argparse.Namespace) -> TuneSettings:
    """Chooses number and length of the measurements."""
    if flags.quick:
        return TuneSettings(flags.exhaustive, False, rounds=3, warm_up_s=0.2, window_s=1.0, idle_s=3.0, noise=NOISE)
    return TuneSettings(flags.exhaustive, True, rounds=3, warm_up_s=2.0, window_s=10.0, idle_s=30.0, noise=NOISE)


def limit_threads(candidates: Sequence[Candidate], board: Board, flags: argparse.Namespace) -> list[Candidate]:
    """Leaves out candidates with more threads than the profile's board has cores, since a profile can't set them.

    Raises:
        UsageError: ``threads`` if no candidate is left, or a flag asks for more.
    """
    kept = [candidate for candidate in candidates if candidate.choice.threads <= board.cores]
    if not kept or any(threads > board.cores for threads in flags.threads):
        raise UsageError(
            "--threads",
            ", ".join(str(threads) for threads in flags.threads),
            expected=f"at most {board.cores}, the cores of {board.name}",
            reason="threads",
        )
    return kept


def choose_governors(
    names: Sequence[str] | None, stack: contextlib.ExitStack
) -> tuple[Governors | None, tuple[str | None, ...]]:
    """Opens the governors if they may be changed; ``stack`` restores them.

    Raises:
        UsageError: there is no cpufreq, or it lacks a governor.
    """
    if names is None:
        return None, (None,)
    governors = stack.enter_context(Governors())
    available = governors.available()
    named = tuple(name for name in names if name)
    for name in named:
        if name not in available:
            raise UsageError("--allow-governor", repr(name), expected=f"one of {', '.join(available)}", reason="governor")
    return governors, named or available


def choose_file(out: Path | None, parent: str, aim: Aim) -> Path:
    """Chooses the profile's file, and checks before the measurement that it can be written.

    Raises:
        UsageError: ``name`` if it isn't a valid name of a profile's file.
        BenchError: ``exists`` if a profile that wasn't written by this command is there; ``permission``.
    """
    name = f"{parent}-tuned-{aim.slug}.yaml"
    path = out or (PROFILES / name if PROFILES.is_dir() else Path(name))
    if path.suffix != ".yaml":
        raise UsageError("--out", str(path), expected="a file that ends in .yaml", reason="name")
    check_name(path.stem)
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(FIRST_LINE):
        raise BenchError(str(path), "was not written by tune", remedy="choose another file with --out", reason="exists")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise BenchError(str(path.parent), "isn't a writable folder", remedy="choose a file with --out", reason="permission")
    return path


def run(flags: argparse.Namespace) -> int:
    """Runs the search, then prints and writes its result."""
    facts = detect_board()
    aim = choose_aim(flags)
    bundles = open_bundles(flags.bundle, facts)
    profiles = {bundle.manifest_sha256: bundle.manifest.profile for bundle in bundles}
    profile = bundles[0].manifest.profile
    _check_rate(flags.fps, profile.camera.rate_fps)
    candidates = limit_threads(find_candidates(bundles, flags, facts), profile.board, flags)
    power = check_meters(bundles[0])
    if aim.needs_power and power.no_power_reason:
        raise BenchError(
            f"aim: {aim.title}", f"no power figure: {power.no_power_reason}", remedy="fit a meter, or tune --for fps",
            reason="no_power",
        )  # fmt: skip
    path = choose_file(flags.out, profile.name, aim)
    with interrupt_on_termination(), contextlib.ExitStack() as stack:
        governors, names = choose_governors(flags.allow_governor, stack)
        points = build_space(candidates, aim, profile.camera.rate_fps, names)
        settings = choose_settings(flags)
        most_s = len(points) * settings.rounds * (settings.warm_up_s + settings.window_s)
        show_progress(f"{len(points)} points, {settings.rounds} rounds each: this takes {describe_wait(most_s)} at most")
        if power.is_estimate:
            show_progress("power is an ESTIMATE, not measured")
        tuner = Tuner(
            points,
            aim,
            settings,
            power,
            execute=run_in_child,
            use_governor=governors.use if governors else _no_governor,
            on_progress=show_progress,
        )
        result = tuner.run()
    return publish(result, profiles, path, flags)


def _check_rate(rate_fps: float | None, camera_rate_fps: float) -> None:
    if rate_fps is not None and rate_fps > camera_rate_fps:
        raise UsageError(
            "--fps", f"{rate_fps:g}", expected=f"at most {camera_rate_fps:g}, the rate of the profile's camera", reason="rate"
        )


def _no_governor(name: str) -> None:
    raise BenchError("governor", f"{name} was not allowed", remedy="pass --allow-governor", reason="governor")


def publish(result: TuneResult, profiles: Mapping[str, Profile], path: Path, flags: argparse.Namespace) -> int:
    """Writes the chosen point's profile, and prints the result.

    Args:
        result: of the search.
        profiles: profile of each bundle, by the bundle's hash.
        path: file for the new profile.
        flags: of the command line.

    Raises:
        BenchError: ``infeasible`` if no point meets the aim, ``failed`` if none could be measured.
    """
    if result.pick is not None:
        point = result.points[result.pick]
        parent = profiles[point.choice.manifest_sha256]
        text = write_profile(path.stem, parent, result, point)
        result = msgspec.structs.replace(result, profile=text, profile_file=str(path))
        _write(path, text)
    print(msgspec.json.encode(result).decode() if flags.json else format_tuning(result), flush=True)
    if result.pick is not None:
        show_progress(f"written: {path}")
        return 0
    if all(point.state == "failed" for point in result.points):
        raise BenchError(f"aim: {result.aim}", "no point could be measured; see above", reason="failed")
    raise BenchError(f"aim: {result.aim}", "no point meets it; see the table", remedy="choose a lower aim", reason="infeasible")


def _write(path: Path, text: str) -> None:
    try:
        write_durably(path, text.encode())
    except OSError as error:
        raise BenchError(
            str(path), f"can't be written ({error.strerror})", remedy="choose another file with --out", reason="permission"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    return run(build_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
