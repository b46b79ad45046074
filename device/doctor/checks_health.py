r"""Governor, heat, throttling, memory, swap, disk, clock, and where telemetry is kept.

References:
    proc_meminfo(5): ``CmaTotal``, in units of 1024 bytes. proc_swaps(5). proc_mounts(5): spaces in names are ``\040``.
    Raspberry Pi documentation, ``vcgencmd get_throttled``: the word's upper half says what has occurred since the start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from device.core.clock import SystemClock
from device.core.errors import MeterError
from device.doctor.check import Check, CheckContext, read_long
from device.machine.sysfs import read_int, read_text
from device.machine.thermals import THROTTLE_FLAGS, SysfsThermals
from device.machine.vcio import Mailbox

WARM_C = 75.0
"""From here a passively cooled Pi is near where its firmware slows it down (80, and 85 degrees)."""

LITTLE_MEMORY_MB = 100
"""The daemon takes 75 MB on photographs, and a camera's buffers some."""

LITTLE_CMA_MB = 24
"""Enough for four buffers of 1280x720 in YUV420 and for the display."""

LITTLE_DISK_MB = 500
NO_DISK_MB = 50

_POWER_FIX = "use the board's own supply and a short thick cable; take USB devices off"
_HEAT_FIX = "fit a heat sink or a fan, or let the profile slow down: limits.slow_above_c"


def check_governor(context: CheckContext) -> Iterator[Check]:
    """Which cpufreq governor sets the clock."""
    governor = context.facts.governor
    if governor is None:
        yield Check("governor", "unsupported", "no cpufreq: the clock is the hypervisor's or the firmware's")
    elif governor == "powersave" and context.is_raspberry_pi:
        fix = "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Check("governor", "warn", "powersave: the clock stays at its lowest", fix)
    elif governor == "performance":
        yield Check("governor", "ok", "performance: the clock is steady")
    else:
        yield Check("governor", "ok", f"{governor}: the clock follows the load; a benchmark is steadier with performance")


def check_heat(context: CheckContext) -> Iterator[Check]:
    """Temperature, and throttling now and since the start."""
    sample = SysfsThermals(context.root).read()
    if sample.temperature_c is None:
        yield Check("temperature", "unsupported", "no sensor of the processor")
    elif sample.temperature_c >= WARM_C:
        yield Check("temperature", "warn", f"{sample.temperature_c:.0f} °C", _HEAT_FIX)
    else:
        yield Check("temperature", "ok", f"{sample.temperature_c:.0f} °C")
    if sample.throttled is None:
        yield Check("throttling", "unsupported", "this machine has no way to report it")
        return
    occurred = _occurred(context.root)
    flags = [flag for flag in THROTTLE_FLAGS if flag in sample.throttled or flag in occurred]
    silent = (
        f"; this board doesn't report {', '.join(_words(flag) for flag in sample.unsupported)}" if sample.unsupported else ""
    )
    if not flags:
        yield Check("throttling", "ok", f"none{silent}")
        return
    now = [_words(flag) for flag in flags if flag in sample.throttled]
    before = [_words(flag) for flag in flags if flag not in sample.throttled]
    parts = [f"now: {', '.join(now)}" if now else "", f"since the start: {', '.join(before)}" if before else ""]
    fixes = [_POWER_FIX] if "under_voltage" in flags else []
    fixes += [_HEAT_FIX] if set(flags) - {"under_voltage"} else []
    yield Check(
        "throttling",
        "fail" if "under_voltage" in sample.throttled else "warn",
        "; ".join(filter(None, parts)) + silent,
        "; ".join(fixes),
    )


def check_memory(context: CheckContext) -> Iterator[Check]:
    """Memory, contiguous memory for cameras, and swap."""
    values = _read_meminfo(context.root)
    total, free = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or free is None:
        yield Check("memory", "unsupported", "/proc/meminfo doesn't say")
    elif free < LITTLE_MEMORY_MB:
        fix = "stop what isn't needed: sudo systemctl set-default multi-user.target takes the desktop off"
        yield Check("memory", "warn", f"{free} of {total} MB are free; the daemon takes some 75", fix)
    else:
        yield Check("memory", "ok", f"{free} of {total} MB are free")
    yield _judge_cma(values.get("CmaTotal"), values.get("CmaFree"))
    yield _judge_swap(context.root)


