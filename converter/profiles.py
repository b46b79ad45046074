"""Reads profiles: YAML with inheritance. Every key is checked, and every error names the file and the line."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
import yaml

from device.contract import Profile
from device.core.errors import ProfileError, nearest
from device.core.plugin import OptionError, read_options, split_kind
from device.meters.meter import Meter
from device.meters.registry import METERS
from device.runtimes.registry import RUNTIMES
from device.sinks.registry import SINKS
from device.sources.registry import SOURCES
from device.sources.uri import option_structs

FOLDER = Path(__file__).parent.parent / "firmware_profiles"
SCHEMA_NAME = "schema.json"

KeyPath = tuple[str | int, ...]
AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


class Position(NamedTuple):
    """File and line of a value."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class LoadedProfile(NamedTuple):
    """A resolved profile, and the position of each of its values."""

    profile: Profile
    positions: dict[KeyPath, Position]

    @property
    def artefact(self) -> str:
        """The artefact that the profile's runtime runs: the name of the runtime that it is exported for."""
        artefact: str = RUNTIMES.load(self.profile.runtime.name).artefact
        return artefact

    def where(self, *path: str | int) -> str:
        """Gives the position of a value for an error message, such as ``rpi4.yaml:12 camera.rate_fps``."""
        return _where(self.positions, path, self.profile.name)


class _ProfileLoader(yaml.SafeLoader):
    """Resolves numbers, ``null``, ``true`` and ``false`` as YAML 1.2's core schema does, and takes everything else as a string.

    ``off`` is a string, and no version number becomes a date.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {  # type: ignore[misc]  # as PyYAML does
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("int", "float", "null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_ProfileLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _Document(NamedTuple):
    values: dict[str, Any]
    positions: dict[KeyPath, Position]


def profile_names(folder: Path = FOLDER) -> tuple[str, ...]:
    """Names of the profiles in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def load_profile(name: str, folder: Path = FOLDER) -> LoadedProfile:
    """Reads a profile and the profiles that it inherits from, and checks the result.

    Args:
        name: of the profile; its file is ``<name>.yaml``.
        folder: that holds the profiles.

    Raises:
        ProfileError: reason ``missing``, ``yaml``, ``cycle``, ``unknown_key``, ``invalid`` (a wrong value) or
            ``contradiction``.
    """
    document = _load_inherited(name, folder, ())
    _refuse_unknown_keys(document, Profile, (), name)
    _complete_own_options(document, name)
    profile = _convert(document, Profile, (), name)
    loaded = LoadedProfile(profile, document.positions)
    _check_agreement(loaded, name)
    return loaded


def json_schema() -> dict[str, Any]:
    """Gives the JSON schema that editors use to complete profiles.

    It requires no key, since a profile may inherit any of them. The loader checks that none is missing.
    """
    structs = option_structs()
    (schema, *_), definitions = msgspec.json.schema_components((Profile, *structs.values()), ref_template="#/$defs/{name}")
    for kind, struct in structs.items():
        definitions["Camera"]["properties"][kind] = {"$ref": f"#/$defs/{struct.__name__}"}
    runtime_name = definitions["RuntimeSettings"]["properties"]["name"]
    definitions["RuntimeSettings"]["properties"]["name"] = {"anyOf": [{"enum": RUNTIMES.own_names()}, runtime_name]}
    schema["$defs"] = definitions
    definitions["Power"]["properties"]["meters"]["items"] = _meter_schema(definitions)
    _drop_required(schema)
    schema["title"] = "ghostwatt profile"
    return schema


def _meter_schema(definitions: dict[str, Any]) -> dict[str, Any]:
    """Makes the schema of a meter: a branch for each kind of ours, with the options that its class declares.

    A kind of another package may have any key. Definitions that a kind refers to are added to ``definitions``.
    """
    branches: list[dict[str, Any]] = []
    for kind in METERS.own_names():
        plugin: type[Meter] = METERS.load(kind)
        (_,), more = msgspec.json.schema_components([plugin.Options], ref_template="#/$defs/{name}")
        options = more.pop(plugin.Options.__name__)
        definitions |= more
        branch = {"const": kind, "description": plugin.summary()}
        branches.append(
            {
                "type": "object",
                "title": kind,
                "properties": {"kind": branch, **options["properties"]},
                "additionalProperties": False,
            }
        )
    outside = {"type": "string", "not": {"enum": list(METERS.own_names())}}
    branches.append({"type": "object", "title": "a kind from outside", "properties": {"kind": outside}})
    return {"anyOf": branches}


def encode_schema() -> bytes:
    """Gives the bytes of ``firmware_profiles/schema.json``."""
    return msgspec.json.format(msgspec.json.encode(json_schema(), order="sorted"), indent=2) + b"\n"


