"""Debian packages of any suite and architecture, fetched and unpacked without installing them.

A private apt does the work: it has its own lists and its own, empty, package state, and takes keys, proxies and the mirror
from the host. Maintainer scripts never run: arm64 packages unpack on any machine in seconds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .packages import MissingHostToolError

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Folders that a minimal system can do without.
_LEFT_OUT = (
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/share/info/*",
    "./usr/share/lintian/*",
    "./usr/share/i18n/*",
)


def mirror() -> str:
    """The Debian mirror that this host uses: ``GHOSTWATT_DEBIAN_MIRROR``, or the one in apt's own sources.

    Raises:
        MissingHostToolError: apt knows no mirror of Debian.
    """
    named = os.environ.get("GHOSTWATT_DEBIAN_MIRROR")
    if named:
        return named
    listing = _output(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
    )
    for line in listing.splitlines():
        origin, label, uri = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return uri
    raise MissingHostToolError(
        "apt knows no Debian mirror: run apt-get update, or set GHOSTWATT_DEBIAN_MIRROR where the host isn't Debian"
    )


class Apt:
    """A private apt for one suite and one architecture.

    Args:
        folder: for its lists and archives; the caller removes it.
        suite: ``trixie``, ``bookworm``.
        architecture: Debian's name for it.
    """

    def __init__(self, folder: Path, suite: str, architecture: str) -> None:
        if not _KEYRING.exists():
            raise MissingHostToolError(f"{_KEYRING} is missing (package debian-archive-keyring): make setup-board")
        self._archives = folder / "archives"
        for part in ("lists/partial", "archives/partial", "etc"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror()} {suite} main\n")
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Get::Assume-Yes": "true",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
            "Dir::Cache::archives": self._archives,
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
        }
        self._options = [text for name, value in settings.items() for text in ("-o", f"{name}={value}")]
        self._call("apt-get", "update")

    def fetch(self, packages: Sequence[str]) -> list[Path]:
        """Downloads packages with all that they depend on."""
        before = set(self._archives.glob("*.deb"))
        self._call("apt-get", "install", "--download-only", *packages)
        return sorted(set(self._archives.glob("*.deb")) - before)

    def fetch_alone(self, packages: Sequence[str]) -> list[Path]:
        """Downloads packages without what they depend on."""
        before = set(self._archives.glob("*.deb"))
        self._call("apt-get", "download", *packages, cwd=self._archives)
        return sorted(set(self._archives.glob("*.deb")) - before)

    def dependency(self, package: str, prefix: str) -> str:
        """Names the package that a meta-package stands for.

        Args:
            package: the meta-package (``linux-image-arm64``).
            prefix: what the dependency's name begins with.

        Raises:
            LookupError: it depends on no such package.
        """
        for line in self._call("apt-cache", "depends", package).splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith(prefix):
                return name
        raise LookupError(f"{package} depends on no {prefix}*")

    def _call(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        return _output([tool, "-q", *self._options, *arguments], cwd=cwd)


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpacks packages over each other, as dpkg would lay them out on a merged-/usr system."""
    for folder in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / folder).mkdir(parents=True, exist_ok=True)
        if not (root / folder).is_symlink():
            (root / folder).symlink_to(f"usr/{folder}")
    left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            command = ["tar", "--extract", "--preserve-permissions", "--keep-directory-symlink", *left_out, "-C", str(root)]
            subprocess.run(command, stdin=archive.stdout, check=True)
        if archive.returncode:
            raise subprocess.CalledProcessError(archive.returncode, ["dpkg-deb", str(package)])


def _output(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"{command[0]} failed with exit code {done.returncode}:\n{last}")
    return done.stdout
