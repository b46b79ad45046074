"""Formats the rows, and sums them up for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

import msgspec

from device import __version__
from device.doctor.check import Check, Verdict

_MARKS: dict[Verdict, str] = {"ok": "ok", "warn": "WARN", "fail": "FAIL", "unsupported": "-"}


class Findings(msgspec.Struct, frozen=True):
    """What ``--json`` prints.

    Attributes:
        verdict: the worst of the checks; ``unsupported`` doesn't count.
        checks: in order.
        version: of ghostwatt.
        kind: distinguishes this output from others.
        schema: of it.
    """

    verdict: Verdict
    checks: tuple[Check, ...]
    version: str = __version__
    kind: Literal["ghostwatt doctor"] = "ghostwatt doctor"
    schema: Literal[1] = 1


def sum_up(checks: Sequence[Check]) -> Findings:
    """The checks, and the worst verdict among them."""
    verdicts = {check.verdict for check in checks}
    worst: Verdict = "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok"
    return Findings(worst, tuple(checks))


def format_table(checks: Sequence[Check], columns: int) -> str:
    """A row for each check with its fix below, wrapped to ``columns``; only a longer word exceeds them."""
    wide = max((len(check.check) for check in checks), default=0)
    indent = " " * (6 + wide + 2)
    lines = []
    for check in checks:
        head = f"{_MARKS[check.verdict]:<6}{check.check:<{wide}}  "
        lines.append(_wrap(check.finding, head, indent, columns))
        if check.fix:
            lines.append(_wrap(check.fix, f"{indent}→ ", f"{indent}  ", columns))
    return "\n".join(lines)


def _wrap(text: str, head: str, indent: str, columns: int) -> str:
    width = max(columns, len(head) + 30)
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
