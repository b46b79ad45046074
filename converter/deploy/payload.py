"""What is sent to a board: wheels for its Python, and the bundle. Made once for all boards that are alike.

Standard library alone: the manifest is read as plain JSON, so that a board without msgspec can make its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from converter.deploy.probe import BoardProbe
from converter.deploy.wheel import write_wheel
from device.core.durable import replacing_file
from device.core.errors import BundleError, DeployError
from device.runtimes.native.build import build
from device.service.layout import MANIFEST_NAME, SIGNATURE_NAME
from device.service.plugins import read_plugins
from device.service.release import name_release
from device.service.wheels import find_wheels

PROJECT = Path(__file__).parents[2]

_OLDEST_GLIBC = 17
"""Of manylinux2014 (PEP 599): 2.17."""


class BundleFacts(NamedTuple):
    """What a deployment must know of a bundle.

    Attributes:
        root: its folder.
        sha256: hash of its manifest.
        profile: name of its profile.
        arch: machine that it was made for.
        files: names of its files.
        extras: extras of ours that the profile's camera, meters, runtime and sinks need.
        system_packages: of the distribution that they need, and that come no other way.
    """

    root: Path
    sha256: str
    profile: str
    arch: str
    files: tuple[str, ...]
    extras: frozenset[str]
    system_packages: frozenset[str]


def read_bundle(root: Path) -> BundleFacts:
    """Reads what a bundle says of itself.

    Raises:
        BundleError: ``missing``, ``malformed``. Everything else is checked on the board, before it is taken.
    """
    try:
        data = (root / MANIFEST_NAME).read_bytes()
        manifest: dict[str, Any] = json.loads(data)
        profile = manifest["profile"]
        named = _named(profile)
        plugins = [plugin for plugin in read_plugins() if (plugin.kind, plugin.name) in named]
        names = (MANIFEST_NAME, SIGNATURE_NAME, *(entry["name"] for entry in manifest["files"]))
        return BundleFacts(
            root=root,
            sha256=hashlib.sha256(data).hexdigest(),
            profile=profile["name"],
            arch=profile["board"]["arch"],
            files=tuple(name for name in names if (root / name).is_file()),
            extras=frozenset(plugin.extra for plugin in plugins if plugin.extra),
            system_packages=frozenset(package for plugin in plugins for package in plugin.system_packages),
        )
    except FileNotFoundError as error:
        raise BundleError(
            str(root), f"has no {MANIFEST_NAME}", remedy=f"make convert PROFILE={root.name}", reason="missing"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            str(root / MANIFEST_NAME), f"is no manifest ({error!r})", remedy="convert it again", reason="malformed"
        ) from error


def _named(profile: dict[str, Any]) -> set[tuple[str, str]]:
    """Kind and name of every plug-in that a profile names."""
    uri = profile["camera"]["uri"]
    return {
        *(("source", each.partition(":")[0]) for each in ([uri] if isinstance(uri, str) else uri)),
        *(("meter", meter["kind"]) for meter in profile.get("power", {}).get("meters", ())),
        *(("sink", sink["kind"]) for sink in profile.get("sinks", ())),
        ("runtime", profile["runtime"]["name"]),
    }


class Kind(NamedTuple):
    """Boards that get the same wheels.

    Attributes:
        arch: machine.
        python: version.
        glibc: version of the C library.
        extras: of ours.
        with_system_packages: packages of the distribution are imported beside.
    """

    arch: str
    python: tuple[int, int]
    glibc: str
    extras: frozenset[str]
    with_system_packages: bool


def kind_of(board: BoardProbe, bundle: BundleFacts, name: str, wanted: Iterable[str]) -> Kind:
    """Which wheels a board needs.

    Args:
        board: what it says of itself.
        bundle: that will run there.
        name: what the user calls the board.
        wanted: extras to install beside what the profile needs.

    Raises:
        DeployError: ``board``: a package is missing that only the distribution has.
    """
    modules = {f"python3-{module}" for module in board.modules}
    absent = bundle.system_packages - modules
    if absent:
        raise DeployError(
            name, f"lacks {', '.join(sorted(absent))}", remedy=f"sudo apt install {' '.join(sorted(absent))}", reason="board"
        )
    with_system = bool(bundle.system_packages)
    # The distribution's own OpenCV does as well, and saves 90 MB.
    drawn = {"video", "camera"} if with_system and "cv2" in board.modules else set()
    extras = (bundle.extras | set(wanted)) - drawn
    return Kind(bundle.arch, board.python, board.glibc, frozenset(extras), with_system)


class Payload(NamedTuple):
    """What one kind of board gets.

    Attributes:
        archive: a tar of ``wheels/``, ``bundle/`` and ``signers``.
        size_bytes: of it.
        wheel: our own, as it is called there.
        release: what the board will call the result.
    """

    archive: Path
    size_bytes: int
    wheel: str
    release: str


def make_payload(kind: Kind, bundle: BundleFacts, *, signers: Path | None, folder: Path) -> Payload:
    """Fetches the wheels and packs everything.

    Args:
        kind: of the board.
        bundle: to run there.
        signers: file of those whose bundles it takes; None leaves that to the board.
        folder: where payloads are kept.

    Raises:
        DeployError: ``wheels``: pip found none for this kind of board.
        MissingDependencyError: the native library can't be built.
    """
    system = "-system" if kind.with_system_packages else ""
    version = ".".join(map(str, kind.python))
    home = folder / f"{kind.arch}-py{version}-glibc{kind.glibc}{system}-{'-'.join(sorted(kind.extras)) or 'base'}"
    wheels = home / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("ghostwatt-*.whl"):
        old.unlink()
    fetch_wheels(kind, wheels)
    build(kind.arch, out=PROJECT / "device/runtimes/native/lib" / kind.arch)
    own = write_wheel(wheels, kind.arch)
    found = find_wheels(wheels)
    archive = home / f"{bundle.profile}.tar"
    _pack(archive, found, bundle, signers)
    release = name_release(found, kind.python, with_system_packages=kind.with_system_packages)
    return Payload(archive, archive.stat().st_size, own.name, release)


def requirements(kind: Kind) -> list[str]:
    """What pip is asked for."""
    table = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = list(table["dependencies"])
    for extra in sorted(kind.extras):
        wanted += table["optional-dependencies"][extra]
    if kind.with_system_packages and kind.python < (3, 12):
        # Debian 12's picamera2 and simplejpeg are built for NumPy 1, and can't be imported beside NumPy 2.
        wanted.append("numpy<2")
    return wanted


def fetch_wheels(kind: Kind, wheels: Path) -> None:
    """Lets pip choose and fetch the wheels of a board's Python; those that are there stay, others go.

    Raises:
        DeployError: ``wheels``.
    """
    wanted = requirements(kind)
    stamp = wheels.parent / "requirements.txt"
    text = "\n".join(wanted) + "\n"
    if stamp.is_file() and stamp.read_text() == text and list(wheels.glob("*.whl")):
        return
    if importlib.util.find_spec("pip") is None:
        remedy = "sudo apt install python3-pip (in a venv: python -m ensurepip)"
        raise DeployError(sys.executable, "has no pip to choose the wheels", remedy=remedy, reason="wheels")
    for old in wheels.glob("*.whl"):
        old.unlink()
    tag = "".join(map(str, kind.python))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={'.'.join(map(str, kind.python))}"]
    command += [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")]
    command += [f"--platform={platform}" for platform in platforms(kind.glibc, kind.arch)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        # A pip that is broken itself ends with a traceback, whose last line says why.
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or [f"pip ended with {done.returncode}"]
        raise DeployError(
            f"wheels for {kind.arch}, Python {'.'.join(map(str, kind.python))}, glibc {kind.glibc}",
            errors[-1].removeprefix("ERROR:").strip(),
            remedy="check the network; Debian 12 and 13 have wheels of everything",
            reason="wheels",
        )
    stamp.write_text(text)


def platforms(glibc: str, arch: str) -> list[str]:
    """Tags of wheels that run with a C library (PEP 600), newest first."""
    newest = int(glibc.split(".")[1])
    tags = [f"manylinux_2_{minor}_{arch}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
    return [*tags, f"manylinux2014_{arch}"]


def _pack(archive: Path, wheels: Sequence[Path], bundle: BundleFacts, signers: Path | None) -> None:
    with replacing_file(archive) as scratch, tarfile.open(scratch, "w", dereference=True) as tar:
        for wheel in wheels:
            tar.add(wheel, f"wheels/{wheel.name}")
        for name in bundle.files:
            tar.add(bundle.root / name, f"bundle/{name}")
        if signers is not None:
            tar.add(signers, "signers")
