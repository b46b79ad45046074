"""The list of plug-ins, and the installer's copy of what they need."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from device.doctor.__main__ import main
from device.doctor.plugins import TABLES, Listing, describe_schema, encode_installed, installed_plugins, list_options
from device.meters.ina_smbus import Ina3221Meter
from device.service.plugins import NAME, read_plugins
from tests.unit.test_registry import install, site

__all__ = ["site"]

PROJECT = Path(__file__).parents[2]
PLUGINS = PROJECT / "device/service" / NAME


def test_what_the_installer_reads_is_what_the_classes_declare() -> None:
    assert PLUGINS.read_bytes() == encode_installed(), (
        "run: python -m device.doctor.plugins > plugins.json && mv plugins.json device/service/"
    )
    assert read_plugins() == installed_plugins()


def test_every_extra_is_one_of_ours() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {plugin.extra for plugin in read_plugins()} - {""} <= set(extras)


def test_every_plug_in_of_every_table_is_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plug-ins", "--json"]) == 0
    listing = msgspec.json.decode(capsys.readouterr().out, type=Listing)
    names = [(plugin.kind, plugin.name) for plugin in listing.plug_ins]
    assert names == [(table.kind, name) for table in TABLES for name in table.names()]


def test_a_person_reads_what_a_meter_is_needs_and_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plug-ins"]) == 0
    blocks = {block.partition(":")[0]: block for block in capsys.readouterr().out.split("\n\n")}
    lines = blocks["meter ina3221"].splitlines()
    assert lines[0] == "meter ina3221: One channel of an INA3221, read over I2C."
    assert lines[1].split() == ["needs", "extra", "i2c,", "char-i2c,", "groups", "i2c"]
    assert "    channel: 1 or 2 or 3, required: which of the chip's three inputs" in lines
    assert "    bus: integer from 0 to 255, default 1: number of the I2C bus; 1 is on the Raspberry Pi's 40-pin header" in lines


def test_an_outsider_is_listed_and_one_that_is_broken_says_why(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "meter", mine="mine:MyMeter", broken="mine:Nobody")
    with (site / "mine.py").open("a") as module:
        module.write("from device.meters.meter import Meter\nclass MyMeter(Mine, Meter):\n    'A meter of my own.'\n")
    main(["--plug-ins"])
    out = capsys.readouterr().out
    assert "meter mine: A meter of my own.\n    needs    /dev/mine" in out
    assert "meter broken: meter broken: mine:Nobody can't be imported" in out
    assert encode_installed() == PLUGINS.read_bytes(), "the installer's copy is of our own plug-ins alone"


def test_an_option_without_a_default_is_required() -> None:
    options = {option.name: option for option in list_options(Ina3221Meter.Options)}
    assert options["shunt_ohm"].is_required
    assert json.loads(msgspec.json.encode(options["shunt_ohm"])) == {
        "name": "shunt_ohm",
        "type": "number above 0",
        "is_required": True,
        "meaning": options["shunt_ohm"].meaning,
    }
    assert options["scope"].default == "board"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 8, "maximum": 119}, "integer from 8 to 119"),
        ({"anyOf": [{"enum": ["ma", "ua"]}, {"type": "null"}]}, "ma or ua"),
        ({"type": "number", "exclusiveMinimum": 0.0}, "number above 0"),
        ({"type": "number", "minimum": 1}, "number of at least 1"),
        ({"type": "number", "maximum": 1}, "number of at most 1"),
        ({"$ref": "#/$defs/X"}, "mapping"),
        ({}, "any value"),
    ],
)
def test_a_type_is_told_in_words(schema: dict[str, object], words: str) -> None:
    assert describe_schema(schema) == words
