"""Boots the image, runs a script in it, and brings back what it left."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .packages import require
from .process import run_limited
from .user import Cpu

_CORES = 2
_MEMORY_MIB = 1536


class GuestResult(NamedTuple):
    """What came of a boot.

    Attributes:
        exit_code: of the script; None where it never ended.
        log: what the script printed, both streams.
        console: what kernel and systemd printed.
        share: the folder that the guest saw as ``/share``; the script's files lie here.
        duration_s: from power on to power off.
        timed_out: True where the limit cut the power.
    """

    exit_code: int | None
    log: str
    console: str
    share: Path
    duration_s: float
    timed_out: bool


def boot(
    image: Path,
    script: str,
    *,
    work: Path,
    timeout_s: float,
    files: Mapping[str, Path] | None = None,
    cpu: Cpu = "cortex-a72",
) -> GuestResult:
    """Boots once.

    Args:
        image: from `image.image`. Several boots may share it: what a guest writes to its disk is lost.
        script: for bash, as root, in ``/share``, after ``multi-user.target``.
        work: an empty folder of this run.
        timeout_s: the power is cut after that, whatever the guest does.
        files: name inside ``/share`` -> the host's file or folder, copied.
        cpu: the processor to be.
    """
    share = work / "share"
    share.mkdir()
    (share / "script.sh").write_text(script)
    for name, source in (files or {}).items():
        target = share / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    done = run_limited(_command(image, share, cpu), timeout_s=timeout_s, env={"PATH": "/usr/bin:/bin", "TMPDIR": str(work)})
    code = share / "exit-code"
    log = share / "log.txt"
    return GuestResult(
        exit_code=int(code.read_text()) if code.exists() and code.read_text().strip() else None,
        log=log.read_text(errors="replace") if log.exists() else "",
        console=done.stdout + done.stderr,
        share=share,
        duration_s=done.duration_s,
        timed_out=done.timed_out,
    )


def _command(image: Path, share: Path, cpu: Cpu) -> list[str]:
    kernel_line = "console=ttyAMA0 root=/dev/vda rw quiet systemd.show_status=0 panic=-1"
    command = [require("qemu-system-aarch64"), "-machine", "virt", "-cpu", cpu, "-smp", str(_CORES), "-m", str(_MEMORY_MIB)]
    command += ["-accel", "tcg,thread=multi,tb-size=512", "-nographic", "-no-reboot", "-nic", "none"]
    command += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"), "-append", kernel_line]
    # snapshot=on: writes go to a temporary file; the image stays as it was built.
    command += ["-drive", f"file={image / 'disk.ext4'},format=raw,if=none,id=disk,snapshot=on"]
    command += ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]
    command += ["-virtfs", f"local,path={share},mount_tag=share,security_model=none,id=share"]
    return command
