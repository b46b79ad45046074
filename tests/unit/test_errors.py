from __future__ import annotations

import ast
import functools
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from device.core import errors
from device.meters.registry import METERS
from device.runtimes.registry import RUNTIMES
from device.sinks.registry import SINKS
from device.sources.registry import SOURCES

PROJECT = Path(__file__).parents[2]


def families() -> list[type[errors.GhostwattError]]:
    """Every class that is raised."""
    (base,) = errors.GhostwattError.__subclasses__()
    return base.__subclasses__()


def reasons(family: type[errors.GhostwattError]) -> Any:
    """The `Literal` of a family's reasons."""
    ((reason,),) = (get_args(base) for base in vars(family)["__orig_bases__"])
    return reason


def test_every_error_has_its_own_exit_code() -> None:
    codes = [errors.GhostwattError.exit_code, *(family.exit_code for family in families())]
    assert len(codes) == len(set(codes)) > 15
    assert all(0 < code < 126 for code in codes)  # 126 and above are the shell's


def documented_reasons() -> dict[str, set[str]]:
    """The words that the docstring below each `Literal` of reasons explains, by the Literal's name."""
    statements = ast.parse(Path(errors.__file__).read_text()).body
    found = {}
    for statement, after in itertools.pairwise(statements):
        if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[ast.unparse(statement.targets[0])] = set(re.findall(r"``(\w+)``[,:.]", str(after.value.value)))
    return found


@pytest.mark.parametrize("family", families())
def test_every_reason_is_explained_and_given_somewhere(family: type[errors.GhostwattError]) -> None:
    known = set(get_args(reasons(family)))
    (explained,) = (words for name, words in documented_reasons().items() if getattr(errors, name) == reasons(family))
    assert explained == known
    unused = {reason for reason in known - made_reasons() if f'"{reason}"' not in product_text()}
    assert not unused


def made_reasons() -> set[str]:
    """Reasons that are put together."""
    tables = (SOURCES, RUNTIMES, METERS, SINKS)
    return {f"{what}_{table.kind}" for table in tables for what in ("unknown", "malformed")}


@functools.cache
def product_text() -> str:
    files = [path for package in ("device", "converter") for path in (PROJECT / package).rglob("*.py")]
    return "".join(path.read_text() for path in files if path != Path(errors.__file__))


def test_every_table_has_its_reasons() -> None:
    assert made_reasons() <= set(get_args(errors.UsageReason))


def test_message_is_one_line_with_where_found_expected_and_remedy() -> None:
    error = errors.BundleError("m.json", "has\nschema 9", expected="1", remedy="upgrade", reason="schema")
    assert str(error) == "m.json: has schema 9; expected 1; upgrade"
    assert error.reason == "schema"


def test_nearest_asks_about_a_typo_and_lists_the_names() -> None:
    assert errors.nearest("litertt", ["executorch", "litert"]) == "did you mean 'litert'? (there are: executorch, litert)"
    assert errors.nearest("zzz", []) == "(there are: none)"


def test_nearest_of_a_thousand_names_is_still_a_line() -> None:
    said = errors.nearest("label 7000", [f"label {index:04}" for index in range(1000)])
    assert said.startswith("did you mean 'label 0")
    assert said.endswith("label 0019 and 980 more)")


def test_command_prints_one_line_and_exits_with_the_errors_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise errors.MeterError("rapl", "gone", reason="missing")

    assert errors.exit_with_one_line(main) == errors.MeterError.exit_code
    assert capsys.readouterr().err == "error: rapl: gone\n"


def test_an_error_goes_from_one_process_to_another() -> None:
    raised = errors.MeterError("rapl", "gone; or never there", expected="a sensor", remedy="look", reason="missing")
    read = errors.read_facts(raised.facts())
    assert type(read) is errors.MeterError
    assert read.facts() == raised.facts()


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        raise errors.MeterError("rapl", "gone", reason="missing")

    monkeypatch.setenv("GHOSTWATT_TRACEBACK", "1")
    with pytest.raises(errors.MeterError):
        errors.exit_with_one_line(main)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = (
        "import sys\nfrom device.core.errors import exit_with_one_line\n"
        "def main():\n    for i in range(100000): print('x' * 80)\n    return 0\n"
        "sys.exit(exit_with_one_line(main))"
    )
    producer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert producer.stdout is not None
    assert producer.stderr is not None
    producer.stdout.readline()
    producer.stdout.close()
    assert producer.wait(timeout=30) == 0
    assert producer.stderr.read() == b""
    producer.stderr.close()
