from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.errors import MeterError
from device.core.programs import NOT_THERE, Done
from device.doctor.__main__ import list_probes
from device.doctor.check import Check, CheckContext, examine, make_context
from device.doctor.table import Findings, format_table, sum_up

TREES = Path(__file__).parents[1] / "fixtures/sysfs"


@pytest.fixture
def context(tmp_path: Path) -> CheckContext:
    return make_context(tmp_path, None, None, tmp_path, lambda argv, timeout_s: Done(NOT_THERE, "", "not there"))


def fine(_: CheckContext) -> Iterator[Check]:
    yield Check("fine", "ok", "all is well")


class TestExamine:
    def test_a_crash_is_a_row_and_not_the_end(self, context: CheckContext) -> None:
        def crash(_: CheckContext) -> Iterator[Check]:
            yield Check("half", "ok", "begun")
            raise ZeroDivisionError("by\nnought")

        rows = examine(context, [("crash", crash, 5.0), ("fine", fine, 5.0)])
        assert [(row.check, row.verdict) for row in rows] == [("crash", "fail"), ("fine", "ok")]
        assert rows[0].finding == "the check itself failed: ZeroDivisionError: by nought"

    def test_an_error_of_ours_says_what_to_do(self, context: CheckContext) -> None:
        def refuse(_: CheckContext) -> list[Check]:
            raise MeterError("x", "is gone", expected="a sensor", remedy="plug it in", reason="missing")

        assert examine(context, [("x", refuse, 5.0)]) == [Check("x", "fail", "x: is gone; expected a sensor", "plug it in")]

    def test_one_that_hangs_is_a_row_and_keeps_nobody(self, context: CheckContext) -> None:
        release = threading.Event()

        def hang(_: CheckContext) -> Iterator[Check]:
            release.wait(60.0)
            yield Check("hang", "ok", "at last")

        rows = examine(context, [("hang", hang, 0.1), ("fine", fine, 5.0)])
        release.set()
        assert [(row.check, row.verdict) for row in rows] == [("hang", "fail"), ("fine", "ok")]
        assert "no answer within 0.1 s" in rows[0].finding

    @pytest.mark.parametrize("name", [*sorted(path.name for path in TREES.iterdir() if path.is_dir()), ""])
    def test_every_captured_tree_and_none_at_all_gives_a_row_a_check(
        self, name: str, context: CheckContext, tmp_path: Path
    ) -> None:
        context = make_context(TREES / name if name else tmp_path, None, None, tmp_path, context.command)
        rows = examine(context, list_probes(context))
        names = {row.check for row in rows}
        assert {
            "board",
            "system",
            "python",
            "glibc",
            "processor",
            "governor",
            "throttling",
            "memory",
            "disk",
            "service",
        } <= names
        assert not [row for row in rows if "the check itself failed" in row.finding]
        assert all(row.fix or row.verdict != "fail" for row in rows if not row.check.startswith("runtime"))
        assert all("\n" not in row.finding + row.fix for row in rows)


CHECKS = st.lists(
    st.builds(
        Check,
        st.text("abcdefghij", min_size=1, max_size=20),
        st.sampled_from(["ok", "warn", "fail", "unsupported"]),
        st.text("abc äß→ 0123", max_size=200),
        st.text("abc äß→ 0123", max_size=200),
    ),
    max_size=8,
)


class TestTable:
    @given(checks=CHECKS)
    def test_the_worst_counts_and_json_reads_back(self, checks: list[Check]) -> None:
        findings = sum_up(checks)
        verdicts = [check.verdict for check in checks]
        assert findings.verdict == ("fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok")
        assert msgspec.json.decode(msgspec.json.encode(findings), type=Findings) == findings

    def test_a_row_a_check_with_its_fix_below(self) -> None:
        text = format_table([Check("disk", "ok", "9 GB free"), Check("clock", "warn", "not set", "set it")], 80)
        assert text.splitlines() == ["ok    disk   9 GB free", "WARN  clock  not set", "             → set it"]

    def test_lines_fit_the_terminal(self) -> None:
        text = format_table([Check("disk", "warn", "word " * 60, "fix " * 60)], 60)
        assert max(len(line) for line in text.splitlines()) <= 60
