"""Installs the software, a bundle and the service on this board, changes what runs, and uninstalls it all.

Nothing stops before the new software and bundle are proven: wheels are checked and unpacked beside the old ones, and the bundle
passes its self-test under the new software. Only then the links move and the daemon is restarted. If it doesn't come up,
software and bundle are rolled back.

Standard library alone: on a bare board this runs from the wheel, before anything is installed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from device.core.durable import point_link, sync_folder, write_durably
from device.core.errors import GhostwattError, ServiceError
from device.core.programs import last_error
from device.service.commands import Commands
from device.service.layout import ALLOWED_SIGNERS_NAME, MANIFEST_NAME, USER, Layout, unit_name
from device.service.release import linked, make_release, switch_release
from device.service.unit import network_hosts, render_network, render_unit

_LAUNCHER = """\
#!/bin/sh
# ghostwatt COMMAND …: `ghostwatt service status`, `ghostwatt bundle list`, `ghostwatt doctor`
[ $# -gt 0 ] || set -- service status
command=$1
shift
# The release by its own name: what runs must not import from another when the link moves.
release=$(readlink -f {current}) || exit 127
exec "$release/bin/python" -I -B -X faulthandler -m "device.$command" "$@"
"""

_NETWORK = "50-network.conf"

# systemd.exec(5), "EnvironmentFile=".
_COMMENT = re.compile(r"^\s*[#;].*$", re.MULTILINE)
_NAMED = re.compile(r"^\s*\w+=", re.MULTILINE)

_UNKNOWN_FLAGS = 2
"""Exit code of a command that doesn't know its flags: argparse's."""

_ROW_KEYS = {"sha256", "profile", "is_current", "is_previous", "on_trial", "starts"}
"""Keys that a release must give of a bundle, see `device.bundle.store.Stored`."""


class Installation(NamedTuple):
    """What to install on a board.

    Attributes:
        wheels: folder of wheels, ours among them.
        bundle: to take in and run; None keeps those that are there.
        with_system_packages: see `make_release`.
        signers: file of the signers whose bundles the board accepts from now on; None leaves that as it is.
        start: whether to start the service.
    """

    wheels: Path
    bundle: Path | None = None
    with_system_packages: bool = False
    signers: Path | None = None
    start: bool = True


class _Bundles(NamedTuple):
    """A profile's bundles before anything changed.

    Attributes:
        release: of the software that listed them, and can restore them.
        sha256: of the current one.
        starts: of its trial; None if it has proved itself.
        previous: the one to go back to.
    """

    release: Path
    sha256: str
    starts: int | None
    previous: str | None


class Service:
    """The service on a board.

    Args:
        layout: of the board.
        commands: of the board.
        say: called with a line about each step.
    """

    def __init__(self, layout: Layout, commands: Commands, say: Callable[[str], None]) -> None:
        self._layout = layout
        self._commands = commands
        self._say = say

    # --- what there is ---

    def enabled(self) -> tuple[str, ...]:
        """Profiles that start with the board."""
        links = (self._layout.units / "multi-user.target.wants").glob("ghostwatt@*.service")
        return tuple(sorted(link.name.removeprefix("ghostwatt@").removesuffix(".service") for link in links))

    def profiles(self) -> tuple[str, ...]:
        """Profiles that have a bundle."""
        return self._layout.store.profiles()

    # --- install ---

    def install(self, wanted: Installation) -> tuple[str, ...]:
        """Installs, or upgrades in place. To repeat it changes nothing.

        Returns:
            The profiles that run.

        Raises:
            ServiceError: ``permission``, ``systemd``, ``disk``; ``older``: the wheels are older than this installer;
                ``refused``: the bundle is; ``not_ready``: the daemon didn't come up. What ran before runs again.
            MissingDependencyError: ``wheel``.
        """
        self._require_systemd()
        self._make_user()
        self._make_folders(wanted.signers)
        release = make_release(self._layout, wanted.wheels, with_system_packages=wanted.with_system_packages)
        self._say(f"software {release.name}: {size_bytes(release) / 1e6:.0f} MB")
        self._compile(release)
        sha256 = self._prove(release, wanted.bundle)
        with self._taking_back(self._bundles(release)):
            switch_release(self._layout, release)
            self._write_units()
            if sha256:
                self._bundle(release, "switch", sha256)
            chosen = self._chosen(sha256)
            self._write_networks()
            self._commands.require("systemctl", "daemon-reload", reason="systemd")
            for profile in chosen if wanted.start else ():
                self._start(profile)
        return chosen

    def _require_systemd(self) -> None:
        if os.geteuid() != 0 and self._layout.root == Path("/"):
            raise ServiceError("install", "is for root", remedy="sudo", reason="permission")
        self._commands.require("systemctl", "--version", reason="systemd")

    def _make_user(self) -> None:
        if self._commands.try_run("getent", "passwd", USER).code == 0:
            return
        home = self._layout.outside(self._layout.state)
        account = ["--system", "--user-group", "--home-dir", home, "--no-create-home", "--shell", "/usr/sbin/nologin"]
        self._commands.require("useradd", *account, USER, reason="user")
        self._say(f"made the user {USER}")

    def _make_folders(self, signers: Path | None) -> None:
        for folder, mode in ((self._layout.configuration, 0o755), (self._layout.state, 0o750), (self._layout.units, 0o755)):
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(mode)
        if signers is not None:
            write_durably(self._layout.configuration / ALLOWED_SIGNERS_NAME, signers.read_bytes())
        self._own_state()

    def _own_state(self) -> None:
        self._commands.require("chown", "-R", f"{USER}:{USER}", str(self._layout.state), reason="permission")

    def _compile(self, release: Path) -> None:
        """Compiles our package. Of other packages, the self-test compiles the modules that are used."""
        (package,) = release.glob("lib/python*/site-packages/device")
        self._commands.require(str(release / "bin/python"), "-I", "-m", "compileall", "-q", str(package), reason="python")

    def _prove(self, release: Path, bundle: Path | None) -> str | None:
        """Takes the bundle in without running it; without one, verifies those that run under the new software.

        Returns:
            The new bundle's name.
        """
        if bundle is not None:
            (taken,) = self._rows(release, "install", "--no-switch", str(bundle))
            return str(taken["sha256"])
        store = self._layout.store
        for profile in self.enabled():
            current = store.target(profile, "current")
            if current is not None:
                self._bundle(release, "verify", str(store.bundle(current)))
        return None

    def _bundle(self, release: Path, *arguments: str) -> str:
        where = ["--store", str(self._layout.state), "--config", str(self._layout.configuration)]
        command = (str(release / "bin/python"), "-I", "-m", "device.bundle")
        done = self._commands.try_run(*command, *where, *arguments)
        if done.code == _UNKNOWN_FLAGS:
            raise _older(release, done.last_line)
        if done.code:
            raise ServiceError(" ".join(command[:3]), done.last_line, reason="refused")
        return done.out

    def _rows(self, release: Path, *arguments: str) -> list[dict[str, Any]]:
        """Runs an action of ``device.bundle``; returns a row a bundle: of all, or of the one that the action was about."""
        said = json.loads(self._bundle(release, *arguments, "--json"))
        rows = said if isinstance(said, list) else [said]
        for row in rows:
            unsaid = sorted(_ROW_KEYS - row.keys())
            if unsaid:
                raise _older(release, f"gives no {', '.join(unsaid)}")
        return rows

    def _chosen(self, sha256: str | None) -> tuple[str, ...]:
        """Profiles to run: that of the new bundle; without one, those that ran before."""
        if sha256 is None:
            return self.enabled()
        store = self._layout.store
        found = [profile for profile in store.profiles() if store.target(profile, "current") == sha256]
        for profile in self.enabled():
            if profile not in found:
                self._stop(profile)
        return tuple(found)

    @contextlib.contextmanager
    def _taking_back(self, bundles: Sequence[_Bundles] = ()) -> Iterator[None]:
        """Restores what ran before if the block fails.

        Args:
            bundles: that were current, if the block may change that.
        """
        release, enabled = linked(self._layout.current), self.enabled()
        try:
            yield
        except (ServiceError, OSError) as failure:
            error = failure if isinstance(failure, ServiceError) else _disk_error(failure)
            left = self._put_back(release, enabled, bundles)
            what = "what ran before runs again" if enabled else "nothing ran before"
            if left:
                what = f"not all could be put back ({'; '.join(left)})"
            raise ServiceError(
                error.where, f"{error.found}: {what}", expected=error.expected, remedy=error.remedy, reason=error.reason
            ) from failure
        except BaseException:
            # Ctrl-C for one.
            self._put_back(release, enabled, bundles)
            raise

    def _put_back(self, release: Path | None, enabled: tuple[str, ...], bundles: Sequence[_Bundles]) -> list[str]:
        """Takes every step even if others fail; returns what went wrong."""
        new = [profile for profile in self.enabled() if profile not in enabled]
        steps: list[Callable[[], object]] = [functools.partial(self._stop, profile) for profile in new]
        steps += [functools.partial(self._restore, before) for before in bundles]
        if release is not None:
            steps.append(functools.partial(point_link, self._layout.current, f"releases/{release.name}"))
            steps.append(self._write_networks)
            steps.append(functools.partial(self._commands.require, "systemctl", "daemon-reload", reason="systemd"))
            steps += [functools.partial(self._start_again, profile) for profile in enabled]
        left = []
        for step in steps:
            try:
                step()
            except (GhostwattError, OSError) as error:
                left.append(str(error if isinstance(error, GhostwattError) else _disk_error(error)))
        return left

    def _start_again(self, profile: str) -> None:
        unit = unit_name(profile)
        self._commands.require("systemctl", "enable", unit, reason="systemd")
        self._commands.require("systemctl", "restart", unit, reason="systemd")

    def _bundles(self, release: Path) -> list[_Bundles]:
        """The current and previous bundle of each profile, by the store."""
        stored = self._rows(release, "list")
        previous = {entry["profile"]: entry["sha256"] for entry in stored if entry["is_previous"]}
        return [
            _Bundles(
                release=release,
                sha256=entry["sha256"],
                starts=entry["starts"] if entry["on_trial"] else None,
                previous=previous.get(entry["profile"]),
            )
            for entry in stored
            if entry["is_current"]
        ]

    def _restore(self, before: _Bundles) -> None:
        starts = [] if before.starts is None else ["--starts", str(before.starts)]
        previous = [] if before.previous is None else ["--previous", before.previous]
        self._bundle(before.release, "restore", *starts, *previous, before.sha256)

    # --- units ---

    def _write_units(self) -> None:
        write_durably(self._layout.unit, render_unit(self._groups(), self._layout).encode())
        launcher = self._layout.launcher
        launcher.parent.mkdir(parents=True, exist_ok=True)
        current = self._layout.outside(self._layout.current)
        write_durably(launcher, _LAUNCHER.format(current=current).encode(), mode=0o755)

    def _groups(self) -> set[str]:
        with contextlib.suppress(OSError):
            return {line.partition(":")[0] for line in (self._layout.root / "etc/group").read_text().splitlines()}
        return set()

    def _write_networks(self) -> None:
        """Allows each profile the hosts that it names, and no others."""
        for profile in self.profiles():
            text = render_network(network_hosts(self._addresses(profile)))
            path = self._layout.drop_ins(profile) / _NETWORK
            if text:
                path.parent.mkdir(exist_ok=True)
                write_durably(path, text.encode())
            elif path.exists():
                path.unlink()
                _remove_empty(path.parent)

    def _addresses(self, profile: str) -> Iterator[str]:
        manifest = self._layout.store.link(profile, "current") / MANIFEST_NAME
        with contextlib.suppress(OSError, ValueError):
            yield from _strings(json.loads(manifest.read_bytes()).get("profile"))
        with contextlib.suppress(OSError):
            yield from _words((self._layout.configuration / f"{profile}.env").read_text(errors="replace"))

    # --- what runs ---

    def _start(self, profile: str) -> None:
        unit = unit_name(profile)
        self._commands.require("systemctl", "enable", unit, reason="systemd")
        self._commands.try_run("systemctl", "reset-failed", unit)
        done = self._commands.try_run("systemctl", "restart", unit)
        if done.code:
            said = self._commands.try_run("journalctl", "--unit", unit, "--lines", "40", "--output", "cat", "--no-pager").out
            raise ServiceError(unit, last_error(said) or done.last_line, remedy=f"journalctl --unit {unit}", reason="not_ready")
        self._say(f"{unit} is up")

    def _stop(self, profile: str) -> None:
        unit = unit_name(profile)
        self._commands.require("systemctl", "disable", "--now", unit, reason="systemd")
        self._say(f"{unit} is off")

    def use(self, profile: str) -> None:
        """Runs a profile instead of those that run; if it doesn't come up, they run again.

        Raises:
            ServiceError: ``not_installed``: the profile has no bundle here; ``not_ready``: the daemon didn't come up.
        """
        if profile not in self.profiles():
            there = ", ".join(self.profiles()) or "none"
            raise ServiceError(
                f"profile {profile}",
                f"has no bundle on this board (there are: {there})",
                remedy=f"make deploy PROFILE={profile}",
                reason="not_installed",
            )
        others = [name for name in self.enabled() if name != profile]
        with self._taking_back():
            for other in others:
                self._stop(other)
            self._write_networks()
            self._commands.require("systemctl", "daemon-reload", reason="systemd")
            self._start(profile)

    # --- uninstall ---

    def uninstall(self, *, purge: bool) -> tuple[Path, ...]:
        """Uninstalls everything but data.

        Args:
            purge: data too.

        Returns:
            Folders that are left; they belong to root then.
        """
        for profile in self.enabled():
            self._stop(profile)
        self._commands.try_run("systemctl", "stop", unit_name("*"))
        for path in (*self._layout.units.glob("ghostwatt@*"), self._layout.launcher):
            _remove(path)
        _remove(self._layout.software)
        data = (self._layout.state, self._layout.configuration)
        for folder in data:
            if purge:
                _remove(folder)
            _remove_empty(folder)
        left = tuple(folder for folder in data if folder.exists())
        for folder in left:
            self._commands.require("chown", "-R", "root:root", str(folder), reason="permission")
        if self._commands.try_run("getent", "passwd", USER).code == 0:
            self._commands.require("userdel", USER, reason="user")
        self._commands.require("systemctl", "daemon-reload", reason="systemd")
        return left


def size_bytes(folder: Path) -> int:
    """Size of a folder's files together; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _disk_error(error: OSError) -> ServiceError:
    where = str(error.filename or "install")
    return ServiceError(where, error.strerror or str(error), remedy="free some space, or become root: sudo", reason="disk")


def _older(release: Path, found: str) -> ServiceError:
    return ServiceError(
        f"software {release.name}",
        f"doesn't understand its installer ({found})",
        expected="wheels that are no older than the installer",
        remedy="make deploy, which runs the installer that comes with the wheels",
        reason="older",
    )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _words(environment: str) -> Iterator[str]:
    """Words of an environment file's values; of ``--flag=word``, the word."""
    text = _COMMENT.sub("", environment)
    for word in _NAMED.sub("", text).replace('"', " ").replace("'", " ").split():
        yield word.partition("=")[2] if word.startswith("--") and "=" in word else word


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
