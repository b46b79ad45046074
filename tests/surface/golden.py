"""Golden files: one fact a line, compared as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"
REMEDY = "if that is meant, run this test again with --update-golden"


class Golden:
    """Compares facts with those that were kept, or keeps them.

    Args:
        is_update: keep them.
    """

    def __init__(self, *, is_update: bool) -> None:
        self.is_update = is_update

    def check(self, name: str, facts: Iterable[str]) -> None:
        """Fails with a diff where the facts aren't those of ``golden/<name>.txt``."""
        path = FOLDER / f"{name}.txt"
        found = "".join(f"{fact}\n" for fact in facts)
        if self.is_update:
            path.write_text(found, encoding="utf-8")
            return
        kept = path.read_text(encoding="utf-8")
        diff = difflib.unified_diff(kept.splitlines(), found.splitlines(), f"golden/{path.name}", "found", lineterm="", n=0)
        assert found == kept, "\n".join([f"what users touch has changed; {REMEDY}", *diff])

    def check_on(self, name: str, host: Sequence[str], facts: Iterable[str]) -> None:
        """Likewise for facts that are only comparable on one kind of host; skips on another, and says how it differs."""
        path = FOLDER / f"{name}.txt"
        if not self.is_update:
            kept = path.read_text(encoding="utf-8").splitlines()
            # What the host is like stands first.
            kept_host = kept[: kept.index("")]
            if kept_host != list(host):
                here = "; ".join(line for line in host if line not in kept_host)
                there = "; ".join(line for line in kept_host if line not in host)
                pytest.skip(f"golden/{path.name} was made on another host ({there}) than this one ({here}): nothing to compare")
        self.check(name, [*host, "", *facts])
