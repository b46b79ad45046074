"""Builds a small Debian with what a board installs, without running anything in it: arm64, and amd64 where that is enough."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import sandbox
from .cache import Cache, fingerprint
from .debian import Apt, unpack
from .process import run_limited

_HERE = Path(__file__).parent
REPOSITORY = _HERE.parents[2]

PYTHON = ("base-files", "base-passwd", "bash", "coreutils", "dash", "libc-bin", "libgomp1", "libstdc++6", "python3")
BOOTABLE = (
    *PYTHON,
    "busybox-static",
    "dbus",
    "grep",
    "i2c-tools",
    "kmod",
    "libpam-modules",
    "libpam-runtime",
    "login",
    "mount",
    "passwd",
    "sed",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
    "v4l-utils",
)
SYSTEM = (*BOOTABLE, "python3-libcamera", "python3-prctl")
CAMERA = (*PYTHON, "python3-libcamera", "python3-prctl")

# picamera2 is in no Debian: from PyPI, with what it can't be imported without. Its other needs are for still pictures, videos
# and previews, and some of them have no wheels.
CAMERA_WHEELS = ("picamera2==0.3.38", "piexif>=1.1,<2", "pillow>=11,<14", "simplejpeg>=1.8,<2", "videodev2>=0.0.4,<0.1")

# libcamera's virtual camera reads it; a run puts its own there.
VIRTUAL_CAMERA_FILE = "/share/virtual.yaml"

# Extras that a board installs beside the base: LiteRT, and OpenCV for photographs and V4L2.
EXTRAS = ("litert", "camera")


_WHEELS = "usr/lib/python3/dist-packages"
_COMPILE_LIMIT_S = 300.0


class Suite(NamedTuple):
    """A Debian release that a board may run.

    Attributes:
        name: its code name.
        python: version of its Python.
        platforms: tags of the wheels that run there, newest first.
        architecture: Debian's name for it.
    """

    name: str
    python: str
    platforms: tuple[str, ...]
    architecture: str = "arm64"


# A platform tag names the oldest C library that a wheel needs (PEP 600): Debian 13 has 2.41, Debian 12 has 2.36.
_COMMON = ("manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_17")
_PLATFORMS = tuple(f"{tag}_aarch64" for tag in (*_COMMON, "manylinux2014"))
TRIXIE = Suite("trixie", "3.13", ("manylinux_2_39_aarch64", *_PLATFORMS))
TRIXIE_AMD64 = Suite("trixie", "3.13", tuple(tag.replace("aarch64", "x86_64") for tag in TRIXIE.platforms), "amd64")
BOOKWORM = Suite("bookworm", "3.11", ("manylinux_2_35_aarch64", *_PLATFORMS))


def board_requirements(project: Path = REPOSITORY / "pyproject.toml") -> list[str]:
    """What ``pip install 'ghostwatt[litert,camera]'`` asks for, from the project's own metadata."""
    table = tomllib.loads(project.read_text())["project"]
    wanted = list(table["dependencies"])
    for extra in EXTRAS:
        wanted += table["optional-dependencies"][extra]
    return sorted(set(wanted))


def board_tree(cache: Cache, suite: Suite, packages: Sequence[str] = PYTHON) -> Path:
    """Gives a tree with Python and the board's wheels.

    Args:
        cache: where it is kept.
        suite: the Debian release.
        packages: `PYTHON` runs programs; `CAMERA` has libcamera and picamera2 too; `SYSTEM` can be booted.

    Returns:
        The root folder. Read-only: other runs use it.
    """
    requirements = board_requirements()
    has_camera = "python3-libcamera" in packages
    inputs = [suite, sorted(packages), requirements, sandbox.MOUNT_POINTS, fingerprint(Path(__file__), _HERE / "debian.py")]

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            scratch = Path(name)
            unpack(Apt(scratch / "apt", suite.name, suite.architecture).fetch(packages), folder)
            finish_by_hand(folder)
            install_wheels(folder / _WHEELS, suite, requirements)
            if has_camera:
                add_camera(folder, suite)
            compile_bytecode(folder, suite, scratch)

    name = "system" if "systemd" in packages else "camera" if has_camera else "tree"
    return cache.entry(f"{name}-{suite.name}", inputs, build)


def add_camera(root: Path, suite: Suite) -> None:
    """Adds picamera2 to a tree with libcamera, and the link through which libcamera finds its virtual camera's description."""
    install_wheels(root / _WHEELS, suite, CAMERA_WHEELS, alone=True)
    link = root / "usr/share/libcamera/pipeline/virtual/virtual.yaml"
    link.parent.mkdir(parents=True)
    link.symlink_to(VIRTUAL_CAMERA_FILE)


def install_wheels(target: Path, suite: Suite, requirements: Sequence[str], *, alone: bool = False) -> None:
    """Unpacks the wheels of a suite's Python, chosen by pip, into a folder.

    Args:
        target: the folder.
        suite: the Debian release.
        requirements: as pip takes them.
        alone: without what they depend on.
    """
    platforms = [f"--platform={platform}" for platform in suite.platforms]
    version = suite.python.replace(".", "")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--upgrade", f"--target={target}"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={suite.python}"]
    command += ["--no-deps"] if alone else []
    command += [f"--abi={abi}" for abi in (f"cp{version}", "abi3", "none")]
    # Its warnings are about this interpreter's own packages, which have no part in it.
    done = subprocess.run([*command, *platforms, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip found no wheels for {suite.name}:\n{done.stderr.strip()}")


def size_bytes(folder: Path) -> int:
    """Bytes that a folder's files take, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def finish_by_hand(root: Path) -> None:
    """Does what the maintainer scripts of the few packages that matter would have done."""
    for name in ("passwd", "group"):
        master = root / f"usr/share/base-passwd/{name}.master"
        (root / "etc" / name).write_text(master.read_text().replace("root:*:", "root:x:"))
    shell = root / "usr/bin/sh"
    if not shell.is_symlink() and not shell.exists():
        shell.symlink_to("dash")
    sandbox.prepare(root)


def compile_bytecode(root: Path, suite: Suite, scratch: Path) -> None:
    """Compiles the tree's Python modules with the same Python of the host's architecture: bytecode is the same for all.

    A board's packages do it as they are installed. Without it, every emulated program would compile them again, for seconds.
    """
    native = scratch / "native"
    unpack(Apt(scratch / "apt-native", suite.name, "amd64").fetch(["python3"]), native)
    sandbox.prepare(native)
    for folder in (f"usr/lib/python{suite.python}", _WHEELS):
        compile_all = ["/usr/bin/python3", "-m", "compileall", "-q", "-s", "/share", "-p", f"/{folder}", "/share"]
        command = sandbox.inside(native, compile_all, writable={"share": root / folder})
        # It fails for files that are templates or tests of syntax errors, which nothing here imports.
        done = run_limited(command, timeout_s=_COMPILE_LIMIT_S, env={"PATH": "/usr/bin", "LC_ALL": "C.UTF-8"})
        if not list((root / folder).rglob("*.pyc")):
            raise RuntimeError(f"no bytecode came of {folder}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
