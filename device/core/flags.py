"""Types of command-line values for ``argparse``, which reports an invalid one in a single line."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    """Parses a whole number of 1 or more.

    Raises:
        ArgumentTypeError: the number is less than 1.
        ValueError: it isn't a whole number.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def positive_float(text: str) -> float:
    """Parses a finite number above 0.

    Raises:
        ArgumentTypeError: the number is out of range.
        ValueError: it isn't a number.
    """
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    """Parses a number from 0 to 1, both included.

    Raises:
        ArgumentTypeError: the number is out of range.
        ValueError: it isn't a number.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value
