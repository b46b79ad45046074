"""Reads small files of ``/sys`` and ``/proc``. What can't be read is None, since a missing file is a valid answer."""

from __future__ import annotations

from pathlib import Path

# The longest attribute: sysfs returns at most one page.
_MAX_BYTES = 4096


def read_text(path: Path) -> str | None:
    """Reads a small file.

    Returns:
        Its text without surrounding white space and NUL bytes; None if it can't be read, or isn't text.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode().strip(" \t\r\n\0")
    except (OSError, ValueError):
        return None


def read_int(path: Path, base: int = 10) -> int | None:
    """Reads a file that contains one number; None if it can't be read, or contains anything else."""
    text = read_text(path)
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None
