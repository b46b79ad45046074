"""What flags take for a number."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from device.core.flags import positive_float, positive_int, share


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (positive_int, "1", 1),
        (positive_int, " 12 ", 12),
        (positive_float, "0.5", 0.5),
        (positive_float, "1e3", 1000.0),
        (share, "0", 0.0),
        (share, "1", 1.0),
        (share, "0.25", 0.25),
    ],
)
def test_a_number_in_range_is_taken(read: Callable[[str], float], text: str, expected: float) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("read", "text"),
    [(positive_int, text) for text in ("0", "-1", "1.5", "", "one")]
    + [(positive_float, text) for text in ("0", "-0.0", "-2", "nan", "inf", "", "fast")]
    + [(share, text) for text in ("-0.1", "1.01", "nan", "inf", "", "half")],
)
def test_all_else_is_one_line_with_the_flags_name(
    read: Callable[[str], float], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser(prog="p")
    parser.add_argument("--flag", type=read)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([f"--flag={text}"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("p: error: argument --flag: ")
