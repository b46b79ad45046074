from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.core import errors

PROJECT = Path(__file__).parents[2]


def every_error() -> Iterator[type[errors.GhostwattError]]:
    waiting = [errors.GhostwattError]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()


def test_every_error_has_its_own_exit_code() -> None:
    codes = [kind.exit_code for kind in every_error()]
    assert len(codes) == len(set(codes))
    assert all(0 < code < 126 for code in codes)  # 126 and above are the shell's


def raised_reasons(kind: str) -> set[str]:
    """Reasons that the code gives to a class of errors word for word."""
    calls = (
        node
        for package in ("device", "converter")
        for path in (PROJECT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )
    given = (
        getattr(keyword.value, "value", None)
        for call in calls
        if raises(call, kind)
        for keyword in call.keywords
        if keyword.arg == "reason"
    )
    return {reason for reason in given if isinstance(reason, str)}


def raises(call: ast.Call, kind: str) -> bool:
    # `Commands.require` of the service raises what its caller names.
    return ast.unparse(call.func) == kind or (kind == "ServiceError" and ast.unparse(call.func).endswith("ommands.require"))


@pytest.mark.parametrize("kind", [errors.BenchError, errors.ServiceError, errors.DeployError])
def test_an_error_lists_the_reasons_that_it_is_raised_with(kind: type[errors.GhostwattError]) -> None:
    listed = set(re.findall(r"``(\w+)``", kind.__doc__ or ""))
    assert listed == raised_reasons(kind.__name__)


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
        raise errors.MeterError("rapl", "gone")

    assert errors.exit_with_one_line(main) == errors.MeterError.exit_code
    assert capsys.readouterr().err == "error: rapl: gone\n"


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        raise errors.MeterError("rapl", "gone")

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
