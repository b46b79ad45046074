"""Whether the processor was slowed down during a run or a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from device.report.words import format_duration

ThrottleState = Literal["throttled", "not_throttled", "unsupported"]


class Throttling(msgspec.Struct, frozen=True):
    """Whether the processor was slowed down, or short of voltage.

    Attributes:
        state: ``unsupported`` where nothing could tell, which isn't "not throttled".
        flags: those that held -> for how long, in seconds; None where the duration isn't known.
        told_s: the time for which the board could tell.
    """

    state: ThrottleState
    flags: dict[str, float | None]
    told_s: float | None


def judge_throttling(lengths_s: Mapping[str | None, float]) -> Throttling:
    """Sums flags up.

    Args:
        lengths_s: flags, joined by commas -> for how long, in seconds; the key is None where nothing could tell, and empty
            where no flag held.
    """
    flags: dict[str, float | None] = {}
    for text, length_s in sorted(lengths_s.items(), key=lambda item: item[0] or ""):
        for flag in (text or "").split(","):
            if flag:
                flags[flag] = (flags.get(flag) or 0.0) + length_s
    told_s = sum(length_s for text, length_s in lengths_s.items() if text is not None)
    if flags:
        return Throttling("throttled", flags, told_s)
    return Throttling("not_throttled" if told_s > 0 else "unsupported", {}, told_s)


def join_throttling(parts: Iterable[Throttling]) -> Throttling:
    """Sums several runs up."""
    lengths_s: dict[str | None, float] = {"": 0.0}
    for part in parts:
        for flag, length_s in part.flags.items():
            lengths_s[flag] = lengths_s.get(flag, 0.0) + (length_s or 0.0)
        lengths_s[""] += part.told_s or 0.0
    return msgspec.structs.replace(judge_throttling(lengths_s), told_s=lengths_s[""])


def describe_throttling(throttling: Throttling) -> str:
    """For people: ``throttled: under voltage (in 12 s)``, which is the duration of the intervals that saw it."""
    if throttling.state == "unsupported":
        return "can't tell whether it was throttled"
    if throttling.state == "not_throttled":
        return "not throttled"
    flags = (
        flag.replace("_", " ") + ("" if length_s is None else f" (in {format_duration(length_s)})")
        for flag, length_s in throttling.flags.items()
    )
    return f"throttled: {', '.join(flags)}"


def describe_heat_limit(limited_s: float) -> str:
    """For people. As with a flag, the duration is that of the intervals that saw it."""
    return f"by the profile's limit on heat, during intervals of {format_duration(limited_s)} in all"
