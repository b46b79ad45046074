"""Board, operating system, Python, C library, processor.

References:
    os-release(5). proc_cpuinfo(5); Linux kernel, Documentation/arch/arm64/elf_hwcaps.rst: ``asimddp`` are the dot products of
    int8, ``asimdhp`` arithmetic in fp16, ``i8mm`` products of int8 matrices.
    Linux kernel, arch/arm64/include/asm/cputype.h: the part numbers of Arm's cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from device.contract import Board
from device.doctor.check import Check, CheckContext, read_long
from device.machine.memory import read_total_bytes
from device.machine.sysfs import read_text

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)

OLDEST_GLIBC = (2, 34)
"""What ai-edge-litert's wheel needs; Raspberry Pi OS has had it since Bookworm."""

LEAST_MEMORY_SHARE = 0.6
"""Share of a board's memory that its kernel reports at least, since firmware and GPU keep some. A board with half the memory is
below."""

_ARM = 0x41
_ARM_CORES = {0xD03: "cortex-a53", 0xD05: "cortex-a55", 0xD08: "cortex-a72", 0xD0B: "cortex-a76"}
"""``CPU part`` in /proc/cpuinfo of the cores that the profiles name; the implementer is Arm."""

_ARM_FEATURES = {"asimddp": "int8 dot products", "asimdhp": "fp16", "i8mm": "int8 matrices", "sve": "SVE"}
_X86_FEATURES = {"avx2": "AVX2", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "f16c": "fp16 conversion"}


def check_board(context: CheckContext) -> Iterator[Check]:
    """Whether the bundle was made for this board."""
    here = context.facts.board or f"{context.facts.machine}, no device tree"
    if context.profile is None:
        yield Check("board", "ok", here)
        return
    board = context.profile.board
    is_board = bool(set(board.compatible) & set(context.facts.compatible)) or not board.compatible
    if board.arch == context.facts.machine and is_board:
        yield Check("board", "ok", f"{here}: what the bundle is for")
        yield from _check_hardware(context, board)
    elif board.arch == context.facts.machine:
        yield Check("board", "warn", f"{here}, but the bundle is for {board.title}", "make convert PROFILE=... for this board")
    else:
        yield Check(
            "board",
            "fail",
            f"{here} ({context.facts.machine}), but the bundle is for {board.title} ({board.arch})",
            "make convert PROFILE=... for this board, or run a 64-bit system",
        )


def _check_hardware(context: CheckContext, board: Board) -> Iterator[Check]:
    """Warns if memory or cores aren't those of the profile's board; what can't be determined isn't reported."""
    total_bytes = read_total_bytes(context.root)
    total_mb = None if total_bytes is None else total_bytes // 2**20
    if total_mb is not None and total_mb < LEAST_MEMORY_SHARE * board.memory_mb:
        fix = "make convert PROFILE=... for this board; if it has more memory, look for mem= in /proc/cmdline"
        yield Check("board memory", "warn", f"{total_mb} MB, but {board.title} has at least {board.memory_mb} MB", fix)
    cores = _read_cores(context)
    if cores and board.cpu in _ARM_CORES.values() and board.cpu not in cores:
        finding = f"{', '.join(sorted(cores))}, but the bundle is for {board.title} ({board.cpu})"
        yield Check("board cores", "warn", finding, "make convert PROFILE=... for this board")


def _read_cores(context: CheckContext) -> frozenset[str]:
    """Names of the kinds of cores; empty unless all of them are known."""
    text = read_long(context.root / "proc/cpuinfo")
    implementers, parts = (
        {int(number, 16) for number in re.findall(rf"^CPU {field}\s*:\s*(0x[0-9a-f]+)$", text, re.MULTILINE)}
        for field in ("implementer", "part")
    )
    is_known = implementers == {_ARM} and parts <= _ARM_CORES.keys()
    return frozenset(_ARM_CORES[part] for part in parts) if is_known else frozenset()


def check_system(context: CheckContext) -> Iterator[Check]:
    """Distribution and kernel, and whether programs are of 64 bits."""
    lines = (read_text(context.root / "etc/os-release") or "").splitlines()
    names = dict(line.partition("=")[::2] for line in lines if "=" in line)
    title = names.get("PRETTY_NAME", "").strip("\"'")
    yield Check("system", "ok" if title else "unsupported", f"{title or 'no /etc/os-release'}, Linux {context.facts.kernel}")
    bits = context.process.pointer_bits
    if bits == 64:
        yield Check("userland", "ok", "64-bit")
    else:
        yield Check(
            "userland",
            "fail",
            f"{bits}-bit Python on a {context.facts.machine} kernel: neither runtime has such wheels",
            "install the 64-bit Raspberry Pi OS",
        )


def check_python(context: CheckContext) -> Iterator[Check]:
    """Python's version, and the C library's."""
    version = ".".join(map(str, context.process.python))
    if OLDEST_PYTHON <= context.process.python[:2] <= NEWEST_PYTHON:
        yield Check("python", "ok", version)
    else:
        span = " to ".join(".".join(map(str, end)) for end in (OLDEST_PYTHON, NEWEST_PYTHON))
        yield Check(
            "python", "fail", f"{version}, expected {span}", "make a virtual environment with another: python3.11 -m venv"
        )
    name, number = context.process.libc
    parts = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    oldest = ".".join(map(str, OLDEST_GLIBC))
    if name != "glibc":
        fix = "Android: use a glibc userland (proot-distro install debian)"
        yield Check("glibc", "fail", f"the C library is {name or 'not glibc'}: the runtimes have no wheels for it", fix)
    elif parts >= OLDEST_GLIBC:
        yield Check("glibc", "ok", number)
    else:
        fix = "upgrade to Bookworm or later; the executorch runtime also runs from 2.27"
        yield Check("glibc", "warn", f"{number}: litert needs {oldest}", fix)


def check_processor(context: CheckContext) -> Iterator[Check]:
    """The processor's instructions that make int8 and fp16 networks fast."""
    flags = _read_flags(context)
    if not flags:
        yield Check("processor", "unsupported", "/proc/cpuinfo lists no features")
        return
    is_arm = "asimd" in flags or "fp" in flags
    wanted = _ARM_FEATURES if is_arm else _X86_FEATURES
    there = [title for name, title in wanted.items() if name in flags]
    cores = f"{context.facts.cores} core" + ("s" if context.facts.cores != 1 else "")
    missing = "" if there else "no " + ", no ".join(list(wanted.values())[:2])
    if is_arm and "asimddp" not in flags:
        missing = "no int8 dot products (so are a Pi 4 and older): int8 takes 1.7 times the instructions"
    yield Check("processor", "ok", "; ".join(part for part in (cores, ", ".join(there), missing) if part))


def _read_flags(context: CheckContext) -> frozenset[str]:
    text = read_long(context.root / "proc/cpuinfo")
    found = re.search(r"^(?:Features|flags)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()
