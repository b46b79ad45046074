"""README's table of plug-ins is made from what their classes declare."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.doctor.plugins import TABLES, Listed, list_plugins

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- plug-ins: pytest tests/unit/test_readme.py --update-golden -->\n", "<!-- end of plug-ins -->\n"


def row(plugin: Listed) -> str:
    options = ", ".join(f"**{one.name}**" if one.is_required else one.name for one in plugin.options)
    packages = [f"`ghostwatt[{plugin.extra}]`"] if plugin.extra else []
    packages += [f"`{name}`" for name in plugin.system_packages]
    return f"| {plugin.kind} | `{plugin.name}` | {options} | {', '.join(packages)} | {', '.join(plugin.groups)} |\n"


def table() -> str:
    own = {(table.kind, name) for table in TABLES for name in table.own_names()}
    rows = [row(plugin) for plugin in list_plugins().plug_ins if (plugin.kind, plugin.name) in own]
    return "| kind | name | options (required ones in bold) | packages | groups |\n|---|---|---|---|---|\n" + "".join(rows)


def test_the_table_of_plug_ins_is_what_they_declare(pytestconfig: pytest.Config) -> None:
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, "README has lost the markers of its table of plug-ins"
    expected = before + BEGIN + table() + END + after
    if pytestconfig.getoption("--update-golden"):
        README.write_text(expected)
    assert README.read_text() == expected, "run this test with --update-golden"
