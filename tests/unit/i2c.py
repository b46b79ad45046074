"""An I2C bus in a file: what ``smbus2.SMBus`` gives, from a JSON table of each chip's registers.

``{"0x40": {"0x00": "399f", ...}, "bound": ["0x41"]}``: the registers' bytes as the chip sends them, the high one first; to the
addresses in ``bound`` a kernel driver is bound. Every access reads the file anew, so that a chip or the whole bus can go.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


class FakeSMBus:
    """Stands in for ``smbus2.SMBus``."""

    def __init__(self, bus: str) -> None:
        self._path: Path | None = Path(bus)
        self._load()

    def close(self) -> None:
        self._path = None

    def read_word_data(self, i2c_addr: int, register: int) -> int:
        return int.from_bytes(self._registers(i2c_addr)[register][:2], "little")

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        return list(self._registers(i2c_addr)[register][:length])

    def write_word_data(self, i2c_addr: int, register: int, value: int) -> None:
        self._registers(i2c_addr)
        path = self._path
        assert path is not None
        poke(path, i2c_addr, register, int.from_bytes(value.to_bytes(2, "little"), "big"))

    def _load(self) -> dict[str, Any]:
        if self._path is None:
            raise TypeError("argument must be an int, or have a fileno() method")
        data: dict[str, Any] = json.loads(self._path.read_text())
        return data

    def _registers(self, address: int) -> dict[int, bytes]:
        data = self._load()
        if f"{address:#04x}" in data.get("bound", []):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if f"{address:#04x}" not in data:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        return {int(register, 16): bytes.fromhex(value) for register, value in data[f"{address:#04x}"].items()}


def peek(path: Path, address: int, register: int) -> int:
    """A register's value."""
    return int(json.loads(path.read_text())[f"{address:#04x}"][f"{register:#04x}"], 16)


def poke(path: Path, address: int, register: int, value: int) -> None:
    """Sets a register; its size stays."""
    data = json.loads(path.read_text())
    registers = data[f"{address:#04x}"]
    name = f"{register:#04x}"
    registers[name] = f"{value:0{len(registers[name])}x}"
    path.write_text(json.dumps(data))
