"""Small reads of ``/sys`` and ``/proc``, for those to whom a missing file is an answer: what can't be read is None."""

from __future__ import annotations

from pathlib import Path

# Longer than any attribute: sysfs gives one page at most.
_MAX_BYTES = 4096


def read_text(path: Path) -> str | None:
    """Reads a small file.

    Returns:
        Its text without the white space and NUL bytes around it; None where it can't be read, or is no text.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode().strip(" \t\r\n\0")
    except (OSError, ValueError):
        return None


def read_int(path: Path, base: int = 10) -> int | None:
    """Reads a file that holds one number; None where it can't be read, or holds anything else."""
    text = read_text(path)
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None