def _drop_required(node: object) -> None:
    if isinstance(node, dict):
        node.pop("required", None)
        for value in node.values():
            _drop_required(value)
    elif isinstance(node, list):
        for value in node:
            _drop_required(value)


# --- YAML, with positions ---------------------------------------------------------------------------------------------


def _load_inherited(name: str, folder: Path, heirs: tuple[str, ...]) -> _Document:
    if name in heirs:
        chain = " -> ".join((*heirs, name))
        raise ProfileError(f"{heirs[-1]}.yaml inherits", f"inherits from itself: {chain}", reason="cycle")
    document = _read_yaml(name, folder, heirs)
    parent = document.values.get("inherits")
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise ProfileError(
            _where(document.positions, ("inherits",), name), repr(parent), expected="a profile's name", reason="invalid"
        )
    return _merge(_load_inherited(parent, folder, (*heirs, name)), document)


def _read_yaml(name: str, folder: Path, heirs: tuple[str, ...]) -> _Document:
    path = folder / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        where = f"{heirs[-1]}.yaml inherits" if heirs else f"profile {name!r}"
        raise ProfileError(
            where, f"there is no readable {path.name}", expected=nearest(name, profile_names(folder)), reason="missing"
        ) from error
    try:
        root = yaml.compose(text, Loader=_ProfileLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise ProfileError(f"{path.name}:{line}", getattr(error, "problem", None) or "is not YAML", reason="yaml") from error
    positions: dict[KeyPath, Position] = {}
    values = _construct(root, (), path.name, positions)
    if not isinstance(values, dict):
        raise ProfileError(f"{path.name}:1", "holds no keys", expected="a mapping with name, board, model, ...", reason="yaml")
    return _Document(values, positions)


def _construct(node: yaml.Node | None, path: KeyPath, file: str, positions: dict[KeyPath, Position]) -> Any:
    if node is None:
        return None
    # The line of the key is kept where there is one: the value of a block starts on the line below it.
    positions.setdefault(path, Position(file, node.start_mark.line + 1))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in mapping:
                raise ProfileError(f"{file}:{line} {_dotted((*path, key))}", "is given twice", reason="yaml")
            positions[(*path, key)] = Position(file, line)
            mapping[key] = _construct(value_node, (*path, key), file, positions)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, index), file, positions) for index, item in enumerate(node.value)]
    try:
        return _ProfileLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        where = f"{file}:{node.start_mark.line + 1} {_dotted(path)}"
        raise ProfileError(where, f"{node.value!r} can't be read as {node.tag}", reason="yaml") from error


def _merge(parent: _Document, child: _Document) -> _Document:
    """Merges two profiles. The child's values win; mappings are merged key by key, lists are replaced."""
    values = _merge_values(parent.values, child.values)
    return _Document(values, {**parent.positions, **child.positions})


