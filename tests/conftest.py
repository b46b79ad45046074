"""What holds for every test: how it runs without root's rights, what a skip means, and how processes of one run share things.

A skip is for a developer's machine, which may lack a package: the end of the run lists what could not run and how to get it. In
CI (the variable ``CI`` is set) a skip is a failure.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.surface.golden import Golden
from tests.unprivileged import run_unprivileged

Share = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/surface/golden/ anew, and compare nothing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """What users touch, as it is kept."""
    return Golden(is_update=request.config.getoption("--update-golden"))


# --- skips ------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI"):
        report.longrepr = f"{reason_of(report)} (a skip, which is a failure in CI)"
        report.outcome = "failed"


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason that a test gave for skipping."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for report in terminalreporter.stats.get("skipped", []) if not hasattr(report, "wasxfail")]
    if reports:
        terminalreporter.section("not run on this machine")
        for reason, count in Counter(map(reason_of, reports)).most_common():
            terminalreporter.line(f"{count:4d}  {reason}")


# --- where a test runs ------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs a newer Python: ``tests/board`` runs it on Debian's."""
    if sys.version_info >= (3, 12):
        return
    newer = [item for item in items if item.get_closest_marker("python312")]
    if newer:
        config.hook.pytest_deselected(items=newer)
        items[:] = [item for item in items if item not in newer]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs tests marked ``unprivileged`` in a child without root's rights, where root runs the tests."""
    if os.geteuid() or not pyfuncitem.get_closest_marker("unprivileged"):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    failure = run_unprivileged(lambda: pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    if failure:
        pytest.fail(failure, pytrace=False)
    return True


# --- sharing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """Makes a folder once in a run, however many processes of pytest-xdist need it.

    Takes a name and a function that fills the empty folder that it is given; gives the folder, which is not to be changed. A
    function that fails leaves nothing, so that the next one to ask tries again.
    """
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = root / f"shared-{name}"
        with (root / f"shared-{name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            if not lock.read():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                lock.write("filled")
        return folder

    return make
