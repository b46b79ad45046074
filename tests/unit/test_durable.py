"""Files and folders that are replaced in one step."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from device.core.durable import filling_folder, point_link, replacing_file, replacing_folder, sync_tree, write_durably


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("data", "written"), [(b"\x00\xff", b"\x00\xff"), ("µW", b"\xc2\xb5W")])
def test_bytes_and_text_are_written(tmp_path: Path, data: bytes | str, written: bytes) -> None:
    write_durably(tmp_path / "file", "a longer one that was there before")
    write_durably(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == written
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_the_mode_is_set_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        write_durably(tmp_path / "file", b"", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("old")
    with replacing_file(path) as scratch:
        assert scratch.suffix == ".png"  # by which some libraries choose what they write
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["plot.png"]


def test_the_scratch_file_may_be_replaced_by_whoever_writes_it(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "file") as scratch:
        other = tmp_path / "other"
        other.write_text("new")
        other.chmod(0o600)
        other.replace(scratch)
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing_file(path) as scratch:
            scratch.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {character * 100_000 for character in "abcd"}
    threads = [threading.Thread(target=write_durably, args=(path, content)) for content in contents for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in contents
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with filling_folder(tmp_path / "made") as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub/file").write_text("content")
        (scratch / "link").symlink_to("nowhere")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made/sub/file").read_text() == "content"
    assert names(tmp_path) == ["made"]


def test_a_folder_that_another_made_meanwhile_stays(tmp_path: Path) -> None:
    with filling_folder(tmp_path / "made") as scratch:
        (scratch / "file").write_text("mine")
        (tmp_path / "made").mkdir()
        (tmp_path / "made/file").write_text("theirs")
    assert (tmp_path / "made/file").read_text() == "theirs"
    assert names(tmp_path) == ["made"]


def test_a_folder_whose_place_is_taken_by_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("a file")
    with pytest.raises(NotADirectoryError), filling_folder(tmp_path / "made"):
        pass
    assert names(tmp_path) == ["made"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with filling_folder(tmp_path / "made") as scratch:
            (scratch / "file").write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert names(tmp_path) == []


def fill_in_place(place: Path, text: str, failure: type[BaseException] | None = None) -> None:
    with replacing_folder(place) as folder:
        (folder / "file").write_text(text)
        if failure is not None:
            raise failure


def test_a_folder_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    place = tmp_path / "place"
    fill_in_place(place, "one")
    (place / "left over").touch()
    fill_in_place(place, "two")
    assert names(place) == ["file"]
    assert (place / "file").read_text() == "two"
    assert place.stat().st_mode & 0o777 == 0o755
    assert names(tmp_path) == ["place"]


def test_a_replacement_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "place"
    fill_in_place(place, "one")
    with pytest.raises(KeyboardInterrupt):
        fill_in_place(place, "half", KeyboardInterrupt)
    assert (place / "file").read_text() == "one"
    assert names(tmp_path) == ["place"]


def test_an_exchange_of_folders_that_fails_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename = tmp_path / "place", Path.rename
    fill_in_place(place, "one")

    def fail(self: Path, target: Path) -> Path:
        if target == place and "old" not in self.name:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        fill_in_place(place, "two")
    assert (place / "file").read_text() == "one"
    assert names(tmp_path) == ["place"]


@pytest.mark.parametrize("count", [3, 200])
def test_all_that_is_in_a_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    (tmp_path / "sub").mkdir()
    for number in range(count):
        (tmp_path / f"sub/{number}").touch()
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "sync", lambda: synced.append("everything"))
    sync_tree(tmp_path)
    files = {str(path) for path in tmp_path.rglob("*")}
    assert set(synced) == {str(tmp_path), *(files if count == 3 else {"everything"})}


def test_a_link_is_replaced(tmp_path: Path) -> None:
    for target in ("first", "second"):
        point_link(tmp_path / "link", target)
        assert os.readlink(tmp_path / "link") == target
    assert names(tmp_path) == ["link"]
