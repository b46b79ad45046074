"""A board that stays on: reached over real SSH, and its power can be cut at any moment, with the disk as it then is."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .bare import USER
from .packages import require
from .user import Cpu

_CORES = 2
_MEMORY_MIB = 1536
_BOOT_LIMIT_S = 300.0
_LIFE_LIMIT_S = 3600.0
_CONNECTION_LIMIT_S = 30.0
_SSH = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes")


class Machine:
    """One board with a disk of its own.

    Args:
        image: from `bare.bare_image`.
        work: an empty folder of this board.
        cpu: the processor to be.
        life_limit_s: the power is cut this long after power on, however this process ends.
    """

    def __init__(self, image: Path, work: Path, cpu: Cpu = "cortex-a72", *, life_limit_s: float = _LIFE_LIMIT_S) -> None:
        self._image = image
        self._work = work
        self._cpu = cpu
        self._life_limit_s = life_limit_s
        self._disk = work / "disk.ext4"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(image / "disk.ext4"), str(self._disk)], check=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="board-"))
        self._key = work / "id_ed25519"
        shutil.copy(image / "id_ed25519", self._key)
        self._key.chmod(0o600)
        self._qemu: subprocess.Popen[bytes] | None = None
        self._connection: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def host(self) -> str:
        """Where SSH reaches it."""
        return f"ssh://{USER}@127.0.0.1:{self.port}"

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """What ssh needs to be let in."""
        return ("-i", str(self._key), *_SSH)

    @property
    def console(self) -> str:
        """What the kernel printed since power on."""
        return (self._work / "console.log").read_text(errors="replace")

    def power_on(self) -> float:
        """Boots, until SSH answers; gives the seconds that it took."""
        self.port = _free_port()
        started_s = time.monotonic()
        with (self._work / "console.log").open("wb") as console:
            self._qemu = subprocess.Popen(
                [require("timeout"), "--signal=KILL", str(self._life_limit_s), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while self.run("true", limit_s=30.0).returncode:
            if self._qemu.poll() is not None or time.monotonic() - started_s > _BOOT_LIMIT_S:
                raise RuntimeError(f"the board doesn't answer:\n{self.console[-3000:]}")
            time.sleep(1.0)
        self._connect()
        return time.monotonic() - started_s

    def cut_power(self) -> None:
        """At once: what the guest had not written to its disk is lost."""
        for process in (self._qemu, self._connection):
            if process is not None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._qemu = self._connection = None

    def run(self, script: str, *, limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Runs a script as ``pi``, by the board's shell."""
        argv = [*self._ssh(), script]
        try:
            return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            return subprocess.CompletedProcess(argv, 124, str(error.stdout or ""), f"no answer within {limit_s:g} s")

    def output(self, script: str, *, limit_s: float = 300.0) -> str:
        """Runs a script that must succeed; gives what it printed."""
        done = self.run(script, limit_s=limit_s)
        if done.returncode:
            raise RuntimeError(f"{script}\nended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def push(self, path: Path, there: str) -> str:
        """Copies a file or a folder to the board; gives its path there.

        Args:
            path: here.
            there: where it goes: an absolute path, in a folder that ``pi`` may write to.
        """
        folder, _, name = there.rpartition("/")
        with io.BytesIO() as buffer:
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                tar.add(path, name)
            done = subprocess.run(
                [*self._ssh(), f"tar -x -C {folder}"], input=buffer.getvalue(), capture_output=True, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{there} could not be written\n{done.stderr.decode(errors='replace')}")
        return there

    def wait_for(self, script: str, *, limit_s: float) -> float:
        """Runs a script again and again until it succeeds; gives the seconds that it took."""
        started_s = time.monotonic()
        while (done := self.run(script)).returncode:
            if time.monotonic() - started_s > limit_s:
                raise TimeoutError(f"{script}\nstill fails after {limit_s:g} s\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            time.sleep(1.0)
        return time.monotonic() - started_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut_power()
        shutil.rmtree(self._sockets)

    def _connect(self) -> None:
        """Opens one connection for all commands: an emulated core needs a second or two to agree on a key.

        Where it is closed, each command opens its own.
        """
        stream = subprocess.DEVNULL
        command = self._ssh("-M", "-N")
        self._connection = subprocess.Popen(command, stdin=stream, stdout=stream, stderr=stream, start_new_session=True)
        deadline_s = time.monotonic() + _CONNECTION_LIMIT_S
        while not self._socket.exists() and self._connection.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.1)

    @property
    def _socket(self) -> Path:
        # A socket's path must be short, which pytest's folders aren't. Named by the port, which is another after a power cut.
        return self._sockets / str(self.port)

    def _ssh(self, *flags: str) -> list[str]:
        where = ["-o", "ConnectTimeout=20", "-o", f"ControlPath={self._socket}", "-p", str(self.port)]
        return [require("ssh"), *self.ssh_options, *where, *flags, f"{USER}@127.0.0.1"]

    def _command(self) -> list[str]:
        kernel_line = "console=ttyAMA0 root=/dev/vda rw quiet systemd.show_status=0 panic=-1 net.ifnames=0"
        command = [require("qemu-system-aarch64"), "-machine", "virt", "-cpu", self._cpu, "-smp", str(_CORES)]
        command += ["-m", str(_MEMORY_MIB), "-accel", "tcg,thread=multi,tb-size=512", "-nographic", "-no-reboot"]
        command += ["-kernel", str(self._image / "vmlinuz"), "-initrd", str(self._image / "initrd.img"), "-append", kernel_line]
        command += ["-drive", f"file={self._disk},format=raw,if=none,id=disk,cache=writeback"]
        command += ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]
        # Something on USB, whose node a meter's would be like; no driver of it is there.
        command += ["-device", "qemu-xhci", "-device", "usb-kbd"]
        command += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        return [*command, "-device", "virtio-net-pci,netdev=net,romfile="]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
