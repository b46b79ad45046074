"""Plays the Raspberry Pi's firmware at the other end of the ioctl."""

from __future__ import annotations

import os
import struct
from pathlib import Path

TAG, SUCCESS, FAILURE = 0x00030080, 0x80000000, 0x80000001
REQUEST = 0xC0086400 if struct.calcsize("P") == 8 else 0xC0046400


def firmware_ioctl(descriptor: int, request: int, message: bytearray, mutate: bool) -> int:
    """Checks a message as the kernel and the firmware do, and answers it from the files under the tree's ``firmware``.

    The tree is the one whose ``dev`` holds the open node.
    """
    assert (request, mutate) == (REQUEST, True)
    root = Path(os.readlink(f"/proc/self/fd/{descriptor}")).parents[1]
    size, status, tag, room, length, error = struct.unpack_from("=6I", message)
    assert (size, status, tag, length, error) == (len(message), 0, TAG, 0, 0)
    # The tag's own buffer begins at its status word, and the end tag is the message's last word.
    assert room <= size - 24
    assert size % 4 == 0
    assert message[-4:] == bytes(4)
    command = bytes(message[24:-4]).partition(b"\0")[0].decode()
    answer = root / "firmware" / command
    known = answer.is_file()
    text = answer.read_bytes() if known else b'error=1 error_msg="Command not registered"'
    assert len(text) < room
    struct.pack_into("=I", message, 4, SUCCESS)
    struct.pack_into("=I", message, 20, 0 if known else 1)
    message[24:-4] = text.ljust(size - 28, b"\0")
    return 0
