"""Golden files: one fact a line, compared as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

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

    def check_on(self, name: str, host: Sequence[str], facts: Iterable[str], exact: Iterable[str]) -> None:
        """Does what `check` does, with ``exact`` facts that are compared only on the kind of host that they were kept on.

        Args:
            name: of the golden file.
            host: what may change the exact facts.
            facts: hold on every host.
            exact: hold on such a host.
        """
        path = FOLDER / f"{name}.txt"
        found = [*host, "", *facts, "", *exact]
        if not self.is_update:
            kept = path.read_text(encoding="utf-8").splitlines()
            if kept[: kept.index("")] != list(host):
                assert _middle(found) == _middle(kept), f"what users touch has changed; {REMEDY}"
                return
        self.check(name, found)


def _middle(lines: Sequence[str]) -> list[str]:
    """The facts between the host's lines and the exact ones."""
    begin = lines.index("") + 1
    return list(lines[begin : lines.index("", begin)])
