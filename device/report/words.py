"""How a report writes for people: numbers, durations, and whether power was measured or estimated."""

from __future__ import annotations

from typing import Literal

SCOPES = {
    "board": "the whole board",
    "soc": "the SoC's rails only",
    "cpu": "the processor only",
    "battery": "the battery",
    "wall": "at the wall",
}
"""What a scope covers."""

Kind = Literal["measured", "estimated"]


def name_kind(is_estimate: bool) -> Kind:
    """Whether a sensor or a model gave a figure."""
    return "estimated" if is_estimate else "measured"


def mark_kind(is_estimate: bool) -> str:
    """`name_kind` for a heading or a badge, where an estimate must not be overlooked."""
    return "ESTIMATED" if is_estimate else "measured"


def format_figure(value: float) -> str:
    """A number with three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    digits = 2 if abs(value) >= 1 else 3
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.3g}"


def format_energy(energy_j: float) -> str:
    """``1.20 J``, ``185 mJ``."""
    return f"{format_figure(energy_j)} J" if energy_j >= 1 else f"{format_figure(1e3 * energy_j)} mJ"


def number_of(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def format_duration(duration_s: float) -> str:
    """``4.2 s``, ``3 min 5 s``, ``2 h 10 min``, ``41 d 3 h``."""
    if duration_s < 60:
        return f"{duration_s:.1f}".removesuffix(".0") + " s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = round(duration_s)
    first = next(index for index, (_, size) in enumerate(units) if whole >= size)
    (big, big_s), (small, small_s) = units[first], units[first + 1]
    rest = whole % big_s // small_s
    return f"{whole // big_s} {big}" + (f" {rest} {small}" if rest else "")
