"""Sends general commands (``get_throttled``, ``pmic_read_adc``) to the Raspberry Pi's firmware, in-process or by ``vcgencmd``.

In-process, a command is one ioctl on the firmware's mailbox; ``vcgencmd`` does the same, but takes a process each time.

References:
    raspberrypi/utils, ``vcgencmd/vcgencmd.c``: layout and size of the message, and the order of the two nodes.
    raspberrypi/linux, ``drivers/char/broadcom/vcio.c``: ``_IOWR(100, 0, char *)``; the driver copies as many bytes as the first
    word says, and writes the status into the second. ``/dev/vcio_gencmd`` (2026) accepts only general commands.
    raspberrypi/firmware wiki, "Mailbox property interface": sizes, tags and status words.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Protocol

from device.core.errors import MeterError, MeterReason

NODES = ("dev/vcio_gencmd", "dev/vcio")
"""The first accepts only general commands, and is preferred if both exist."""

PROPERTY_REQUEST = 3 << 30 | struct.calcsize("P") << 16 | 100 << 8
"""``_IOWR(100, 0, char *)``: the encoded size is that of a pointer, not of the message."""

GENERAL_COMMAND_TAG = 0x00030080
STATUS_SUCCESS = 0x80000000

TEXT_BYTES = 4096
"""Space for a command and its answer; the longest answer of the firmware."""

# Six words precede the text (size, status, tag, space, length, status of the command), and the end tag follows it.
_HEADER = struct.Struct("=6I")
_MESSAGE_BYTES = _HEADER.size + TEXT_BYTES + 4

PROGRAMS = ("usr/bin/vcgencmd", "usr/local/bin/vcgencmd", "opt/vc/bin/vcgencmd")
PROGRAM_TIMEOUT_S = 2.0

_GROUP_REMEDY = "join the group video: sudo usermod -aG video $USER, then log in again"

Ioctl = Callable[[int, int, bytearray, bool], int]


class Firmware(Protocol):
    """A way to send general commands to the firmware."""

    def gencmd(self, command: str) -> str:
        """Runs one command.

        Returns:
            The firmware's answer, without surrounding white space.

        Raises:
            MeterError: ``missing`` if there is no way to the firmware, or it doesn't know the command; ``permission``;
                ``malformed`` if the answer is invalid.
        """


class Mailbox:
    """The firmware's mailbox, used in-process. Keeps nothing open between commands.

    Args:
        root: folder that holds ``dev``.
        call: replaces the system's ioctl in tests.
    """

    def __init__(self, root: Path = Path("/"), call: Ioctl | None = None) -> None:
        self._nodes = [root / node for node in NODES]
        self._call = call or ioctl

    def gencmd(self, command: str) -> str:
        """Runs one command. See `Firmware.gencmd`."""
        node, descriptor = self._open()
        message = _pack(command)
        try:
            self._call(descriptor, PROPERTY_REQUEST, message, True)
        except OSError as error:
            raise MeterError(
                str(node),
                f"refused {command!r} ({error.strerror or error})",
                expected="the firmware's mailbox",
                reason="permission" if isinstance(error, PermissionError) else "missing",
            ) from error
        finally:
            os.close(descriptor)
        return _check(_unpack(message, str(node)), str(node), command)

    def _open(self) -> tuple[Path, int]:
        refused: Path | None = None
        for node in self._nodes:
            try:
                return node, os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            except PermissionError:
                refused = refused or node
            except OSError:
                continue
        if refused:
            raise MeterError(
                str(refused), "can't be opened", expected="read permission", remedy=_GROUP_REMEDY, reason="permission"
            )
        raise MeterError(
            " or ".join(map(str, self._nodes)),
            "doesn't exist",
            expected="a Raspberry Pi with Raspberry Pi's own kernel",
            reason="missing",
        )


class VcgencmdProgram:
    """The firmware's mailbox, used through ``vcgencmd``.

    Args:
        root: folder that holds ``usr/bin``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._programs = [root / program for program in PROGRAMS]

    def gencmd(self, command: str) -> str:
        """Runs one command. See `Firmware.gencmd`."""
        # Imported here, because it takes a megabyte and is usually not needed.
        import subprocess

        program = next((program for program in self._programs if program.is_file()), None)
        if program is None:
            raise MeterError(str(self._programs[0]), "doesn't exist", remedy="apt install raspi-utils-core", reason="missing")
        try:
            done = subprocess.run(
                [program, *command.split()],
                capture_output=True,
                timeout=PROGRAM_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise MeterError(str(program), f"gave no answer within {PROGRAM_TIMEOUT_S:g} s", reason="malformed") from error
        except OSError as error:
            reason: MeterReason = "permission" if isinstance(error, PermissionError) else "missing"
            raise MeterError(str(program), f"can't be run ({error.strerror or error})", reason=reason) from error
        answer = _check(_decode(done.stdout, str(program)), str(program), command)
        if done.returncode == 0:
            return answer
        # The program reports on its standard output that it can't open the device, usually for lack of the group.
        is_refused = "can't open device" in answer.lower()
        raise MeterError(
            str(program),
            f"exited with {done.returncode} ({answer[:120]})",
            remedy=_GROUP_REMEDY if is_refused else "",
            reason="permission" if is_refused else "malformed",
        )


def _pack(command: str) -> bytearray:
    text = command.encode("ascii")
    if len(text) >= TEXT_BYTES or b"\0" in text:
        raise ValueError(f"not a valid command: {command[:40]!r}")
    message = bytearray(_MESSAGE_BYTES)
    _HEADER.pack_into(message, 0, _MESSAGE_BYTES, 0, GENERAL_COMMAND_TAG, TEXT_BYTES, 0, 0)
    message[_HEADER.size : _HEADER.size + len(text)] = text
    return message


def _unpack(message: bytearray, where: str) -> str:
    status = _HEADER.unpack_from(message)[1]
    if status != STATUS_SUCCESS:
        raise MeterError(where, f"status {status:#010x}", expected=f"{STATUS_SUCCESS:#010x} (success)", reason="malformed")
    text, end, _ = bytes(message[_HEADER.size : -4]).partition(b"\0")
    if not end:
        raise MeterError(where, "an unterminated answer", expected=f"at most {TEXT_BYTES} bytes", reason="malformed")
    return _decode(text, where)


def _decode(answer: bytes, where: str) -> str:
    try:
        return answer.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise MeterError(where, f"{answer[:40]!r}", expected="ASCII", reason="malformed") from error


def _check(answer: str, where: str, command: str) -> str:
    """Raises the firmware's errors, such as ``error=1 error_msg="Command not registered"``."""
    complaint = next((line for line in answer.splitlines() if line.startswith("error=")), None)
    if complaint:
        raise MeterError(
            where, f"{command!r} returned {complaint[:120]}", expected="firmware that knows the command", reason="missing"
        )
    return answer
