"""The build of the native library: what it needs, when it compiles, and what it says."""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path

import pytest

from device.core.errors import MissingDependencyError, UsageError
from device.runtimes.native import build

ARCH = platform.machine()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Something in the shape of the executorch package."""
    root = tmp_path / "executorch"
    (root / "include").mkdir(parents=True)
    (root / "include" / "header.h").write_text("// header")
    (root / "lib").mkdir()
    for name in build.NEEDED:
        (root / "lib" / name).write_text(name)
    return root


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, package: Path) -> list[Path]:
    """A compiler that writes a file; gives what it was called for."""
    calls: list[Path] = []

    def compile_library(package: Path, compiler: str, scratch: Path) -> Path:
        calls.append(package)
        (scratch / build.LIBRARY).write_text("library")
        return scratch / build.LIBRARY

    monkeypatch.setattr(build, "compile_library", compile_library)
    monkeypatch.setattr(build, "find_compiler", lambda arch: "true")
    monkeypatch.setattr(build, "installed_package", lambda: package)
    return calls


def test_a_board_gets_the_library_and_what_it_needs(compiled: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build.build(ARCH, out=out)
    assert {path.name for path in out.iterdir()} == {build.LIBRARY, build.STAMP, *build.NEEDED}


def test_nothing_is_compiled_when_nothing_has_changed(compiled: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build.build(ARCH, out=out)
    assert not build.build(ARCH, out=out)
    assert len(compiled) == 1


@pytest.mark.parametrize("changed", ["include/header.h", f"lib/{build.NEEDED[0]}"])
def test_another_header_or_library_compiles_again(compiled: list[Path], package: Path, tmp_path: Path, changed: str) -> None:
    out = tmp_path / "out"
    build.build(ARCH, out=out)
    (package / changed).write_text("changed")
    assert build.build(ARCH, out=out)


def test_an_incomplete_result_is_built_again(compiled: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    build.build(ARCH, out=out)
    (out / build.NEEDED[1]).unlink()
    assert build.build(ARCH, out=out)


def test_other_files_in_the_directory_are_left_alone(compiled: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    build.build(ARCH, out=tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_wheel_is_taken_instead_of_the_installed_package(compiled: list[Path], package: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "executorch.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in package.rglob("*.*"):
            archive.write(path, f"executorch/{path.relative_to(package)}")
        archive.writestr("executorch/exir/python.py", "import torch")
    build.build(ARCH, out=tmp_path / "out", wheel=wheel)
    assert compiled[0] != package


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_a_file_that_is_no_wheel_is_refused(compiled: list[Path], tmp_path: Path, content: bytes | None) -> None:
    wheel = tmp_path / "broken.whl"
    if content is not None:
        wheel.write_bytes(content)
    with pytest.raises(MissingDependencyError) as caught:
        build.build(ARCH, out=tmp_path / "out", wheel=wheel)
    assert caught.value.reason == "executorch"


def test_another_wheel_is_refused(compiled: list[Path], tmp_path: Path) -> None:
    wheel = tmp_path / "numpy.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("numpy/__init__.py", "")
    with pytest.raises(MissingDependencyError) as caught:
        build.build(ARCH, out=tmp_path / "out", wheel=wheel)
    assert caught.value.reason == "executorch"


@pytest.mark.parametrize(
    ("damage", "does"),
    [("", True), ("other sources", False), ("no stamp", False), ("a stamp of before", False), ("not whole", False)],
)
def test_without_a_compiler_what_was_copied_here_does(
    compiled: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str, does: bool
) -> None:
    out = tmp_path / "out"
    build.build(ARCH, out=out)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    stamp = out / build.STAMP
    if damage == "other sources":
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O3"))
    elif damage == "no stamp":
        stamp.unlink()
    elif damage == "a stamp of before":
        stamp.write_text(stamp.read_text().splitlines()[0])
    elif damage == "not whole":
        (out / build.NEEDED[0]).unlink()
    if does:
        assert not build.build(ARCH, out=out)
    else:
        with pytest.raises(MissingDependencyError) as caught:
            build.build(ARCH, out=out)
        assert caught.value.reason == "compiler"


@pytest.mark.parametrize(("arch", "debian_package"), [("aarch64", "g++-aarch64-linux-gnu"), ("x86_64", "g++-x86-64-linux-gnu")])
def test_a_missing_compiler_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arch: str, debian_package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "other")
    with pytest.raises(MissingDependencyError) as caught:
        build.build(arch, out=tmp_path / "out")
    assert caught.value.reason == "compiler"
    assert debian_package in str(caught.value)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'aarch64'"):
        build.main(["--arch", "aarch32"])
