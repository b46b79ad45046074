"""Cache of the results of long stages.

A key is the hash of everything that shapes the result: weights, images, recipe, versions of the libraries, and the source code.
So no entry has to be invalidated by hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from modulefinder import ModuleFinder
from pathlib import Path

import msgspec

from device.core.durable import filling_folder

_OWN_PACKAGES = ("converter", "device")


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of distributions, in the order given; those that aren't installed are left out."""
    found: dict[str, str] = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def hash_imported(*modules: str) -> str:
    """Hashes modules and everything of the project that they import, directly or not, including imports in functions.

    Args:
        modules: full names. A module of another package adds nothing; the version of its package belongs in the key.
    """
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in _imported_files(modules, root):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _imported_files(modules: Iterable[str], root: Path) -> list[Path]:
    with tempfile.TemporaryDirectory() as name:
        # A folder with only our packages: in site-packages, the search would go on into torch.
        for package in _OWN_PACKAGES:
            (Path(name) / package).symlink_to(root / package)
        finder = ModuleFinder(path=[name])
        for module in modules:
            if module.partition(".")[0] in _OWN_PACKAGES:
                finder.import_hook(module)
        files = [getattr(found, "__file__", None) for found in finder.modules.values()]
    return sorted(root / Path(file).relative_to(name) for file in files if file)


def make_key(**parts: object) -> str:
    """Hashes named parts; their order doesn't matter."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


class Cache:
    """Folders by key, each written completely or not at all.

    Args:
        root: folder of the cache; created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """Finds the folder of an earlier result; None if there is none."""
        path = self.root / key
        return path if path.is_dir() else None

    @contextlib.contextmanager
    def store(self, key: str) -> Iterator[Path]:
        """Gives an empty folder to fill, and keeps it under ``key`` unless the block fails or is interrupted."""
        self.root.mkdir(parents=True, exist_ok=True)
        with filling_folder(self.root / key) as folder:
            yield folder