def check_disk(context: CheckContext) -> Iterator[Check]:
    """Space where telemetry is kept, the device that it is on, and whether this user may write there."""
    folder = _nearest(context.telemetry)
    device, options = _find_mount(context.root, folder)
    usage = shutil.disk_usage(folder)
    free_mb = usage.free // 1_000_000
    kind = " (an SD card: telemetry is written once a minute to spare it)" if "mmcblk" in device else ""
    finding = f"{free_mb} MB free at {folder}" + kind
    if free_mb < NO_DISK_MB:
        yield Check("disk", "fail", finding, "make room: sudo apt clean; journalctl --vacuum-size=50M")
    elif free_mb < LITTLE_DISK_MB:
        yield Check("disk", "warn", finding, "make room: sudo apt clean; journalctl --vacuum-size=50M")
    else:
        yield Check("disk", "ok", finding)
    if "ro" in options:
        yield Check(
            "telemetry", "fail", f"{folder} is mounted read-only", "mount it writable, or name another place with --telemetry"
        )
    elif not os.access(folder, os.W_OK):
        yield Check(
            "telemetry",
            "warn",
            f"{folder} may not be written by this user",
            "name another place with --telemetry, or run it as the service's user",
        )
    else:
        yield Check("telemetry", "ok", f"{context.telemetry} can be written")


def check_clock(_context: CheckContext) -> Iterator[Check]:
    """Whether the wall clock has been set: a Pi has none of its own."""
    if SystemClock().wall_is_synchronised():
        yield Check("clock", "ok", "set by a time server")
    else:
        fix = "sudo timedatectl set-ntp true; without a network fit a clock module (dtoverlay=i2c-rtc,ds3231)"
        yield Check(
            "clock", "warn", "not set by a time server: the dates in telemetry may be wrong, its durations are right", fix
        )


def _judge_cma(total_mb: int | None, free_mb: int | None) -> Check:
    if not total_mb or free_mb is None:
        return Check("memory for cameras", "unsupported", "this kernel sets no contiguous memory (CMA) aside")
    finding = f"{free_mb} of {total_mb} MB of contiguous memory (CMA) are free"
    if free_mb < LITTLE_CMA_MB:
        return Check(
            "memory for cameras", "warn", finding, "dtoverlay=vc4-kms-v3d,cma-128 in /boot/firmware/config.txt, then reboot"
        )
    return Check("memory for cameras", "ok", finding)


def _judge_swap(root: Path) -> Check:
    lines = (read_text(root / "proc/swaps") or "").splitlines()[1:]
    if not lines:
        return Check("swap", "ok", "none")
    fields = [line.split() for line in lines]
    used_mb = sum(int(row[3]) for row in fields if len(row) > 3 and row[3].isdecimal()) // 1024
    on_disk = [row[0] for row in fields if row and "zram" not in row[0]]
    names = ", ".join(row[0] for row in fields if row)
    if on_disk and used_mb:
        fix = "swap in compressed memory instead: sudo apt install systemd-zram-generator, or zram-tools"
        return Check("swap", "warn", f"{used_mb} MB are swapped out to {', '.join(on_disk)}: slow, and wears a card", fix)
    return Check("swap", "ok", f"{names}, {used_mb} MB in use")


def _read_meminfo(root: Path) -> dict[str, int]:
    """The fields of ``/proc/meminfo``, in megabytes."""
    values = {}
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdecimal():
            values[name] = int(number[0]) * 1024 // 1_000_000
    return values


def _occurred(root: Path) -> tuple[str, ...]:
    """What the Raspberry Pi's firmware says has occurred since the start, or since the kernel last cleared it."""
    files = sorted((root / "sys/devices/platform").glob("*/*firmware*/get_throttled"))
    word = read_int(files[0], base=16) if files else None
    if word is None:
        try:
            word = int(Mailbox(root).gencmd("get_throttled").rpartition("=")[2], 16)
        except (MeterError, ValueError):
            return ()
    return tuple(flag for bit, flag in enumerate(THROTTLE_FLAGS) if word >> (16 + bit) & 1)


def _nearest(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def _find_mount(root: Path, folder: Path) -> tuple[str, frozenset[str]]:
    """Device and options of the file system that a folder is on."""
    best: tuple[int, str, frozenset[str]] = (-1, "", frozenset())
    for line in read_long(root / "proc/mounts").splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        place = Path(fields[1].replace("\\040", " "))
        # The deepest mount point wins; of two at the same one, the later.
        if folder.is_relative_to(place) and len(place.parts) >= best[0]:
            best = (len(place.parts), fields[0], frozenset(fields[3].split(",")))
    return best[1], best[2]


def _words(flag: str) -> str:
    return flag.replace("_", " ")
