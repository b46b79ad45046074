"""Tests that ``tests/conftest.py`` leaves out on the oldest Python that we run on: here they run on Debian 13's."""

from __future__ import annotations

import pytest

from .conftest import require_tools
from .harness import sandbox, tree
from .harness.cache import Cache
from .harness.process import run_limited
from .harness.tree import REPOSITORY
from .harness.user import bare_environment

pytestmark = pytest.mark.debian

LIMIT_S = 300.0

# The flag: pip would ask whether this process's Python is new enough.
WHEELS = ("--ignore-requires-python", "pytest>=9,<10", "usb-multimeter>=3,<4")
MARK = "mark.python312"


def test_what_needs_python_3_12_passes_on_debians(cache: Cache) -> None:
    require_tools("unshare", "timeout")
    files = [path for path in sorted((REPOSITORY / "tests/unit").glob("test_*.py")) if MARK in path.read_text()]
    assert files, f"no test has the {MARK}"
    site = cache.entry("newer-python", WHEELS, lambda folder: tree.install_wheels(folder, tree.TRIXIE_AMD64, WHEELS))
    flags = ["-p", "no:cacheprovider", "--rootdir=/opt/ghostwatt", "-m", "python312"]
    names = [f"/opt/ghostwatt/{path.relative_to(REPOSITORY)}" for path in files]
    done = run_limited(
        sandbox.inside(
            tree.board_tree(cache, tree.TRIXIE_AMD64, tree.CAMERA),
            ["/usr/bin/python3", "-m", "pytest", *flags, *names],
            mounts={"opt/ghostwatt": REPOSITORY, "opt/lib": site},
        ),
        timeout_s=LIMIT_S,
        # In CI a skip is a failure.
        env=bare_environment({"PYTHONPATH": "/opt/ghostwatt:/opt/lib", "CI": "true"}),
    )
    assert done.exit_code == 0, done.stdout + done.stderr
    assert " passed" in done.stdout.splitlines()[-1]
