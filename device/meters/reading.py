"""Reads of a meter's files: what can't be read is a `MeterError` that says why."""

from __future__ import annotations

from pathlib import Path

from device.core.errors import MeterError


def read_number(path: Path, *, permission_remedy: str = "") -> int:
    """Reads a file that holds one whole number.

    Raises:
        MeterError: ``permission``; ``missing`` where the file or the device behind it is gone; ``malformed``.
    """
    try:
        text = path.read_bytes()[:4096].decode(errors="replace").strip()
    except PermissionError as error:
        raise MeterError(
            str(path), "may not be read", expected="read permission", remedy=permission_remedy, reason="permission"
        ) from error
    except OSError as error:
        raise MeterError(str(path), error.strerror or str(error), expected="a readable sensor", reason="missing") from error
    try:
        value = int(text)
    except ValueError as error:
        raise MeterError(str(path), f"{text[:40]!r}", expected="a whole number", reason="malformed") from error
    if abs(value) >= 1 << 64:
        raise MeterError(str(path), f"{text[:40]!r}", expected="a number of 64 bits", reason="malformed")
    return value
