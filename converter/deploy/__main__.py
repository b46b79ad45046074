"""``python -m converter.deploy``: installs the daemon on boards, as a service."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from converter.deploy.payload import read_bundle
from converter.deploy.rollout import BoardResult, Rollout, RolloutSettings, Target
from converter.deploy.transport import LocalTransport, SshTransport, Transport
from device.core.errors import DeployError, exit_with_one_line
from device.service.plugins import read_plugins

PROJECT = Path(__file__).parents[2]

EXTRAS = tuple(sorted({plugin.extra for plugin in read_plugins() if plugin.extra and plugin.kind != "runtime"}))
"""Those of pyproject.toml that a service may need by flags of its own, which no profile tells of."""


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m converter.deploy",
        description="Installs the daemon, its packages and a bundle on boards, over SSH, and starts it there as a service.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--host", action="append", metavar="[USER@]HOST", help="a board, as ssh takes it; may be given again")
    where.add_argument("--hosts", type=Path, metavar="FILE", help="a board a line, and after it a profile, if it is another")
    where.add_argument("--here", action="store_true", help="this machine")
    parser.add_argument("--profile", metavar="NAME", help="install build/NAME where a board's line names no other")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="this bundle instead")
    parser.add_argument("--list-profiles", action="store_true", help="print which profiles must be converted first, and end")
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="extras",
        choices=EXTRAS,
        help="packages to install beside what the profile needs (both runtimes travel in any case)",
    )
    parser.add_argument("--without-litert", action="store_true", help="save its 30 MB where the profile runs ExecuTorch")
    parser.add_argument(
        "--signers", type=Path, metavar="FILE", help="boards take only bundles that these have signed, from now on"
    )
    parser.add_argument("--ssh-options", default=os.environ.get("GHOSTWATT_SSH_OPTIONS", ""), help="for ssh: '-i KEY -p 2222'")
    parser.add_argument("--canary", action="store_true", help="the first board alone; the others only if it came up")
    parser.add_argument("--dry-run", action="store_true", help="ask the boards, and change nothing")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def read_hosts(path: Path) -> list[tuple[str, str | None]]:
    """Reads a file of boards: ``[user@]host [profile]`` a line; ``#`` begins a comment.

    Raises:
        DeployError: ``hosts``: it can't be read, names none, or one twice.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(str(path), f"can't be read ({error})", expected="a board a line", reason="hosts") from error
    hosts: list[tuple[str, str | None]] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2:
            raise DeployError(f"{path}:{number}", f"{line.strip()!r}", expected="[user@]host [profile]", reason="hosts")
        if words[0] in (host for host, _ in hosts):
            raise DeployError(f"{path}:{number}", f"{words[0]} is listed twice", reason="hosts")
        hosts.append((words[0], words[1] if len(words) == 2 else None))
    if not hosts:
        raise DeployError(str(path), "names no board", expected="[user@]host [profile] a line", reason="hosts")
    return hosts


def find_targets(flags: argparse.Namespace) -> list[Target]:
    """Reads which boards to deploy to, each with its bundle.

    Raises:
        DeployError: ``hosts``.
        BundleError: ``missing``, ``malformed``.
    """
    sources = find_sources(flags)
    if flags.here:
        return [Target(LocalTransport(), read_bundle(source)) for _, source in sources]
    options = shlex.split(flags.ssh_options)
    bundles = {source: read_bundle(source) for _, source in sources}
    transports: list[Transport] = [SshTransport(host, options) for host, _ in sources]
    return [Target(transport, bundles[source]) for transport, (_, source) in zip(transports, sources, strict=True)]


def find_sources(flags: argparse.Namespace) -> list[tuple[str, Path]]:
    """Reads which boards to deploy to, and where each one's bundle lies, or will lie once it is converted.

    Raises:
        DeployError: ``hosts``; also if nothing says which bundle a board gets.
    """
    if flags.here:
        named: list[tuple[str, str | None]] = [("this machine", None)]
    else:
        named = read_hosts(flags.hosts) if flags.hosts else [(host, None) for host in flags.host]
    return [(host, _source(flags, host, profile)) for host, profile in named]


def list_profiles(flags: argparse.Namespace) -> list[str]:
    """Profiles that must be converted first, each once; a bundle that is named needs none.

    Raises:
        DeployError: see `find_sources`.
    """
    return list(dict.fromkeys(source.name for _, source in find_sources(flags) if source != flags.bundle))


def _source(flags: argparse.Namespace, host: str, profile: str | None) -> Path:
    if profile is None and flags.bundle is not None:
        bundle: Path = flags.bundle
        return bundle
    if profile is None and flags.profile is None:
        where = f"{flags.hosts} {host}" if flags.hosts else host
        after = ", or a profile after the board" if flags.hosts else ""
        raise DeployError(where, "no profile is named", expected=f"PROFILE=rpi4 (--profile){after}", reason="hosts")
    return PROJECT / "build" / (profile or flags.profile)


def format_results(results: Sequence[BoardResult]) -> str:
    """Formats a table with a line for each board."""
    rows = [("board", "profile", "result", "seconds", "")]
    rows += [(r.host, r.profile, r.state, f"{r.duration_s:.0f}", r.detail) for r in results]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    cells = ("  ".join([*(text.ljust(width) for text, width in zip(row[:4], widths, strict=True)), row[4]]) for row in rows)
    return "\n".join(line.rstrip() for line in cells)


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and deploys."""
    flags = build_parser().parse_args(arguments)
    if flags.list_profiles:
        print("\n".join(list_profiles(flags)))
        return 0
    targets = find_targets(flags)
    extras = (*flags.extras, *(() if flags.without_litert else ("litert",)))
    settings = RolloutSettings(extras, flags.signers, PROJECT / "build/deploy", is_dry=flags.dry_run)
    rollout = Rollout(settings, lambda line: print(line, file=sys.stderr, flush=True))
    results = rollout.to_all(targets, canary=flags.canary)
    bad = [result for result in results if not result.is_well]
    if flags.json:
        print(json.dumps([result._asdict() for result in results]))
    elif len(results) > 1 or not bad:
        print(format_results(results))
    if not bad:
        return 0
    if len(results) == 1:
        raise DeployError(bad[0].host, bad[0].detail, reason="failed")
    found = f"{len(bad)} of {len(results)} boards failed, the first: {bad[0].host}"
    raise DeployError("deploy", found, remedy="the table says why", reason="failed")


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
