"""Tables of plug-ins, and the plug-ins that packages from outside add to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.core.errors import MissingDependencyError, UsageError
from device.core.plugin import NoOptions, Plugin
from device.core.registry import Registry

KINDS = ("source", "meter", "runtime", "sink")

MODULE = """
from device.core.plugin import Needs, Plugin
class Mine(Plugin):
    '''One of my own.'''
    needs = Needs(devices=("/dev/mine",))
class Stranger:
    pass
"""


def install(folder: Path, kind: str, **targets: str) -> None:
    """Lays down what pip lays down for a package with entry points."""
    (folder / "mine.py").write_text(MODULE)
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in targets.items())
    (info / "entry_points.txt").write_text(f"[ghostwatt.{kind}s]\n{lines}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_from_outside_adds_to_a_table(kind: str, site: Path) -> None:
    install(site, kind, mine="mine:Mine")
    table = Registry(kind, {"ours": "device.core.plugin:Plugin"})
    assert table.names() == ("mine", "ours")
    assert table.own_names() == ("ours",)
    loaded: type[Plugin] = table.load("mine")
    assert (loaded.summary(), loaded.needs.devices) == ("One of my own.", ("/dev/mine",))


def test_what_an_outsider_does_not_declare_is_nothing(site: Path) -> None:
    install(site, "sink", mine="mine:Mine")
    loaded: type[Plugin] = Registry("sink", {}).load("mine")
    assert loaded.Options is NoOptions
    assert (loaded.needs.groups, loaded.is_live) == ((), None)


def test_ours_win_over_an_outsiders_of_the_same_name(site: Path) -> None:
    install(site, "meter", ours="mine:Mine")
    assert Registry("meter", {"ours": "device.core.plugin:Plugin"}).load("ours") is Plugin


def test_an_outsider_that_is_no_plugin_is_told_in_one_line(site: Path) -> None:
    install(site, "meter", stranger="mine:Stranger", wrong="mine:Mine")
    with pytest.raises(UsageError) as caught:
        Registry("meter", {}).load("stranger")
    assert caught.value.reason == "malformed_meter"
    assert str(caught.value) == (
        "meter stranger: mine:Stranger is no meter; expected a subclass of device.core.plugin.Plugin; update mine"
    )
    with pytest.raises(UsageError, match=r"mine:Mine is no meter; expected a subclass of device\.meters\.meter\.Meter"):
        Registry("meter", {}, base="device.meters.meter:Meter").load("wrong")


@pytest.mark.parametrize("target", ["mine:Nobody", "not_there:Mine"])
def test_an_outsider_that_cannot_be_imported_names_its_package(site: Path, target: str) -> None:
    install(site, "runtime", broken=target)
    with pytest.raises(MissingDependencyError) as caught:
        Registry("runtime", {}).load("broken")
    assert caught.value.reason == "not_installed"
    assert "install mine anew" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_there_names_the_nearest(site: Path) -> None:
    install(site, "meter", mine="mine:Mine")
    with pytest.raises(UsageError, match=r"did you mean 'mine'\?") as caught:
        Registry("meter", {"ours": "device.core.plugin:Plugin"}).load("min")
    assert caught.value.reason == "unknown_meter"
