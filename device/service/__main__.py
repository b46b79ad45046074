"""``python -m device.service``: installs the daemon as a service of this board, and shows its state."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from device.core.errors import ServiceError, exit_with_one_line
from device.service.commands import Commands
from device.service.install import Installation, Service
from device.service.layout import Layout, unit_name
from device.service.release import linked
from device.service.unit import owning_groups, render_unit


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m device.service", description="Installs the daemon as a service of this board; needs root."
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="of the file system to work on (default: %(default)s)"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser("install", help="install, or upgrade in place")
    install.add_argument("--wheels", type=Path, required=True, metavar="DIR", help="wheels, ours among them")
    install.add_argument("--bundle", type=Path, metavar="PATH", help="a bundle to take in and run: a folder, or an archive")
    install.add_argument("--system-packages", action="store_true", help="let it import the distribution's: picamera2 needs it")
    install.add_argument("--signers", type=Path, metavar="FILE", help="from now on take only bundles that these have signed")
    install.add_argument("--no-start", action="store_true", help="start nothing")
    use = actions.add_parser("use", help="run another profile that has a bundle here, instead of those that run")
    use.add_argument("profile")
    status = actions.add_parser("status", help="what runs, and how")
    status.add_argument("--json", action="store_true", help="as JSON")
    actions.add_parser("unit", help="print the unit")
    uninstall = actions.add_parser("uninstall", help="take everything off but data")
    uninstall.add_argument("--purge", action="store_true", help="data too: bundles, telemetry, configuration")
    return parser


def install(flags: argparse.Namespace, service: Service) -> None:
    """Installs."""
    wanted = Installation(
        flags.wheels, flags.bundle, with_system_packages=flags.system_packages, signers=flags.signers, start=not flags.no_start
    )
    profiles = service.install(wanted)
    if not profiles:
        print("installed; no profile runs yet: ghostwatt bundle install BUNDLE, then ghostwatt service use PROFILE")


def uninstall(flags: argparse.Namespace, service: Service) -> None:
    """Uninstalls, and says what data is left."""
    left = service.uninstall(purge=flags.purge)
    print(f"uninstalled; data was left in {', '.join(map(str, left))}" if left else "uninstalled; nothing was left")


def _say(line: str) -> None:
    # The reader may be gone, as after a broken connection; what was begun is finished all the same.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


_SHOWN = ("ActiveState", "SubState", "StatusText", "NRestarts", "MainPID")


def status(flags: argparse.Namespace, service: Service, commands: Commands, layout: Layout) -> None:
    """Shows what runs."""
    release = linked(layout.current)
    rows = []
    for profile in service.enabled():
        names = ",".join(_SHOWN)
        text = commands.require("systemctl", "show", unit_name(profile), f"--property={names}", reason="systemd")
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        rows.append({"profile": profile, "bundle": layout.store.target(profile, "current"), **values})
    if flags.json:
        print(json.dumps({"release": release.name if release else None, "profiles": rows}))
        return
    print(f"software  {release.name if release else 'none'}")
    for row in rows:
        bundle = (row["bundle"] or "no bundle")[:12]
        state = f"{row.get('ActiveState')} ({row.get('SubState')}), {row.get('NRestarts')} restarts"
        print(f"{row['profile']:<10}{bundle}  {state}  {row.get('StatusText', '')}".rstrip())
    if not rows:
        print("no profile runs")


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and acts."""
    flags = build_parser().parse_args(arguments)
    layout, commands = Layout(flags.root), Commands()
    service = Service(layout, commands, _say)
    actions: dict[str, Callable[[], None]] = {
        "install": lambda: install(flags, service),
        "use": lambda: service.use(flags.profile),
        "status": lambda: status(flags, service, commands, layout),
        "unit": lambda: print(render_unit(owning_groups(), layout), end=""),
        "uninstall": lambda: uninstall(flags, service),
    }
    try:
        actions[flags.action]()
    except OSError as error:
        raise ServiceError(
            str(error.filename or flags.action), error.strerror or str(error), remedy="sudo, or free some space", reason="disk"
        ) from error
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
