"""A cache outside the repository, addressed by what its entries are made from.

An entry is a folder. It is built under another name and renamed when it is whole: a build that was cut off leaves nothing that
looks finished. A lock for each entry makes a second run wait for the first instead of building beside it.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_KEY_DIGITS = 16

# An entry that no run asked for in so long goes when another of its name is built.
KEPT_UNUSED_S = 14 * 24 * 3600.0


def default_root() -> Path:
    """``GHOSTWATT_BOARD_CACHE``, or ``ghostwatt/board`` in the user's cache folder."""
    named = os.environ.get("GHOSTWATT_BOARD_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "ghostwatt" / "board"


def fingerprint(*files: Path) -> str:
    """Hashes files: an entry is built again when the code that makes it changes.

    Of Python, comments, docstrings and layout don't count.
    """
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(_strip(content) if file.suffix == ".py" else content)
    return digest.hexdigest()


def _strip(code: bytes) -> bytes:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


class Cache:
    """Entries under one root.

    Args:
        root: made when the first entry is built.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def entry(self, name: str, inputs: object, build: Callable[[Path], None]) -> Path:
        """Gives an entry, building it first where it isn't there.

        Args:
            name: for people: the folder's name begins with it.
            inputs: everything that the result depends on, as JSON would write it.
            build: fills the empty folder that it is given. Whatever it raises, no entry is left.

        Returns:
            The entry's folder. Other runs use it too: don't write into it.
        """
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]
        final = self.root / f"{name}-{key}"
        self.root.mkdir(parents=True, exist_ok=True)
        if not final.is_dir():
            with self._locked(final.name):
                if not final.is_dir():
                    self._build(final, build)
                    self._forget_unused(name)
        os.utime(final)
        return final

    def _build(self, final: Path, build: Callable[[Path], None]) -> None:
        started_s = time.monotonic()
        partial = final.with_name(f"{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _say(f"building {final.name} …")
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(final)
        _say(f"built {final.name} in {time.monotonic() - started_s:.0f} s")

    def _forget_unused(self, name: str) -> None:
        for entry in self.root.glob(f"{name}-{'[0-9a-f]' * _KEY_DIGITS}"):
            if time.time() - entry.stat().st_mtime > KEPT_UNUSED_S:
                shutil.rmtree(entry)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.root / f".{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"waiting for another run that builds {name} …")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _say(line: str) -> None:
    # Past pytest's capture: a build of a minute must not look like a hang.
    print(f"board: {line}", file=sys.__stderr__, flush=True)
