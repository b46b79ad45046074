"""What the host's side shows, got from the code that shows it. All imports from inside of ``converter`` are here."""

from __future__ import annotations

import hashlib
import json
import platform
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec

from converter.compare.recipes import RecipeComparison
from converter.compare.records import Comparison
from converter.deploy.payload import PROJECT, kind_of, read_bundle, requirements
from converter.deploy.probe import BoardProbe
from converter.deploy.wheel import write_wheel
from converter.evaluate.__main__ import Evaluation
from converter.evaluate.confidence import ConfidenceReport
from converter.evaluate.latency import Latency
from converter.evaluate.sensitivity import SensitivityReport
from converter.models import model_names
from converter.profiles import load_profile, profile_names
from converter.quantise.recipes import RECIPES
from converter.report.record import ConversionReport
from converter.weights.checkpoints import Card
from device import __version__
from device.core.errors import DeployError
from tests.surface.shapes import describe_type

# Of Debian 12 and 13, the two that the service runs on.
SYSTEMS = {"Debian 12": ((3, 11), "2.36"), "Debian 13": ((3, 13), "2.41")}


def payload_facts(folder: Path) -> Iterator[str]:
    """What a deployment brings to a board for each shipped profile."""
    for name in profile_names():
        (folder / name).mkdir()
        profile = msgspec.to_builtins(load_profile(name).profile)
        (folder / name / "manifest.json").write_text(json.dumps({"profile": profile, "files": []}))
        bundle = read_bundle(folder / name)
        yield f"{name}: architecture {bundle.arch}"
        yield from (f"{name}: extra {extra}" for extra in sorted(bundle.extras))
        yield from (f"{name}: package of the distribution {package}" for package in sorted(bundle.system_packages))
        for system, (python, glibc) in SYSTEMS.items():
            for modules in ((), ("picamera2", "cv2")):
                title = f"{name}: {system}{' with ' + ' and '.join(modules) if modules else ''}"
                board = BoardProbe("a board", bundle.arch, python, glibc, 252, True, True, 10**10, modules, "")
                try:
                    kind = kind_of(board, bundle, "board", ())
                except DeployError as error:
                    yield f"{title}: refused ({error.reason}); {error.remedy}"
                else:
                    yield from (f"{title}: pip {requirement}" for requirement in requirements(kind))
    table = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    yield from (f"ghostwatt[{extra}]" for extra in sorted(table["optional-dependencies"]))
    yield f"ghostwatt: Python {table['requires-python']}"


def wheel_facts(folder: Path) -> Iterator[str]:
    """Files of a board's wheel that are no modules, and how it describes itself."""
    wheel = write_wheel(folder, "machine")
    yield wheel.name.replace(__version__, "VERSION")
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".py"):
                yield name.replace(__version__, "VERSION")
            if name.endswith(("METADATA", "WHEEL")):
                lines = archive.read(name).decode().splitlines()
                yield from (f"    {line.replace(__version__, 'VERSION')}" for line in lines)


def name_facts() -> Iterator[str]:
    """What ``--profile``, ``--model`` and ``--recipe`` take."""
    yield from (f"profile {name}" for name in profile_names())
    yield from (f"model {name}" for name in model_names())
    yield from (f"recipe {name}" for name in RECIPES)


def output_facts() -> Iterator[str]:
    """What commands print or write for programs."""
    shapes = {
        "converter (report.json)": ConversionReport,
        "converter (latency.json)": Latency,
        "converter.train (card)": Card,
        "converter.evaluate --json": Evaluation,
        "converter.evaluate.confidence --json": ConfidenceReport,
        "converter.compare --json": Comparison,
        "converter.compare.recipes --json": RecipeComparison,
        "converter.evaluate.sensitivity --json": SensitivityReport,
    }
    for title, kind in shapes.items():
        yield from describe_type(title, kind)


def host_facts() -> list[str]:
    """What may change the bytes of an artefact beside our own code: sums of floats are rounded as processor and library do."""
    entry = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in entry.splitlines())}
    names = ("model name", "cpu family", "model", "CPU part")
    sets = {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "sve"}
    flags = sorted(sets & set(known.get("flags", known.get("Features", "")).split()))
    packages = ("torch", "executorch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "numpy")
    return [
        f"machine: {platform.machine()}",
        *(f"{name}: {known[name]}" for name in names if name in known),
        f"instructions: {' '.join(flags)}",
        *(f"{name}: {version(name)}" for name in packages),
    ]


def artefact_sizes(bundle: Path) -> Iterator[str]:
    """What a conversion gave, roughly."""
    for path in sorted(bundle.glob("model.*")):
        yield f"size of {path.name}: {path.stat().st_size / 1e6:.2f} MB"


def artefact_hashes(bundle: Path) -> Iterator[str]:
    """What a conversion gave, to the byte."""
    for path in sorted(bundle.glob("model.*")):
        yield f"sha256 of {path.name}: {hashlib.sha256(path.read_bytes()).hexdigest()}"
