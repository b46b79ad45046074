"""Builds the ExecuTorch library for this machine, or for a board.

    python -m device.runtimes.native.build [--arch x86_64|aarch64] [--wheel FILE] [--out DIR]

Compiles ``ghostwatt_executorch.cpp`` against the headers and shared libraries that the executorch wheel ships, and puts the
result beside copies of the three libraries that it needs. Nothing else goes to a board: no executorch package, no torch.

For this machine's own architecture the installed executorch package is used, without importing it. If there is none, or for
another architecture, pip downloads the wheel into ``build/cache``. Compiles only when an input has changed. A board without a
compiler can use a library that another computer built from the same sources.

The wheel's libraries need glibc 2.27, libstdc++ and libgcc_s, which every supported board has; they come stripped.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from device.core.errors import MissingDependencyError, UsageError, exit_with_one_line, nearest

EXECUTORCH_VERSION = "1.5.1"
ABI_TAG = "manylinux_2_28"
LIBRARY = "libghostwatt_executorch.so"
NEEDED = ("libexecutorch_backend_xnnpack.so", "libexecutorch_threadpool.so", "libexecutorch.so")
STAMP = "STAMP"

HERE = Path(__file__).parent
SOURCES = ("ghostwatt_executorch.cpp", "ghostwatt_executorch.h")
PROJECT = HERE.parents[2]

FLAGS = (
    "-std=c++17",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-fvisibility=hidden",
    "-shared",
    # Use the headers' own copy of c10's macros instead of the one that a build of PyTorch generates.
    "-DC10_USING_CUSTOM_GENERATED_MACROS",
    f'-DGW_EXECUTORCH_VERSION="{EXECUTORCH_VERSION}"',
    # Without a build id, the same inputs give the same bytes.
    "-Wl,--build-id=none",
    "-s",
)


class Compiler(NamedTuple):
    """The compiler for an architecture, and the Debian package that brings it."""

    command: str
    package: str


CROSS_COMPILERS = {
    "x86_64": Compiler("x86_64-linux-gnu-g++", "g++-x86-64-linux-gnu"),
    "aarch64": Compiler("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
}


def main(arguments: list[str] | None = None) -> int:
    """Builds the library; prints where it is, and its size."""
    parser = argparse.ArgumentParser(
        prog="python -m device.runtimes.native.build", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--arch", default=platform.machine(), help="x86_64 or aarch64 (default: this machine's)")
    parser.add_argument("--wheel", type=Path, help="an executorch wheel, instead of the installed package or pip's download")
    parser.add_argument("--out", type=Path, help="where the libraries go (default: device/runtimes/native/lib/ARCH)")
    options = parser.parse_args(arguments)
    if options.arch not in CROSS_COMPILERS:
        raise UsageError(
            "--arch", f"{options.arch!r} is not known", expected=nearest(options.arch, CROSS_COMPILERS), reason="unknown_arch"
        )
    out: Path = options.out or HERE / "lib" / options.arch
    is_new = build(options.arch, out=out, wheel=options.wheel)
    size_bytes = sum(path.stat().st_size for path in out.glob("*.so"))
    print(f"{out}: {size_bytes / 1e6:.1f} MB, {'built' if is_new else 'up to date'}")
    return 0


def build(arch: str, *, out: Path, wheel: Path | None = None, cache: Path = PROJECT / "build" / "cache") -> bool:
    """Builds the library unless the one in ``out`` has the same inputs.

    Args:
        arch: ``x86_64`` or ``aarch64``.
        out: folder of the result; other files in it are left alone.
        wheel: an executorch wheel, in place of the installed package or pip's download.
        cache: where wheels are kept.

    Returns:
        True if it was built, False if it was up to date.

    Raises:
        MissingDependencyError: ``compiler``, unless ``out`` holds a library of the same sources; ``executorch``; ``compile`` if
            the compiler rejects the source.
    """
    try:
        compiler = find_compiler(arch)
    except MissingDependencyError:
        if wheel is None and _read_stamp(out)[1:] == (fingerprint_sources(),):
            return False
        raise
    with tempfile.TemporaryDirectory(prefix="ghostwatt-native-") as scratch:
        package = installed_package() if wheel is None and arch == platform.machine() else None
        if package is None:
            package = unpack(wheel or download(arch, cache), Path(scratch))
        stamp = fingerprint(package, compiler)
        if _is_current(out, stamp):
            return False
        _install(compile_library(package, compiler, Path(scratch)), package, stamp, out)
    return True


def find_compiler(arch: str) -> str:
    """Finds the compiler for an architecture.

    Raises:
        MissingDependencyError: ``compiler``.
    """
    compiler = Compiler("g++", "g++") if arch == platform.machine() else CROSS_COMPILERS[arch]
    path = shutil.which(compiler.command)
    if path is None:
        raise MissingDependencyError(
            f"native library for {arch}",
            f"{compiler.command} is not there",
            remedy=f"apt-get install {compiler.package}",
            reason="compiler",
        )
    return path


def installed_package() -> Path | None:
    """Finds the folder of the installed executorch package, without importing it: that would import torch.

    Returns:
        The folder, or None if executorch isn't installed.

    Raises:
        MissingDependencyError: ``executorch``: this library is written for another version.
    """
    try:
        found = distribution("executorch")
    except PackageNotFoundError:
        return None
    if found.version != EXECUTORCH_VERSION:
        raise MissingDependencyError(
            "native library",
            f"executorch {found.version} is installed",
            expected=EXECUTORCH_VERSION,
            remedy=f"pip install executorch=={EXECUTORCH_VERSION}, or give a wheel: --wheel FILE",
            reason="executorch",
        )
    return Path(str(found.locate_file("executorch")))


def download(arch: str, cache: Path) -> Path:
    """Downloads the wheel for an architecture, unless ``cache`` has it.

    Raises:
        MissingDependencyError: ``executorch``: pip can't download it.
    """
    pattern = f"executorch-{EXECUTORCH_VERSION}-*{ABI_TAG}_{arch}.whl"
    if not list(cache.glob(pattern)):
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", f"executorch=={EXECUTORCH_VERSION}", "--no-deps", "--quiet"]
        command += ["--only-binary=:all:", "--platform", f"{ABI_TAG}_{arch}", "--dest", str(cache)]
        if subprocess.run(command, check=False).returncode != 0:
            raise MissingDependencyError(
                f"native library for {arch}",
                f"pip could not download executorch {EXECUTORCH_VERSION}",
                remedy="check the network, or give the file: --wheel FILE",
                reason="executorch",
            )
    return next(iter(sorted(cache.glob(pattern))))


def unpack(wheel: Path, to: Path) -> Path:
    """Unpacks the headers and libraries of a wheel.

    Returns:
        The package's folder.

    Raises:
        MissingDependencyError: ``executorch``: the file is no executorch wheel.
    """
    wanted = ("executorch/include/", *(f"executorch/lib/{name}" for name in NEEDED))
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(wanted)]
            archive.extractall(to, names)
    except (OSError, zipfile.BadZipFile) as error:
        raise MissingDependencyError(
            str(wheel), f"can't be unpacked ({error})", expected="an executorch wheel", reason="executorch"
        ) from error
    if f"executorch/lib/{NEEDED[0]}" not in names:
        raise MissingDependencyError(
            str(wheel), f"has no {NEEDED[0]}", expected=f"a wheel of executorch {EXECUTORCH_VERSION}", reason="executorch"
        )
    return to / "executorch"


def fingerprint(package: Path, compiler: str) -> str:
    """The SHA-256 of everything that the result depends on."""
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest.update(version + "\0".join(FLAGS).encode())
    for path in _inputs(package):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def fingerprint_sources() -> str:
    """The SHA-256 of what is known without a compiler or a wheel: our sources, the flags, and executorch's version."""
    digest = hashlib.sha256("\0".join((EXECUTORCH_VERSION, *FLAGS)).encode())
    for name in SOURCES:
        digest.update(name.encode() + b"\0" + hashlib.sha256((HERE / name).read_bytes()).digest())
    return digest.hexdigest()


