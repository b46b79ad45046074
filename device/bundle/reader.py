"""Opens a bundle, and checks every byte of it before anything is loaded."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from device.contract import MANIFEST_SCHEMA, OLDEST_MANIFEST_SCHEMA, Artefact, FileEntry, Manifest
from device.core.errors import BundleError, nearest
from device.service.layout import MANIFEST_NAME, SIGNATURE_NAME

LABELS_NAME = "labels.txt"
GOLDEN_NAME = "golden.npz"

MAX_GOLDEN_BYTES = 64 * 1024 * 1024
"""As arrays: a hundred images of 448 pixels. A few kilobytes of zip may unpack to more than a board's memory."""


class Golden(msgspec.Struct, frozen=True):
    """What the host computed, for the board to compute again.

    Attributes:
        pixels: ``(N, S, S, 3)`` uint8, RGB.
        logits: runtime name -> ``(N, C)`` float32, as that runtime gave them on the host.
    """

    pixels: NDArray[np.uint8]
    logits: dict[str, NDArray[np.float32]]


class Bundle(msgspec.Struct, frozen=True):
    """An open bundle, whose files are what its manifest says.

    Attributes:
        root: the folder.
        manifest: see `Manifest`.
        manifest_sha256: of the manifest's bytes; names this very bundle.
        labels: as many as the network has classes.
    """

    root: Path
    manifest: Manifest
    manifest_sha256: str
    labels: tuple[str, ...]

    def artefact(self, runtime: str) -> Artefact:
        """The artefact for a runtime.

        Raises:
            BundleError: ``missing``: the bundle has none; the message lists the runtimes that it has one for.
        """
        for artefact in self.manifest.artefacts:
            if artefact.runtime == runtime:
                return artefact
        names = [artefact.runtime for artefact in self.manifest.artefacts]
        raise BundleError(
            str(self.root), f"has no artefact for runtime {runtime!r}", expected=nearest(runtime, names), reason="missing"
        )

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies."""
        return self.root / name

    def golden(self) -> Golden:
        """Reads the golden inputs and outputs.

        Raises:
            BundleError: ``malformed``: the file isn't what `write_golden` writes.
        """
        path = self.path(GOLDEN_NAME)
        try:
            _require_modest(path)
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                logits = {name.removeprefix("logits_"): arrays[name] for name in arrays.files if name.startswith("logits_")}
                return Golden(arrays["pixels"], logits)
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(
                str(path), f"can't be read ({error})", remedy="convert the bundle again", reason="malformed"
            ) from error


def _require_modest(path: Path) -> None:
    with zipfile.ZipFile(path) as arrays:
        size_bytes = sum(member.file_size for member in arrays.infolist())
    if size_bytes > MAX_GOLDEN_BYTES:
        raise ValueError(f"it unpacks to {size_bytes} bytes, and not to {MAX_GOLDEN_BYTES} at most")


def open_bundle(root: Path) -> Bundle:
    """Opens a bundle and checks its schema, the hash of every file, and its labels.

    Raises:
        BundleError: ``missing``, ``malformed``, ``schema``, ``truncated``, ``tampered`` or ``labels``.
    """
    data = _read_manifest(root)
    manifest = _parse_manifest(root / MANIFEST_NAME, data)
    for entry in manifest.files:
        _check_file(root / entry.name, entry)
    for name in (LABELS_NAME, GOLDEN_NAME, *(artefact.file for artefact in manifest.artefacts)):
        if name not in {entry.name for entry in manifest.files}:
            raise BundleError(
                str(root / MANIFEST_NAME), f"has no hash of {name}", remedy="convert the bundle again", reason="malformed"
            )
    labels = _read_labels(root / LABELS_NAME, manifest.model.num_classes)
    return Bundle(root, manifest, hashlib.sha256(data).hexdigest(), labels)


def list_names(manifest: Manifest) -> set[str]:
    """Names of all the files that a bundle may hold: what the manifest hashes, itself, and its signature."""
    return {MANIFEST_NAME, SIGNATURE_NAME, *(entry.name for entry in manifest.files)}


def find_bundle(build: Path, compatible: tuple[str, ...], machine: str) -> Path:
    """Finds the bundle that was converted for this board.

    Args:
        build: the folder that holds bundles, one a profile.
        compatible: of the device tree; empty on machines without one.
        machine: as ``uname -m`` prints it.

    Returns:
        The folder of the board's own profile; that of an operating point (a profile that inherits) must be named.

    Raises:
        BundleError: ``missing``: no bundle there fits this board; the message lists those that are there.
    """
    there: list[str] = []
    for path in sorted(build.glob(f"*/{MANIFEST_NAME}")):
        try:
            profile = _parse_manifest(path, path.read_bytes()).profile
        except BundleError:
            continue  # perhaps another board's; if it is this one's, the message below says what to convert
        there.append(profile.name)
        board = profile.board
        is_here = bool(set(board.compatible) & set(compatible)) or (not board.compatible and not compatible)
        if is_here and board.arch == machine and profile.inherits is None:
            return path.parent
    what = compatible[0] if compatible else f"this {machine} machine"
    raise BundleError(
        str(build),
        f"holds no bundle for {what} (there are: {', '.join(there) or 'none'})",
        remedy="make convert PROFILE=..., or name one with --bundle",
        reason="missing",
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def describe_file(path: Path) -> FileEntry:
    """Measures a file for the manifest."""
    data = path.read_bytes()
    return FileEntry(name=path.name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_golden(path: Path, golden: Golden) -> None:
    """Writes ``golden.npz``; equal arrays give equal bytes."""
    logits = {f"logits_{name}": golden.logits[name] for name in sorted(golden.logits)}
    np.savez_compressed(path, allow_pickle=False, pixels=golden.pixels, **logits)


def _read_manifest(root: Path) -> bytes:
    try:
        return (root / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise BundleError(
            str(root),
            f"is no bundle: {MANIFEST_NAME} can't be read ({error.strerror})",
            remedy="make convert PROFILE=... writes one",
            reason="missing",
        ) from error


class _Numbered(msgspec.Struct):
    schema: int


def _parse_manifest(path: Path, data: bytes) -> Manifest:
    try:
        schema = msgspec.json.decode(data, type=_Numbered).schema
        if not OLDEST_MANIFEST_SCHEMA <= schema <= MANIFEST_SCHEMA:
            raise BundleError(
                str(path),
                f"has schema {schema}",
                expected=f"{OLDEST_MANIFEST_SCHEMA} to {MANIFEST_SCHEMA}",
                remedy="upgrade ghostwatt on this board" if schema > MANIFEST_SCHEMA else "convert the bundle again",
                reason="schema",
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the second: bytes in a text that are no UTF-8
        raise BundleError(
            str(path), f"is no manifest: {error}", remedy="convert the bundle again", reason="malformed"
        ) from error


def _check_file(path: Path, entry: FileEntry) -> None:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            # In pieces: a file that is not ours may be larger than the board's memory.
            found = hashlib.file_digest(file, "sha256").hexdigest() if size_bytes == entry.size_bytes else ""
    except OSError as error:
        raise BundleError(
            str(path), f"can't be read ({error.strerror})", remedy="copy the bundle again", reason="missing"
        ) from error
    if size_bytes != entry.size_bytes:
        raise BundleError(
            str(path),
            f"has {size_bytes} bytes",
            expected=str(entry.size_bytes),
            remedy="copy the bundle again",
            reason="truncated",
        )
    if found != entry.sha256:
        raise BundleError(
            str(path),
            f"has sha256 {found[:12]}...",
            expected=f"{entry.sha256[:12]}...",
            remedy="it was changed after it was converted: copy the bundle again",
            reason="tampered",
        )


def _read_labels(path: Path, num_classes: int) -> tuple[str, ...]:
    try:
        labels = tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise BundleError(str(path), "is not UTF-8", reason="labels") from error
    if len(labels) != num_classes:
        raise BundleError(
            str(path),
            f"has {len(labels)} labels",
            expected=f"{num_classes}, as many as the network has classes",
            remedy="convert the bundle again",
            reason="labels",
        )
    return labels
