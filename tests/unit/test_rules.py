"""The rules of `tests/conftest.py`: a skip is a failure in CI, and a test without root's rights is truly without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unprivileged import run_unprivileged

PROJECT = Path(__file__).parents[2]

SKIPPING = """
import pytest

def test_here():
    pass

@pytest.mark.parametrize("number", [1, 2])
def test_there(number):
    pytest.skip("a tool is missing: get it")

@pytest.mark.xfail(strict=True)
def test_known():
    raise AssertionError
"""
SKIPPING_WHOLE = 'import pytest\npytest.importorskip("no_such_package", reason="a package is missing: install it")\n'


def run_pytest(folder: Path, *flags: str, ci: bool) -> tuple[int, str]:
    (folder / "test_some.py").write_text(SKIPPING)
    (folder / "test_whole.py").write_text(SKIPPING_WHOLE)
    env = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    env |= {"PYTHONPATH": str(PROJECT)} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", "--rootdir", str(folder), *flags, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)
    return done.returncode, done.stdout


@pytest.mark.parametrize("flags", [(), ("-n", "2")], ids=["one process", "two"])
def test_what_was_skipped_is_listed_at_the_end_with_how_to_get_it(tmp_path: Path, flags: tuple[str, ...]) -> None:
    code, out = run_pytest(tmp_path, *flags, ci=False)
    assert code == 0, out
    section = out.partition("not run on this machine")[2].splitlines()
    assert "   2  a tool is missing: get it" in section
    assert "   1  a package is missing: install it" in section
    assert section[-1].startswith("1 passed, 3 skipped, 1 xfailed")


def test_in_ci_a_skip_is_a_failure(tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, "--continue-on-collection-errors", ci=True)
    assert code == 1
    assert "a tool is missing: get it (a skip, which is a failure in CI)" in out
    assert "a package is missing: install it (a skip, which is a failure in CI)" in out
    assert out.splitlines()[-1].startswith("2 failed, 1 passed, 1 xfailed, ")
    assert ", 1 error in " in out.splitlines()[-1]


def test_without_roots_rights_a_locked_file_is_locked(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_text("secret")
    locked.chmod(0)
    assert "PermissionError" in run_unprivileged(locked.read_text)
    assert not run_unprivileged(lambda: locked.chmod(0o400))

    def ask_others() -> None:
        assert not os.access(tmp_path / "other", os.R_OK)
        # A program that is started has no more rights than the one that starts it.
        assert subprocess.run(["cat", tmp_path / "other"], check=False, capture_output=True).returncode == 1

    (tmp_path / "other").touch(mode=0)
    assert not run_unprivileged(ask_others)


def test_what_an_unprivileged_test_raises_comes_back() -> None:
    def fail() -> None:
        raise ValueError("this went wrong")

    assert run_unprivileged(fail).rstrip().endswith("ValueError: this went wrong")


SHARING = """
import pathlib, time, pytest

@pytest.mark.parametrize("number", range(4))
def test_all_see_one_folder(share, number):
    def fill(folder):
        time.sleep(0.2)
        (folder / "file").touch()
        with LOG.open("a") as log:
            log.write("filled")
    assert [path.name for path in share("thing", fill).iterdir()] == ["file"]

def test_a_failure_leaves_nothing(share):
    with pytest.raises(ZeroDivisionError):
        share("other", lambda folder: (folder / "half").touch() or 1 / 0)
    assert not list(share("other", lambda folder: None).iterdir())
"""


def test_a_shared_folder_is_filled_once_in_a_run(tmp_path: Path) -> None:
    (tmp_path / "test_sharing.py").write_text(SHARING + f"\nLOG = pathlib.Path({str(tmp_path / 'log')!r})\n")
    code, out = run_pytest(tmp_path, "-n", "2", ci=False)
    assert code == 0, out
    assert (tmp_path / "log").read_text() == "filled"
