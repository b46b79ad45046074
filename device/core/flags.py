"""What a flag's value must be, for ``argparse``: one line of error otherwise."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    """A whole number, 1 or more.

    Raises:
        ArgumentTypeError: it is less.
        ValueError: it is no whole number.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0.

    Raises:
        ArgumentTypeError: it isn't.
        ValueError: it is no number.
    """
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1, both included.

    Raises:
        ArgumentTypeError: it isn't.
        ValueError: it is no number.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value
