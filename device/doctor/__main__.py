"""``python -m device.doctor``: checks what ghostwatt needs of this machine, and says how to fix what is missing."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from device import __version__
from device.bundle import Bundle, find_bundle, open_bundle
from device.core.errors import DoctorError, GhostwattError, exit_with_one_line
from device.core.state import find_state_folder
from device.doctor.check import PROBE_TIMEOUT_S, Check, CheckContext, Probe, examine, make_context
from device.doctor.checks_cameras import camera_check, source_kinds
from device.doctor.checks_health import check_clock, check_disk, check_governor, check_heat, check_memory
from device.doctor.checks_meters import METER_TIMEOUT_S, check_buses, look_once, meter_check, power_check, wanted_meters
from device.doctor.checks_runtimes import ATTEMPT_TIMEOUT_S, check_bundle, runtime_check, runtime_names
from device.doctor.checks_service import check_service
from device.doctor.checks_system import check_board, check_processor, check_python, check_system
from device.doctor.plugins import format_listing, list_plugins
from device.doctor.table import format_table, sum_up
from device.machine.board import detect_board

BUILD = Path("build")


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.doctor",
        description="Checks this machine: board, Python, runtimes, cameras, power meters, heat, memory, disk, clock, service. "
        f"Ends with {DoctorError.exit_code} if something doesn't work; warnings alone are 0.",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="the bundle (default: this board's, under build/)")
    parser.add_argument(
        "--telemetry", type=Path, metavar="PATH", help="where telemetry will be kept (default: this machine's state)"
    )
    parser.add_argument(
        "--plug-ins",
        action="store_true",
        help="list the sources, meters, runtimes and sinks that a profile may name, with options and needs, and end",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="look at a captured tree; Python, the runtimes, programs, the disk and the clock are still this machine's",
    )
    parser.add_argument("--version", action="version", version=f"ghostwatt {__version__}")
    return parser


def list_probes(context: CheckContext) -> list[Probe]:
    """Every check, in the order of the table."""
    short, look = PROBE_TIMEOUT_S, look_once()
    return [
        ("board", check_board, short),
        ("system", check_system, short),
        ("python", check_python, short),
        ("processor", check_processor, short),
        ("bundle", check_bundle, short),
        *((f"runtime {name}", runtime_check(name), ATTEMPT_TIMEOUT_S + short) for name in runtime_names(context)),
        *((f"camera {kind}", camera_check(kind), 2 * short) for kind in source_kinds()),
        *((f"meter {meter['kind']}", meter_check(meter, look), METER_TIMEOUT_S) for meter in wanted_meters(context)),
        ("power", power_check(look), METER_TIMEOUT_S),
        ("buses", check_buses, short),
        ("governor", check_governor, short),
        ("heat", check_heat, short),
        ("memory", check_memory, short),
        ("disk", check_disk, short),
        ("clock", check_clock, short),
        ("service", check_service, short),
    ]


def open_wanted(path: Path | None, root: Path) -> tuple[Bundle | None, GhostwattError | None]:
    """Opens the bundle that a run would take, or says why there is none."""
    facts = detect_board(root)
    try:
        return open_bundle(path or find_bundle(BUILD, facts.compatible, facts.machine)), None
    except GhostwattError as error:
        return None, error


def show(checks: Sequence[Check], *, as_json: bool) -> None:
    """Prints the rows."""
    if as_json:
        print(msgspec.json.encode(sum_up(checks)).decode())
    else:
        print(format_table(checks, shutil.get_terminal_size((120, 24)).columns))
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, runs the checks or lists the plug-ins, and prints.

    Raises:
        DoctorError: something doesn't work.
    """
    flags = build_parser().parse_args(arguments)
    if flags.plug_ins:
        listing = list_plugins()
        print(msgspec.json.encode(listing).decode() if flags.json else format_listing(listing))
        return 0
    bundle, error = open_wanted(flags.bundle, flags.root)
    telemetry = flags.telemetry or find_state_folder(flags.root)
    context = make_context(flags.root, bundle, error, telemetry)
    checks = examine(context, list_probes(context))
    show(checks, as_json=flags.json)
    failed = [check.check for check in checks if check.verdict == "fail"]
    if failed:
        raise DoctorError("doctor", f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", reason="failed")
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