def _inputs(package: Path) -> Iterator[Path]:
    yield from (HERE / name for name in SOURCES)
    yield from (package / "lib" / name for name in NEEDED)
    yield from sorted((package / "include").rglob("*.h"))


def _is_current(out: Path, stamp: str) -> bool:
    return _read_stamp(out) == (stamp, fingerprint_sources())


def _read_stamp(out: Path) -> tuple[str, ...]:
    """What a complete result was made from: `fingerprint` and `fingerprint_sources`. Empty if there is no complete one."""
    complete = all((out / name).is_file() for name in (LIBRARY, *NEEDED, STAMP))
    return tuple((out / STAMP).read_text().split()) if complete else ()


def compile_library(package: Path, compiler: str, scratch: Path) -> Path:
    """Compiles and links the library into ``scratch``.

    Raises:
        MissingDependencyError: ``compile``; the compiler's own messages go to stderr.
    """
    include = package / "include"
    library = scratch / LIBRARY
    command = [compiler, *FLAGS, SOURCES[0], "-o", str(library)]
    # As system headers, so that their warnings don't stop the build.
    command += ["-isystem", str(include), "-isystem", str(include / "executorch/runtime/core/portable_type/c10")]
    # The XNNPACK backend registers itself when it is loaded, so the linker would drop it as unused.
    command += ["-L", str(package / "lib"), "-Wl,--no-as-needed"]
    command += [f"-l{name.removeprefix('lib').removesuffix('.so')}" for name in NEEDED]
    command += ["-Wl,-rpath,$ORIGIN"]
    if subprocess.run(command, check=False, cwd=HERE).returncode != 0:
        raise MissingDependencyError(
            "native library", f"{compiler} could not compile it", expected="g++ 10 or newer", reason="compile"
        )
    return library


def _install(library: Path, package: Path, stamp: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # Without its stamp, a build that is interrupted here isn't mistaken for a complete one.
    (out / STAMP).unlink(missing_ok=True)
    for path in (library, *(package / "lib" / name for name in NEEDED)):
        fresh = out / f".{path.name}.new"
        shutil.copyfile(path, fresh)
        # Replaced, not overwritten: a running process keeps the old file.
        fresh.replace(out / path.name)
    (out / STAMP).write_text(f"{stamp}\n{fingerprint_sources()}\n")


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
