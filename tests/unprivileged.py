"""Runs a test without root's rights over files, in a child of its own: root may read and write everything, which tests of
refusals can't use.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import traceback
from collections.abc import Callable

LIMIT_S = 120.0

# linux/prctl.h, linux/capability.h
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_capabilities() -> None:
    """Gives up every capability of this process for good, and those that programs which it starts would be given.

    The user stays the same. What is left to root then are the rights that a file's mode gives to its owner.

    References:
        capabilities(7), "Transformation of capabilities during execve()" and "Capability bounding set".
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open(_LAST_CAPABILITY, encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _require(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    _require(libc.capset(ctypes.byref(header), data))


def _require(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run_unprivileged(function: Callable[[], object]) -> str:
    """Calls a function in a child process without capabilities.

    Args:
        function: what it returns is lost.

    Returns:
        The traceback of what it raised; empty where it raised nothing.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            drop_capabilities()
            function()
            report = b"+"
        except BaseException:
            report = b"-" + traceback.format_exc().encode(errors="replace")
        os.write(writer, report[: select.PIPE_BUF])
        # Whatever the parent registered to be done at its end is the parent's.
        os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], LIMIT_S)
        report = os.read(reader, select.PIPE_BUF) if ready else b""
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if report == b"+":
        return ""
    return report[1:].decode() or f"the unprivileged child gave no answer within {LIMIT_S:g} s, or died"
