"""Debian 13's arm64 kernel with the drivers that stand in for a board's sensors.

``vivid`` (a V4L2 camera) is in Debian's kernel. ``i2c-stub`` (an I²C bus of registers that anyone may poke), ``ina2xx`` (INA219
and INA226) and ``test_power`` (a battery) are not all: they are built from Debian's own source of the same kernel, with
Debian's own cross-compiler, in a throw-away amd64 tree. What is tested is therefore the drivers that a board runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import sandbox
from .cache import Cache, fingerprint
from .debian import Apt, unpack
from .packages import require
from .process import run_limited

# Built out of tree: module -> its source in the kernel.
BUILT = {
    "i2c-stub": "drivers/i2c/i2c-stub.c",
    "ina2xx": "drivers/hwmon/ina2xx.c",
    "test_power": "drivers/power/supply/test_power.c",
}

# From Debian's kernel, with all that they depend on.
STOCK = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "9p",
    "9pnet_virtio",
    "ext4",
    "crc32c_generic",
    "vivid",
    "i2c-dev",
    "xhci_pci",
)

# Needed before the root file system is there, in the order of loading.
EARLY = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")

_SUITE = "trixie"
_TOOLCHAIN = ("bash", "coreutils", "dash", "findutils", "gcc-aarch64-linux-gnu", "grep", "libelf1t64", "make", "mawk", "sed")
_BUILD_LIMIT_S = 900.0


def kernel(cache: Cache) -> Path:
    """Gives a folder with ``vmlinuz``, ``initrd.img`` and ``usr/lib/modules/<version>/``."""
    here = Path(__file__)
    inputs = [_SUITE, fingerprint(here, here.with_name("debian.py"), here.with_name("init.sh"))]
    return cache.entry("kernel", inputs, _build)


def _build(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        foreign = Apt(scratch / "apt-arm64", _SUITE, "arm64")
        native = Apt(scratch / "apt-amd64", _SUITE, "amd64")
        image = foreign.dependency("linux-image-arm64", "linux-image-")
        version = image.removeprefix("linux-image-")
        stock = scratch / "stock"
        unpack(foreign.fetch_alone([image]), stock)
        built = _build_modules(scratch, foreign, native, version)
        busybox = scratch / "busybox"
        unpack(foreign.fetch_alone(["busybox-static"]), busybox)

        modules = folder / "usr/lib/modules" / version
        _choose_modules(stock, version, built, folder)
        shutil.copy(stock / f"boot/vmlinuz-{version}", folder / "vmlinuz")
        _make_initrd(scratch / "initrd", busybox / "usr/bin/busybox", modules, folder / "initrd.img")


def _build_modules(scratch: Path, foreign: Apt, native: Apt, version: str) -> list[Path]:
    """Compiles `BUILT` in an amd64 tree of the kernel's own suite, whose compiler and C library are those that it expects."""
    root = scratch / "toolchain"
    headers = f"linux-headers-{version}"
    common = foreign.dependency(headers, "linux-headers-")
    kbuild = foreign.dependency(headers, "linux-kbuild-")
    source = native.dependency("linux-source", "linux-source-")
    unpack(native.fetch([*_TOOLCHAIN]), root)
    # The headers are arm64's, the programs that build with them the host's.
    unpack([*foreign.fetch_alone([headers]), *native.fetch_alone([common, kbuild.partition(":")[0]])], root)
    sandbox.prepare(root)
    _link(root / "usr/bin/awk", "mawk")
    _link(root / "usr/bin/sh", "dash")
    work = scratch / "work"
    work.mkdir()
    _extract_sources(native.fetch_alone([source]), work)
    (work / "Makefile").write_text("".join(f"obj-m += {name}.o\n" for name in BUILT))
    build = ["/usr/bin/make", "-C", f"/usr/src/{headers}", "M=/share", "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"]
    # Type information for BPF would need the kernel's uncompressed image.
    build += [f"-j{os.cpu_count() or 1}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    command = sandbox.inside(root, build, writable={"share": work})
    done = run_limited(command, timeout_s=_BUILD_LIMIT_S, env={"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8"})
    if done.exit_code:
        raise RuntimeError(f"the kernel's modules could not be built:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return sorted(work.glob("*.ko"))


def _extract_sources(packages: list[Path], into: Path) -> None:
    """Takes single files out of the kernel's source, which is a tar inside the package's tar."""
    unpacked = into / "source"
    unpack(packages, unpacked)
    (archive,) = unpacked.glob("usr/src/linux-source-*.tar.xz")
    wanted = [f"*/{path}" for path in BUILT.values()]
    command = ["tar", "--extract", f"--file={archive}", "-C", str(into), "--wildcards", "--transform=s,.*/,,", *wanted]
    subprocess.run(command, check=True, env=os.environ | {"XZ_DEFAULTS": "--threads=0"})
    shutil.rmtree(unpacked)


def _choose_modules(stock: Path, version: str, built: list[Path], root: Path) -> None:
    """Copies only the modules that are wanted, with what they depend on: an image of a few MB boots faster."""
    depmod = require("depmod")
    subprocess.run([depmod, "-b", str(stock), version], check=True)
    source = stock / "usr/lib/modules" / version
    target = root / "usr/lib/modules" / version
    (target / "extra").mkdir(parents=True)
    dependencies = read_dependencies((source / "modules.dep").read_text())
    for name in STOCK:
        for path in dependencies.get(_module_name(name), ()):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, target / path)
    for module in built:
        shutil.copy(module, target / "extra")
    for listing in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / listing, target)
    (root / "lib").symlink_to("usr/lib")
    subprocess.run([depmod, "-b", str(root), version], check=True)


def read_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """Reads ``modules.dep``.

    Returns:
        Module -> the files to load for it, in the order of loading. What is built into the kernel isn't there.
    """
    table = {}
    for line in text.splitlines():
        file, _, needed = line.partition(":")
        table[_module_name(Path(file).name.partition(".")[0])] = (*reversed(needed.split()), file)
    return table


def _module_name(name: str) -> str:
    return name.replace("-", "_")


def _make_initrd(folder: Path, busybox: Path, modules: Path, output: Path) -> None:
    for part in ("bin", "proc", "sys", "dev", "root", "modules"):
        (folder / part).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin/busybox")
    shutil.copy(Path(__file__).with_name("init.sh"), folder / "init")
    (folder / "init").chmod(0o755)
    dependencies = read_dependencies((modules / "modules.dep").read_text())
    order: list[str] = []
    for name in EARLY:
        order += [path for path in dependencies.get(_module_name(name), ()) if path not in order]
    for number, path in enumerate(order):
        plain = folder / f"modules/{number:02d}-{Path(path).name.removesuffix('.xz')}"
        if path.endswith(".xz"):
            with plain.open("wb") as file:
                subprocess.run([require("xz"), "-dc", str(modules / path)], stdout=file, check=True)
        else:
            shutil.copy(modules / path, plain)
    listing = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    with output.open("wb") as file:
        pack = [require("cpio"), "--quiet", "--create", "--format=newc", "--owner=0:0"]
        subprocess.run(pack, input=listing.encode(), stdout=file, cwd=folder, check=True)


def _link(path: Path, target: str) -> None:
    if not path.exists() and not path.is_symlink():
        path.symlink_to(target)
