"""Where this machine's own things are kept, and that a file is whole whatever happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device.core.errors import SinkError
from device.core.state import find_state_folder, make_state_folder, replace_file


@pytest.mark.parametrize(
    ("environment", "has_service", "expected"),
    [
        ({"GHOSTWATT_STATE": "/data/ghostwatt", "HOME": "/home/pi"}, True, "data/ghostwatt"),
        ({"HOME": "/home/pi"}, True, "var/lib/ghostwatt"),
        ({"HOME": "/home/pi"}, False, "home/pi/.local/state/ghostwatt"),
        ({"HOME": "/home/pi", "XDG_STATE_HOME": "/mnt/state"}, False, "mnt/state/ghostwatt"),
        ({"GHOSTWATT_STATE": ""}, False, "root/.local/state/ghostwatt"),
    ],
)
def test_the_folder_is_the_first_of_three(
    tmp_path: Path, environment: dict[str, str], has_service: bool, expected: str
) -> None:
    if has_service:
        (tmp_path / "var/lib/ghostwatt").mkdir(parents=True)
    assert find_state_folder(tmp_path, environment) == tmp_path / expected


def test_a_relative_folder_is_one_of_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_state_folder(environment={"GHOSTWATT_STATE": "state"}) == tmp_path / "state"


def test_a_folder_is_made_and_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        make_state_folder(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []


def test_a_folder_that_can_not_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="can't be written"):
        make_state_folder(tmp_path / "file/folder")


def test_everybody_may_read_what_was_written(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        replace_file(tmp_path / "model.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "model.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "model.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("error", "reason"), [(PermissionError(13, "Permission denied"), "permission"), (OSError(28, "No space left"), "full")]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    replace_file(tmp_path / "model.json", b"old")

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SinkError) as caught:
        replace_file(tmp_path / "model.json", b"new")
    assert caught.value.reason == reason
    assert ("GHOSTWATT_STATE" in str(caught.value)) is (reason == "permission")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert (tmp_path / "model.json").read_bytes() == b"old"
