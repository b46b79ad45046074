from __future__ import annotations

import sys
from pathlib import Path

import pytest

from device.core.programs import HUNG, NOT_THERE, Done, last_error, run_program


def test_a_program_ends_with_its_exit_code_and_output() -> None:
    script = "import sys; print('x'); print('y', file=sys.stderr); raise SystemExit(3)"
    assert run_program([sys.executable, "-c", script], 20.0) == Done(3, "x\n", "y\n")


def test_one_that_is_not_there_ends_as_in_a_shell() -> None:
    assert run_program(["no-such-program-of-ghostwatt"], 5.0) == Done(NOT_THERE, "", "No such file or directory")


def test_one_that_hangs_is_ended() -> None:
    done = run_program([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    assert done == Done(HUNG, "", "gave no answer within 0.2 s")


def test_one_that_is_killed_ends_with_its_signal() -> None:
    assert run_program([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], 20.0).code == -11


def test_it_reads_a_file_or_nothing_and_bytes_that_are_no_text_harm_nobody(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"a\xffb")
    assert run_program(["cat"], 20.0, stdin=tmp_path / "input").out == "a\ufffdb"
    assert run_program(["cat"], 20.0).out == ""


def test_programs_for_administrators_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert run_program(["sh", "-c", "echo $PATH"], 20.0).out == "/usr/bin:/bin:/usr/sbin:/sbin\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ""),
        ("no error: here\n", ""),
        ("error: first\nnote: x\nerror: the last; do that\nFailed with result\n", "the last; do that"),
    ],
)
def test_the_last_error_counts(text: str, error: str) -> None:
    assert last_error(text) == error


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (Done(1, "out\n", "error: why\nAborted\n"), "why"),
        (Done(1, "out\n", "one\ntwo\n"), "two"),
        (Done(1, "out\n", ""), "out"),
        (Done(7, "", "\n"), "exit code 7"),
    ],
)
def test_why_a_program_failed_is_one_line(done: Done, line: str) -> None:
    assert done.last_line == line
