"""Flags of the tests, and golden files."""

from __future__ import annotations

import pytest

from tests.surface.golden import Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/surface/golden/ anew, and compare nothing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """What users touch, as it is kept."""
    return Golden(is_update=request.config.getoption("--update-golden"))
