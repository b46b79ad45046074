"""Fixtures of the emulated board. A lane skips where what it needs isn't there."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Share

from .arm_cost import install
from .harness import tree, user
from .harness.cache import Cache
from .harness.packages import TOOLS, missing
from .harness.tree import REPOSITORY

REPORT = pytest.StashKey[list[str]]()

PROGRAMS = Path(__file__).parent / "programs"
RUNTIMES = ("litert", "executorch")

LONGEST_FIRST = ("test_service", "test_checkout", "test_power", "test_booted", "test_camera", "test_arm_cost", "test_arm_user")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "arm: runs ARM code under qemu-user; a minute or more")
    config.addinivalue_line("markers", "camera: runs picamera2 on a virtual camera; a minute")
    config.addinivalue_line("markers", "board: boots the emulated board under qemu-system; a minute or more")
    config.addinivalue_line("markers", "upgrade: replaces an older release on a booted board; make test-upgrade")
    config.addinivalue_line("markers", "debian: runs on Debian 13's Python, on this machine's processor")
    config.stash[REPORT] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest stories first, so that the processes that tell them end together."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands a worker's lines for the end of the run to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["emulated board"] = session.config.stash[REPORT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[REPORT] += getattr(node, "workeroutput", {}).get("emulated board", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[REPORT]:
        terminalreporter.section("emulated board")
        for line in config.stash[REPORT]:
            terminalreporter.line(line)


def require_tools(*tools: str) -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the emulated board needs an x86-64 Linux machine")
    absent = missing(tools)
    if absent:
        names = ", ".join(f"{tool} (package {TOOLS[tool]})" for tool in absent)
        pytest.skip(f"missing: {names}: make setup-board")


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> list[str]:
    """Lines for the end of the run."""
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def cache() -> Cache:
    return Cache()


@pytest.fixture(scope="session")
def trixie(cache: Cache) -> user.ArmUser:
    require_tools("unshare", "timeout")
    return user.ArmUser(tree.board_tree(cache, tree.TRIXIE), user.emulator(cache))


@pytest.fixture(scope="session")
def bookworm(cache: Cache) -> user.ArmUser:
    require_tools("unshare", "timeout")
    return user.ArmUser(tree.board_tree(cache, tree.BOOKWORM), user.emulator(cache))


@pytest.fixture(scope="session")
def installation(share: Share) -> Path:
    """What a board has of this project: the package ``device`` with its aarch64 library, and nothing else."""
    require_tools("aarch64-linux-gnu-g++")
    return share("installation", install)


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The Pi 4's bundle: it is the Pi 5's too, in all but the profile."""
    path = Path(os.environ.get("GHOSTWATT_BOARD_BUNDLE", REPOSITORY / "build" / "rpi4")).absolute()
    if not (path / "manifest.json").is_file():
        pytest.skip(f"no bundle in {path}: make convert PROFILE=rpi4")
    return path


@pytest.fixture(scope="session")
def photographs(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's golden images as files."""
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ghostwatt[video]'")
    from device.bundle import open_bundle
    from device.image.opencv import encode_image

    folder = tmp_path_factory.mktemp("photographs")
    for number, pixels in enumerate(open_bundle(bundle).golden().pixels):
        encode_image(folder / f"{number:03d}.png", pixels)
    return folder
