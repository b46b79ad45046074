"""Where code lives: in a room. What may import what is held by the contracts in ``pyproject.toml``."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

BESIDE_THE_ROOMS = {
    "device": {"__init__.py", "run.py", "py.typed"},
    "converter": {"__init__.py", "__main__.py", "stages.py", "profiles.py", "py.typed"},
}


@pytest.mark.parametrize("package", BESIDE_THE_ROOMS)
def test_no_module_lies_loose_beside_the_rooms(package: str) -> None:
    loose = {path.name for path in (PROJECT / package).iterdir() if path.is_file()}
    assert loose == BESIDE_THE_ROOMS[package]


@pytest.mark.parametrize("package", BESIDE_THE_ROOMS)
def test_every_room_says_what_it_is(package: str) -> None:
    rooms = {path.parent for path in (PROJECT / package).rglob("*.py")}
    assert len(rooms) > 10
    silent = [room for room in rooms if not (room / "__init__.py").read_text().startswith('"""')]
    assert silent == []
