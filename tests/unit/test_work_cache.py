"""Keys of the cache: what a hash of sources holds."""

from __future__ import annotations

from pathlib import Path

from converter.work.cache import _imported_files, hash_imported

ROOT = Path(__file__).parents[2]


def names(*modules: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in _imported_files(modules, ROOT)}


def test_the_hash_of_sources_follows_imports_and_no_further() -> None:
    found = names("converter.exporters.job", "converter.exporters.litert")
    wanted = {"converter/weights/fresh.py", "converter/exporters/tflite.py", "converter/models/ghostnet.py"}
    assert wanted <= found
    others = {
        "converter/compare/networks.py",
        "converter/train/__main__.py",
        "converter/stages.py",
        "converter/exporters/pte.py",
    }
    assert not others & found
    assert all(name.startswith(("converter/", "device/")) for name in found)


def test_a_module_of_another_package_adds_nothing_to_the_hash() -> None:
    assert hash_imported("converter.exporters.job", "numpy.linalg") == hash_imported("converter.exporters.job")
    assert hash_imported("converter.exporters.job") != hash_imported("converter.exporters.job", "converter.exporters.litert")
