"""Lists the plug-ins that there are, from what their classes declare.

``python -m device.doctor.plugins`` prints the content of ``device/service/plugins.json``: what our own plug-ins need of a
machine, for the installer, which can't import their classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from device import __version__
from device.core.errors import GhostwattError
from device.core.plugin import Plugin, describe_option
from device.core.registry import Registry
from device.meters.registry import METERS
from device.runtimes.registry import RUNTIMES
from device.service.plugins import InstalledPlugin
from device.sinks.registry import SINKS
from device.sources.registry import SOURCES

TABLES = (SOURCES, METERS, RUNTIMES, SINKS)


class Option(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key that a profile may give to a plug-in.

    Attributes:
        name: of the key.
        type: in words.
        is_required: there is no default.
        meaning: in one line.
        default: as JSON; absent where the key is required.
    """

    name: str
    type: str
    is_required: bool
    meaning: str
    default: Any = msgspec.UNSET


class Listed(msgspec.Struct, frozen=True):
    """A plug-in, ours or an outsider's.

    Attributes:
        kind: its table: ``source``, ``meter``, ``runtime`` or ``sink``.
        name: in this table.
        summary: what it is, in one line; of one that can't be imported, why.
        extra: see `Needs`, as the next four.
        is_live: see `Plugin`.
        options: see `Option`.
    """

    kind: str
    name: str
    summary: str
    extra: str = ""
    system_packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    is_networked: bool = False
    is_live: bool | None = None
    options: tuple[Option, ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """What ``--plug-ins --json`` prints.

    Attributes:
        plug_ins: by table, then by name.
        version: of ghostwatt.
        kind: distinguishes this output from others.
        schema: of it.
    """

    plug_ins: tuple[Listed, ...]
    version: str = __version__
    kind: Literal["ghostwatt plug-ins"] = "ghostwatt plug-ins"
    schema: Literal[1] = 1


def list_plugins() -> Listing:
    """Every plug-in that a profile may name here; outsiders' that can't be imported say why."""
    return Listing(tuple(_list(table, name) for table in TABLES for name in table.names()))


def installed_plugins() -> tuple[InstalledPlugin, ...]:
    """What the installer must know about our own plug-ins."""
    return tuple(
        InstalledPlugin(table.kind, name, needs.extra, needs.system_packages, needs.devices, needs.groups, needs.is_networked)
        for table in TABLES
        for name, needs in ((name, table.load(name).needs) for name in table.own_names())
    )


def encode_installed() -> bytes:
    """The bytes of ``device/service/plugins.json``: a line a plug-in."""
    rows = [msgspec.json.encode(plugin._asdict()).decode() for plugin in installed_plugins()]
    return ("[\n" + ",\n".join(rows) + "\n]\n").encode()


def list_options(options: type[msgspec.Struct]) -> Iterator[Option]:
    """The keys that a struct of options takes."""
    (_,), definitions = msgspec.json.schema_components([options])
    properties = definitions[options.__name__]["properties"]
    for field in msgspec.structs.fields(options):
        default = msgspec.UNSET if field.required else msgspec.to_builtins(properties[field.encode_name].get("default"))
        described = describe_schema(properties[field.encode_name])
        yield Option(field.encode_name, described, field.required, describe_option(field.type), default)


def describe_schema(schema: dict[str, Any]) -> str:
    """A JSON schema of one value, in words: ``integer from 8 to 119``, ``board or soc``."""
    if "anyOf" in schema:
        return " or ".join(text for text in map(describe_schema, schema["anyOf"]) if text != "null")
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return "mapping"
    low, high = schema.get("minimum"), schema.get("maximum")
    words = [str(schema.get("type", "any value"))]
    if low is not None and high is not None:
        words.append(f"from {low:g} to {high:g}")
    elif low is not None or high is not None:
        words.append(f"of at least {low:g}" if low is not None else f"of at most {high:g}")
    if "exclusiveMinimum" in schema:
        words.append(f"above {schema['exclusiveMinimum']:g}")
    return " ".join(words)


def format_listing(listing: Listing) -> str:
    """A block a plug-in: what it is, what it needs, and a line an option."""
    return "\n\n".join("\n".join(_format(plugin)) for plugin in listing.plug_ins)


def _format(plugin: Listed) -> Iterator[str]:
    yield f"{plugin.kind} {plugin.name}: {plugin.summary}"
    needs = [
        f"extra {plugin.extra}" if plugin.extra else "",
        *plugin.system_packages,
        *plugin.devices,
        f"groups {', '.join(plugin.groups)}" if plugin.groups else "",
        "network" if plugin.is_networked else "",
    ]
    if any(needs):
        yield f"    needs    {', '.join(filter(None, needs))}"
    if plugin.is_live is not None:
        yield f"    live     {'yes' if plugin.is_live else 'no'}"
    for option in plugin.options:
        default = "required" if option.is_required else f"default {msgspec.json.encode(option.default).decode()}"
        yield f"    {option.name}: {option.type}, {default}" + (f": {option.meaning}" if option.meaning else "")


def _list(table: Registry, name: str) -> Listed:
    try:
        plugin: type[Plugin] = table.load(name)
    except GhostwattError as error:
        return Listed(table.kind, name, str(error))
    needs = plugin.needs
    return Listed(
        kind=table.kind,
        name=name,
        summary=plugin.summary(),
        extra=needs.extra,
        system_packages=needs.system_packages,
        devices=needs.devices,
        groups=needs.groups,
        is_networked=needs.is_networked,
        is_live=plugin.is_live,
        options=tuple(list_options(plugin.Options)),
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(encode_installed())
