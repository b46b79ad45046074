"""Instructions of the compared networks: what is counted, and that a folder with an artefact is run as a bundle is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch", reason="needs the host's packages: make setup")

from converter.compare.exports import find_by_sha256
from converter.compare.records import SCHEMA, ArtefactFigures, Comparison, NetworkFigures
from converter.exporters.job import EXPORTED_NAME, Lowered
from converter.work.cache import Cache as Artefacts
from converter.work.machine import describe_machine
from device.core.errors import ConversionError
from tests.unit.bundles import MODELS
from tests.unit.fakes import INPUT, OUTPUT

from .arm_compare import count_all, missing_counts
from .arm_cost import measure
from .conftest import require_tools
from .harness import cost
from .harness.cache import Cache
from .harness.user import ArmUser


def make_comparison() -> Comparison:
    artefacts = (ArtefactFigures("litert", sha256="a" * 64), ArtefactFigures("executorch", failure="lost"))
    row = NetworkFigures("ghostnet_100", "a network", 1, 1, None, artefacts)
    machine = describe_machine({})
    return Comparison(SCHEMA, "", machine, ("litert", "executorch"), "ghostnet_100", 224, 1000, 3, 1, (), (row,), ())


def test_what_was_counted_or_never_exported_is_not_counted() -> None:
    wanted = missing_counts(make_comparison(), {}, ("cortex-a72", "cortex-a76"))
    assert [(one.runtime, one.cpu) for one in wanted] == [("litert", "cortex-a72"), ("litert", "cortex-a76")]
    (left,) = missing_counts(make_comparison(), {"a" * 64: {"cortex-a72": 1}}, ("cortex-a72", "cortex-a76"))
    assert left.cpu == "cortex-a76"


def test_an_artefact_that_is_gone_says_what_to_do() -> None:
    with pytest.raises(ConversionError, match="make compare"):
        list(count_all(missing_counts(make_comparison(), {}), {}, lambda *_: 1))


def write_entry(root: Path, name: str) -> Lowered:
    """An entry of the comparison's cache, of a fixture."""
    folder = root / name
    folder.mkdir(parents=True)
    shutil.copy(MODELS / name, folder / name)
    record: dict[str, Any] = {
        "file": name,
        "input": INPUT,
        "output": OUTPUT,
        "delegates": 1,
        "undelegated_ops": [],
        "operators": {},
    }
    (folder / EXPORTED_NAME).write_bytes(msgspec.json.encode(record))
    (lowered,) = find_by_sha256(Artefacts(root)).values()
    return lowered


@pytest.mark.arm
def test_an_entry_of_the_cache_is_counted(cache: Cache, trixie: ArmUser, installation: Path, tmp_path: Path) -> None:
    require_tools("cc")
    lowered = write_entry(tmp_path, "tiny_fp32.tflite")
    counter = cost.ArmCounter(trixie, cost.counter(cache))
    counts = measure(counter, installation, lowered.path.parent, "litert", "cortex-a72")
    assert counts["total"] > 10_000
    assert counts["total"] == sum(count for name, count in counts.items() if name != "total")
