"""A board as it comes out of its box: Debian with Python, systemd and an SSH server, and nothing of this project.

What Raspberry Pi OS adds is there too: picamera2, make and pip; no compiler, no OpenCV and no NumPy. Its user ``pi`` may log in
with one key, and use sudo without a password.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import sandbox
from .cache import Cache, fingerprint
from .debian import Apt, unpack
from .image import MASKED, link
from .kernel import kernel
from .packages import require
from .tree import SYSTEM, TRIXIE, add_camera, compile_bytecode, finish_by_hand

PACKAGES = (*SYSTEM, "findutils", "make", "openssh-client", "openssh-server", "python3-pip", "sudo", "tar")
DISK_SIZE = "3G"
USER = "pi"

# Sets up the board's camera and sensor at each boot.
_DEVICES = """\
[Unit]
Description=The board's camera, sensor and network
DefaultDependencies=no
After=systemd-udevd.service local-fs.target
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/board-devices

[Install]
WantedBy=sysinit.target
"""

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UsePAM no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
"""

# What pam-auth-update would have written. No user has a password.
_PAM = {
    "common-auth": "auth required pam_permit.so\n",
    "common-account": "account required pam_permit.so\n",
    "common-password": "password required pam_permit.so\n",
    "common-session": "session required pam_permit.so\n",
    "common-session-noninteractive": "session required pam_permit.so\n",
}


def bare_image(cache: Cache) -> Path:
    """Gives a folder with ``disk.ext4``, ``vmlinuz``, ``initrd.img``, and the key ``id_ed25519`` that opens it."""
    boot = kernel(cache)
    here = Path(__file__)
    sources = [here.with_name(name) for name in ("bare.py", "debian.py", "devices.sh", "image.py", "tree.py")]

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            scratch = Path(name)
            root = scratch / "root"
            root.mkdir()
            unpack(Apt(scratch / "apt", TRIXIE.name, TRIXIE.architecture).fetch(PACKAGES), root)
            finish_by_hand(root)
            add_camera(root, TRIXIE)
            compile_bytecode(root, TRIXIE, scratch)
            shutil.copytree(boot / "usr/lib/modules", root / "usr/lib/modules", symlinks=True)
            _make_key(folder / "id_ed25519")
            _make_key(root / "etc/ssh/ssh_host_ed25519_key")
            _configure(root, (folder / "id_ed25519.pub").read_text())
            disk = folder / "disk.ext4"
            make = [require("mke2fs"), "-q", "-t", "ext4", "-d", str(root), "-L", "root", str(disk), DISK_SIZE]
            home = shlex.quote(str(root / "home/pi"))
            subprocess.run(
                sandbox.private(f"chown -R 1000:1000 {home}; exec {shlex.join(make)}"), check=True, capture_output=True
            )
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(boot / name, folder / name)

    return cache.entry("bare", [boot.name, fingerprint(*sources)], build)


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([require("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "board", "-f", str(path)], check=True)


def _configure(root: Path, key: str) -> None:
    etc = root / "etc"
    with (etc / "passwd").open("a") as file:
        file.write("pi:x:1000:1000::/home/pi:/bin/bash\n")
    with (etc / "group").open("a") as file:
        file.write("pi:x:1000:\ni2c:x:990:pi\ngpio:x:991:pi\nrender:x:992:pi\n")
    (etc / "shadow").write_text("root:*:19000:0:99999:7:::\npi:*:19000:0:99999:7:::\n")
    (etc / "shadow").chmod(0o600)
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "hostname").write_text("board\n")
    (etc / "hosts").write_text("127.0.0.1 localhost board\n::1 localhost\n")
    (etc / "fstab").write_text("/dev/vda / ext4 noatime 0 0\ntmpfs /tmp tmpfs mode=1777 0 0\n")
    for name, text in _PAM.items():
        (etc / "pam.d" / name).write_text(text)
    (etc / "sudoers").write_text("root ALL=(ALL:ALL) ALL\npi ALL=(ALL:ALL) NOPASSWD: ALL\n")
    (etc / "sudoers").chmod(0o440)
    (etc / "ssh/sshd_config").write_text(_SSHD)
    keys = root / "home/pi/.ssh/authorized_keys"
    keys.parent.mkdir(parents=True)
    keys.write_text(key)
    keys.parent.chmod(0o700)
    keys.chmod(0o600)
    # What update-ca-certificates would have written: pip doesn't start without it.
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    (etc / "ssl/certs").mkdir(parents=True, exist_ok=True)
    (etc / "ssl/certs/ca-certificates.crt").write_bytes(b"".join(path.read_bytes() for path in certificates))
    # Kept over a power cut, as on a board whose journal is persistent.
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)
    # Buses belong to a group of their own on Raspberry Pi OS.
    (etc / "udev/rules.d").mkdir(parents=True, exist_ok=True)
    (etc / "udev/rules.d/99-board.rules").write_text('SUBSYSTEM=="i2c-dev", GROUP="i2c", MODE="0660"\n')
    units = etc / "systemd/system"
    for folder in ("multi-user.target.wants", "sysinit.target.wants"):
        (units / folder).mkdir(parents=True, exist_ok=True)
    for name in MASKED:
        link(units / name, "/dev/null")
    link(units / "default.target", "/usr/lib/systemd/system/multi-user.target")
    (units / "board-devices.service").write_text(_DEVICES)
    program = root / "usr/local/sbin/board-devices"
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("devices.sh"), program)
    program.chmod(0o755)
    link(units / "sysinit.target.wants/board-devices.service", "../board-devices.service")
    link(units / "multi-user.target.wants/ssh.service", "/usr/lib/systemd/system/ssh.service")
    sysusers = shlex.join([require("systemd-sysusers"), f"--root={root}"])
    subprocess.run(sandbox.private(f"exec {sysusers}"), check=True, capture_output=True)
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()
