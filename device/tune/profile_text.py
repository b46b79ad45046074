"""Writes a profile as YAML by hand, because boards have no YAML library. A test checks it against `converter.profiles`.

Strings are written in double quotes, with unprintable characters escaped. Each comment is a single line.

References:
    YAML 1.2.2, sections 5.7 (escapes), 6.6 (comments) and 7.3.1 (double quotes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from device.contract import Profile
from device.core.errors import UsageError
from device.tune.result import PointResult, TuneResult
from device.tune.table import format_tuning

FIRST_LINE = "# Written by `python -m device.tune`. To change it, tune again or make a profile that inherits from it."
"""Marks files that may be overwritten, as opposed to those written by a person."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_name(name: str) -> str:
    """Checks that a name is a valid profile name, and returns it.

    Raises:
        UsageError: ``name``.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "--out", f"{name!r} isn't a valid profile name", expected="a-z, 0-9, - and _ (at most 64)", reason="name"
        )
    return name


def write_profile(name: str, parent: Profile, result: TuneResult, point: PointResult) -> str:
    """Writes the chosen point as a profile, with the measurements that justify it in comments.

    Args:
        name: name of the profile and of its file.
        parent: profile of the measured bundle, from which the new one inherits.
        result: result of the search.
        point: the chosen point.
    """
    keys = [
        f"name: {check_name(name)}",
        f"description: {_quote(f'{parent.board.title}, tuned: {result.aim}')}",
        f"inherits: {parent.name}",
        "model:",
        f"  input_px: {point.choice.input_px}",
        f"  precision: {point.choice.precision}",
        "runtime:",
        f"  name: {point.choice.runtime}",
        f"  threads: {point.choice.threads}",
        "limits:",
        f"  max_rate_fps: {_number(point.asked_rate_fps)}",
        *_drop_slow_rate(parent, point),
    ]
    return "\n".join([FIRST_LINE, *_comments(_justify(result, point)), *keys]) + "\n"


def _drop_slow_rate(parent: Profile, point: PointResult) -> list[str]:
    """Drops the parent's reduced rate for heat if it isn't below the tuned rate: it would be rejected."""
    slow_fps = parent.limits.slow_rate_fps
    if slow_fps is None or point.asked_rate_fps is None or slow_fps < point.asked_rate_fps:
        return []
    return [f"  slow_above_c: null # the reduced rate, {slow_fps:g} FPS, is not below the tuned rate", "  slow_rate_fps: null"]


def _justify(result: TuneResult, point: PointResult) -> list[str]:
    lines = [f"Measured {result.started_at_utc}. {'' if result.settings.conforms else 'A QUICK LOOK, not a measurement.'}"]
    lines += format_tuning(result).split("\n")
    if point.governor:
        lines.append(f"Measured with the governor {point.governor}, which a profile can't set.")
    return lines


def _comments(lines: Iterable[str]) -> list[str]:
    printable = ("".join(character if character.isprintable() else "?" for character in line) for line in lines)
    return [f"# {line}".rstrip() for line in printable]


def _quote(text: str) -> str:
    return '"' + "".join(_escape(character) for character in text) + '"'


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"
