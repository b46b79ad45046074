from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from device.bundle import archive as archives
from device.bundle import open_bundle
from device.bundle.archive import pack, unpack
from device.core.errors import BundleError
from tests.unit.bundles import write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def member(name: str, content: bytes = b"x", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def unpack_and_open(archive: Path, folder: Path) -> None:
    unpack(archive, folder)
    open_bundle(folder)


@pytest.mark.parametrize("name", ["bundle.tar", "bundle.tar.gz", "bundle.tar.xz", "bundle.tar.bz2"])
def test_a_bundle_comes_through_whole(bundle: Path, folder: Path, tmp_path: Path, name: str) -> None:
    pack(bundle, tmp_path / name)
    unpack(tmp_path / name, folder)
    assert open_bundle(folder).manifest_sha256 == open_bundle(bundle).manifest_sha256


def test_what_tar_itself_packs_is_taken(bundle: Path, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        archive.add(bundle, ".")
    unpack(tmp_path / "b.tar.gz", folder)
    assert open_bundle(folder)


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz"])
def test_equal_files_give_equal_bytes(bundle: Path, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(bundle, tmp_path / f"a.tar{ending}")
    monkeypatch.setattr("time.time", lambda: 2e9)
    pack(bundle, tmp_path / f"b.tar{ending}")
    assert (tmp_path / f"a.tar{ending}").read_bytes() == (tmp_path / f"b.tar{ending}").read_bytes()


def test_what_lies_beside_a_bundles_files_is_not_packed(bundle: Path, folder: Path, tmp_path: Path) -> None:
    (bundle / "report.html").write_text("<p>")
    (bundle / "bench.json").write_text("{}")
    pack(bundle, tmp_path / "b.tar")
    unpack(tmp_path / "b.tar", folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in bundle.iterdir()} - {"report.html", "bench.json"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [member("../evil")], "no plain name"),
        (lambda: [member("/etc/passwd")], "no plain name"),
        (lambda: [member("a/b")], "no plain name"),
        (lambda: [member(".hidden")], "no plain name"),
        (lambda: [member("a\nb")], "no plain name"),
        (lambda: [member("x" * 129)], "no plain name"),
        (lambda: [member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "no plain file"),
        (lambda: [member("link", b"", type=tarfile.LNKTYPE, linkname="manifest.json")], "no plain file"),
        (lambda: [member("pipe", b"", type=tarfile.FIFOTYPE)], "no plain file"),
        (lambda: [member("disk", b"", type=tarfile.BLKTYPE)], "no plain file"),
        (lambda: [member("folder", b"", type=tarfile.DIRTYPE)], "no plain file"),
        (lambda: [member("a"), member("a")], "twice"),
        (lambda: [member(f"f{index}") for index in range(archives.MAX_FILES + 1)], "more than"),
    ],
)
def test_what_a_bundle_has_no_use_for_is_refused(
    folder: Path, tmp_path: Path, make: Callable[[], list[tuple[tarfile.TarInfo, bytes]]], words: str
) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        unpack(write(tmp_path / "bad.tar", *make()), folder)
    assert caught.value.reason == "archive"
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_a_bomb_is_refused_before_it_fills_the_card(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 20)
    source = tmp_path / "source"
    source.mkdir()
    for index in range(4):
        (source / f"zeros{index}").write_bytes(bytes(400_000))
    with tarfile.open(tmp_path / f"bomb.tar{ending}", f"w:{ending.removeprefix('.')}") as bomb:  # type: ignore[call-overload]
        for path in source.iterdir():
            bomb.add(path, path.name)
    with pytest.raises(BundleError, match="unpacks to more than 1048576 bytes"):
        unpack(tmp_path / f"bomb.tar{ending}", folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1 << 20


def long_comment() -> bytes:
    """A file whose extended header alone is 32 MiB."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * (32 << 20)}
    return info.tobuf(tarfile.PAX_FORMAT)


def long_name() -> bytes:
    return tarfile.TarInfo("a" * (32 << 20)).tobuf(tarfile.GNU_FORMAT)


def many_folders() -> bytes:
    info = tarfile.TarInfo(".")
    info.type = tarfile.DIRTYPE
    return info.tobuf() * 60_000


@pytest.mark.parametrize("make", [long_comment, long_name, many_folders])
@pytest.mark.parametrize("pack_up", [bytes, gzip.compress, lzma.compress])
def test_a_bomb_of_headers_alone_takes_no_memory(
    folder: Path, tmp_path: Path, make: Callable[[], bytes], pack_up: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "bomb.tar"
    path.write_bytes(pack_up(make() + bytes(1024)))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="headers"):
            unpack(path, folder)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_disk_that_is_too_full_for_an_archive_is_no_damaged_archive(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(bundle, tmp_path / "b.tar")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("device.bundle.archive.os.open", full)
    with pytest.raises(OSError, match="No space left on device"):
        unpack(tmp_path / "b.tar", folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 10**6), ending=st.sampled_from([".gz", ".xz", ".bz2"]))
def test_an_archive_with_a_changed_byte_is_refused_or_whole(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, place: int, ending: str
) -> None:
    work = tmp_path_factory.mktemp("changed")
    path = work / f"b.tar{ending}"
    pack(bundle, path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0xFF
    path.write_bytes(data)
    (work / "out").mkdir()
    with contextlib.suppress(BundleError):
        unpack_and_open(path, work / "out")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 10**6), ending=st.sampled_from(["", ".gz"]))
def test_an_archive_that_breaks_off_is_refused(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, cut: int, ending: str
) -> None:
    work = tmp_path_factory.mktemp("cut")
    path = work / f"b.tar{ending}"
    pack(bundle, path)
    data = path.read_bytes()
    with tarfile.open(path) as whole:
        last = max(info.offset_data + info.size for info in whole)
    kept = data[: cut % len(data)]
    # Behind the last file's bytes lies padding alone, which nobody misses.
    assume(len(zlib.decompressobj(wbits=31).decompress(kept) if ending else kept) < last)
    path.write_bytes(kept)
    (work / "out").mkdir()
    with pytest.raises(BundleError):
        unpack_and_open(path, work / "out")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(junk=st.binary(max_size=3000))
def test_junk_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    work = tmp_path_factory.mktemp("junk")
    (work / "b.tar").write_bytes(junk)
    (work / "out").mkdir()
    with pytest.raises(BundleError):
        unpack_and_open(work / "b.tar", work / "out")
