"""Runs under the daemon's unit on the booted board, in the daemon's place: tries what libcamera does for a Pi's camera beyond
what a virtual one needs, what libusb does for a meter, and what nobody should do.

Prints a JSON object: what was tried, and the error that came of it, or nothing. Judges nothing: that is the host's part.

References:
    libcamera, src/libcamera/process.cpp and ipc_unixsocket.cpp: where a camera's algorithms run in a process of their own.
    libcamera, src/libcamera/device_enumerator_udev.cpp; libudev: by which socket cameras that come and go are told.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Of linux/netlink.h, and libudev's name for the group of events that udev has already worked on.
NETLINK_KOBJECT_UEVENT = 15
UDEV_EVENTS = 2

# Of linux/sched.h.
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

WORKER = """
import mmap, socket, sys
with socket.socket(fileno=int(sys.argv[1])) as to_parent:
    _, (memory,), _, _ = socket.recv_fds(to_parent, 16, 1)
    mmap.mmap(memory, 4096)[:4] = b"done"
    to_parent.send(b"done")
"""


def main() -> None:
    trials: dict[str, Callable[[], None]] = {
        "camera's pipeline": lambda: os.close(os.open("/dev/media0", os.O_RDWR)),
        "camera": lambda: os.close(os.open("/dev/video0", os.O_RDWR)),
        "usb meter": lambda: os.close(os.open(find_usb_device(), os.O_RDWR)),
        "usb hub": lambda: os.close(os.open("/dev/bus/usb/001/001", os.O_RDWR)),
        "udev's events": listen_to_udev,
        "worker": start_worker,
        "worker in namespaces": unshare,
        "memory to write and run": write_code,
        "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    }
    print(json.dumps({name: error_of(trial) for name, trial in trials.items()}), flush=True)


def error_of(trial: Callable[[], None]) -> str:
    try:
        trial()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def find_usb_device() -> str:
    """The node of what is plugged in: a hub of the kernel's own is the first on its bus."""
    return next(str(path) for path in sorted(Path("/dev/bus/usb").glob("*/*")) if path.name != "001")


def listen_to_udev() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as events:
        events.bind((0, UDEV_EVENTS))


def start_worker() -> None:
    """A child with a socket, to which memory is handed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(30.0)
    memory = os.memfd_create("parameters")
    os.ftruncate(memory, 4096)
    command = [sys.executable, "-I", "-S", "-c", WORKER, str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as child:
        socket.send_fds(ours, [b"memory"], [memory])
        ours.recv(16)
        if child.wait(30.0) or mmap.mmap(memory, 4096)[:4] != b"done":
            raise OSError(errno.EPROTO, "the worker did nothing")


def unshare() -> None:
    """As libcamera does in the child before it becomes a worker."""
    pid = os.fork()
    if pid == 0:
        library = ctypes.CDLL(None, use_errno=True)
        os._exit(ctypes.get_errno() if library.unshare(CLONE_NEWUSER | CLONE_NEWNET) else 0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "unshare")


def write_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


if __name__ == "__main__":
    main()