def _merge_values(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        inherited = merged.get(key)
        merged[key] = _merge_values(inherited, value) if isinstance(inherited, dict) and isinstance(value, dict) else value
    return merged


# --- shape, then meaning, then agreement ------------------------------------------------------------------------------


def _dotted(path: KeyPath) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _where(positions: dict[KeyPath, Position], path: KeyPath, name: str) -> str:
    known = path
    while known and known not in positions:
        known = known[:-1]
    position = positions.get(known, Position(f"{name}.yaml", 1))
    return f"{position} {_dotted(path)}".rstrip()


def _refuse_unknown_keys(document: _Document, struct: type[msgspec.Struct], path: KeyPath, name: str) -> None:
    node: Any = document.values
    for step in path:
        node = node[step]
    if not isinstance(node, dict):
        return  # a wrong type, which `_convert` reports with its position
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key in node:
        if key not in fields:
            raise ProfileError(
                _where(document.positions, (*path, key), name),
                "is not a key",
                expected=nearest(key, fields),
                reason="unknown_key",
            )
        inner = _struct_within(fields[key])
        if inner is None:
            continue
        items = range(len(node[key])) if isinstance(node[key], list) else None
        for suffix in [(key,)] if items is None else [(key, index) for index in items]:
            _refuse_unknown_keys(document, inner, (*path, *suffix), name)


def _struct_within(annotation: Any) -> type[msgspec.Struct] | None:
    """Finds the struct in a field's type: the type itself, the items of a tuple, or the value of an optional field."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType):
        return next(filter(None, map(_struct_within, typing.get_args(annotation))), None)
    return None


def _complete_own_options(document: _Document, name: str) -> None:
    """Checks the options of single kinds of sources, and fills in their defaults: a manifest holds every key."""
    camera = document.values.get("camera")
    if not isinstance(camera, dict):
        return  # a wrong type, which `_convert` reports with its position
    for kind, struct in option_structs().items():
        camera.setdefault(kind, {})
        _refuse_unknown_keys(document, struct, ("camera", kind), name)
        camera[kind] = msgspec.to_builtins(_convert(document, struct, ("camera", kind), name))


def _convert(document: _Document, struct: type[AnyStruct], within: KeyPath, name: str) -> AnyStruct:
    """Converts a part of a document to a struct."""
    values: Any = document.values
    for step in within:
        values = values[step]
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        raise _invalid(document.positions, name, within, values, error) from error


def _invalid(
    positions: dict[KeyPath, Position], name: str, base: KeyPath, values: object, error: msgspec.ValidationError
) -> ProfileError:
    """Makes the error for a wrong value in ``values``, the part of the profile at ``base``."""
    message, _, place = str(error).partition(" - at `$")
    path = tuple(int(index) if index else key for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", place))
    return ProfileError(
        _where(positions, (*base, *path), name),
        _value_text(values, path),
        expected=message.removeprefix("Expected ") + _unit_hint(path),
        reason="invalid",
    )


def _value_text(values: Any, path: KeyPath) -> str:
    for step in path:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return "is missing"
    return f"{str(values)!r}" if isinstance(values, str) else f"{values}"


_UNITS = {
    "_fps": "frames a second",
    "_px": "pixels",
    "_s": "seconds",
    "_hz": "hertz",
    "_ohm": "ohms",
    "_mb": "megabytes",
    "_c": "degrees Celsius",
}


def _unit_hint(path: KeyPath) -> str:
    key = str(path[-1]) if path else ""
    unit = next((unit for suffix, unit in _UNITS.items() if key.endswith(suffix)), None)
    return f" (a bare number of {unit})" if unit else ""


def _check_agreement(loaded: LoadedProfile, name: str) -> None:
    profile = loaded.profile
    if profile.name != name:
        raise ProfileError(loaded.where("name"), profile.name, expected=f"{name}, the name of the file", reason="contradiction")
    if profile.runtime.threads > profile.board.cores:
        raise ProfileError(
            loaded.where("runtime", "threads"),
            str(profile.runtime.threads),
            expected=f"at most {profile.board.cores}, the cores of {profile.board.name}",
            reason="contradiction",
        )
    if profile.runtime.name not in RUNTIMES.names():
        raise ProfileError(
            loaded.where("runtime", "name"),
            repr(profile.runtime.name),
            expected=nearest(profile.runtime.name, RUNTIMES.names()),
            reason="invalid",
        )
    _check_camera(loaded)
    _check_meters(loaded)
    _check_sinks(loaded)


def _check_camera(loaded: LoadedProfile) -> None:
    camera = loaded.profile.camera
    for uri in camera.uris:
        scheme = uri.partition(":")[0]
        if scheme.lower() not in SOURCES.names():
            raise ProfileError(
                loaded.where("camera", "uri"), repr(uri), expected=nearest(scheme, SOURCES.names()), reason="invalid"
            )
    if len(set(camera.uris)) < len(camera.uris):
        raise ProfileError(loaded.where("camera", "uri"), "names a camera twice", reason="contradiction")
    if camera.backoff.max_s < camera.backoff.first_s:
        raise ProfileError(
            loaded.where("camera", "backoff", "max_s"),
            f"{camera.backoff.max_s:g}",
            expected=f"at least first_s, {camera.backoff.first_s:g}",
            reason="contradiction",
        )


def _check_meters(loaded: LoadedProfile) -> None:
    for index, meter in enumerate(loaded.profile.power.meters):
        if meter["kind"] not in METERS.names():
            raise ProfileError(
                loaded.where("power", "meters", index, "kind"),
                repr(meter["kind"]),
                expected=nearest(meter["kind"], METERS.names()),
                reason="invalid",
            )
        plugin: type[Meter] = METERS.load(meter["kind"])
        _check_options(loaded, ("power", "meters", index), meter, plugin.Options)


def _check_options(loaded: LoadedProfile, path: KeyPath, config: Mapping[str, Any], options: type[msgspec.Struct]) -> None:
    """Checks the keys of the plug-in at ``path`` against the options that its class declares."""
    kind, keys = split_kind(config)
    try:
        read_options(kind, keys, options)
    except OptionError as error:
        raise ProfileError(
            loaded.where(*path, error.key),
            error.found,
            expected=error.expected + _unit_hint((error.key,)),
            reason="unknown_key" if error.is_unknown else "invalid",
        ) from error


def _check_sinks(loaded: LoadedProfile) -> None:
    for index, sink in enumerate(loaded.profile.wanted_sinks):
        if sink["kind"] not in SINKS.names():
            raise ProfileError(
                loaded.where("sinks", index, "kind"),
                repr(sink["kind"]),
                expected=nearest(sink["kind"], SINKS.names()),
                reason="invalid",
            )
        _check_options(loaded, ("sinks", index), sink, SINKS.load(sink["kind"]).Options)
