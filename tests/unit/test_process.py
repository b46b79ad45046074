from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from device.core.errors import BoardError
from device.machine.memory import read_memory, release_file_pages

SIZE_BYTES = 8 << 20


def test_memory_is_what_the_kernel_says() -> None:
    memory = read_memory()
    assert 1e6 < memory.rss_bytes <= memory.peak_rss_bytes < 1e12


def test_a_machine_without_proc_is_told(tmp_path: Path) -> None:
    with pytest.raises(BoardError):
        read_memory(tmp_path)


def test_pages_of_a_file_are_given_back_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "data"
    content = bytes(range(256)) * (SIZE_BYTES // 256)
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert data[:] == content
        before = read_memory().rss_bytes
        assert release_file_pages(tmp_path) == SIZE_BYTES
        assert read_memory().rss_bytes < before - SIZE_BYTES // 2
        assert data[:] == content


def test_what_was_written_is_never_given_back(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE_BYTES))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        data[:4] = b"mine"
        assert release_file_pages(path) == 0
        assert data[:4] == b"mine"


def test_a_file_that_is_not_mapped_is_left_alone(tmp_path: Path) -> None:
    assert release_file_pages(tmp_path / "none") == 0
