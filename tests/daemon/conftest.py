"""Runs ``python -m device.run`` as a person does: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from device.core.errors import GhostwattError
from device.runtimes.registry import RUNTIMES
from tests.unit.bundles import write_tiny_bundle

PROJECT = Path(__file__).parents[2]


class Run(NamedTuple):
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def error_lines(self) -> list[str]:
        """Error lines of stderr; fails where there is a traceback."""
        assert "Traceback" not in self.err, self.err
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def command(*arguments: object) -> list[str]:
    """The daemon's command line."""
    return [sys.executable, "-m", "device.run", *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    """The environment, with the project importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def daemon(*arguments: object, cwd: Path | None = None) -> Run:
    """Runs the daemon to its end."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=120, cwd=cwd or PROJECT, env=environment()
    )
    return Run(done.returncode, done.stdout, done.stderr)


ON_THE_BASE_INSTALL = """
import sys
from importlib.abc import MetaPathFinder

class OnlyTheBase(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        root = name.partition(".")[0]
        if root not in {"device", "numpy", "msgspec"} and root not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not in the base install", name=name)

sys.meta_path.insert(0, OnlyTheBase())
"""


def import_on_the_base_install(*modules: str) -> set[str]:
    """Imports modules where nothing but numpy and msgspec is installed; gives all that is imported then."""
    code = f"{ON_THE_BASE_INSTALL}import {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def write_image(path: Path, colour_rgb: Sequence[int], side_px: int = 48) -> None:
    """Writes a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((side_px, side_px, 3), tuple(reversed(colour_rgb)), np.uint8)
    assert cv2.imwrite(str(path), image)


@pytest.fixture(scope="session", params=["litert", "executorch"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime in turn; one that isn't installed skips."""
    name: str = request.param
    try:
        assert RUNTIMES.load(name)().version
    except GhostwattError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny network."""
    root = tmp_path_factory.mktemp("build") / "host"
    write_tiny_bundle(root)
    return root


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of twelve pictures, in sub-folders."""
    for index in range(12):
        write_image(tmp_path / "photographs" / f"set{index % 3}" / f"{index:02d}.png", (20 * index, 255 - 20 * index, 128))
    return tmp_path / "photographs"
