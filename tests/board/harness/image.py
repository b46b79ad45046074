"""A bootable disk: the system tree with the kernel's modules in it, and a unit that runs what a test brings along."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import sandbox, tree
from .cache import Cache, fingerprint
from .kernel import kernel
from .packages import require

DISK_SIZE = "1200M"

# Units that wait for what isn't there, or that only slow the start.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyAMA0.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-networkd-wait-online.service",
    "systemd-pcrphase.service",
    "systemd-udev-trigger.service",
    "systemd-update-done.service",
)

# The host's folder comes in as a 9p share. However the script ends, and if it hangs, the board powers off.
_UNIT = """\
[Unit]
Description=The test of this boot
After=multi-user.target
RequiresMountsFor=/share
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/bash -c 'bash /share/script.sh; echo $? > /share/exit-code; sync'
WorkingDirectory=/share
Environment=LC_ALL=C.UTF-8 HOME=/root PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/share/log.txt
StandardError=inherit
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""

_FSTAB = """\
/dev/vda / ext4 noatime 0 0
share /share 9p trans=virtio,version=9p2000.L,msize=262144,nofail 0 0
tmpfs /tmp tmpfs mode=1777 0 0
"""


def image(cache: Cache) -> Path:
    """Gives a folder with ``disk.ext4``, ``vmlinuz`` and ``initrd.img``."""
    system = tree.board_tree(cache, tree.TRIXIE, tree.SYSTEM)
    boot = kernel(cache)

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            root = Path(scratch) / "root"
            subprocess.run(["cp", "--archive", "--reflink=auto", str(system), str(root)], check=True)
            shutil.copytree(boot / "usr/lib/modules", root / "usr/lib/modules", symlinks=True)
            _configure(root)
            disk = folder / "disk.ext4"
            make = [require("mke2fs"), "-q", "-t", "ext4", "-d", str(root), "-L", "root", str(disk), DISK_SIZE]
            # As root of a namespace at least: the files on the disk are to be root's.
            subprocess.run(sandbox.private(f"exec {shlex.join(make)}"), check=True, capture_output=True)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(boot / name, folder / name)

    return cache.entry("image", [system.name, boot.name, fingerprint(Path(__file__))], build)


def _configure(root: Path) -> None:
    (root / "etc/shadow").write_text("root::19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/hostname").write_text("board\n")
    (root / "etc/fstab").write_text(_FSTAB)
    units = root / "etc/systemd/system"
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    for name in MASKED:
        link(units / name, "/dev/null")
    link(units / "default.target", "/usr/lib/systemd/system/multi-user.target")
    (units / "board-test.service").write_text(_UNIT)
    link(wanted / "board-test.service", "../board-test.service")
    # Users that packages ask for: this program works on a foreign root without running it.
    sysusers = shlex.join([require("systemd-sysusers"), f"--root={root}"])
    subprocess.run(sandbox.private(f"exec {sysusers}"), check=True, capture_output=True)
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
