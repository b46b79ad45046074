"""The shape of JSON, a line a key: what there is under which name, and of what type. Names of classes aren't told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

_CONSTRAINTS = (
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "pattern",
    "format",
)


def describe_type(title: str, kind: Any) -> Iterator[str]:
    """Lists the keys of what `msgspec` writes for a type, and reads into it."""
    schema = msgspec.json.schema(kind)
    definitions: dict[str, Any] = schema.pop("$defs", {})
    yield from _walk(title, schema, definitions, "")


def describe_value(title: str, value: object) -> Iterator[str]:
    """Lists the keys of a JSON value with what stands there."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from describe_value(f"{title}.{key}", inner)
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from describe_value(f"{title}[{place}]", inner)
    else:
        yield f"{title}: {json.dumps(value, ensure_ascii=False)}"


def _walk(path: str, schema: dict[str, Any], definitions: dict[str, Any], more: str) -> Iterator[str]:
    branches = [_resolve(branch, definitions) for branch in schema.get("anyOf", [schema])]
    words = " | ".join(sorted(_word(branch) for branch in branches))
    default = f" default={json.dumps(schema['default'], sort_keys=True)}" if "default" in schema else ""
    yield f"{path}: {words}{more}{default}"
    for branch in branches:
        required = branch.get("required", ())
        for key, inner in branch.get("properties", {}).items():
            yield from _walk(f"{path}.{key}", inner, definitions, " required" if key in required else "")
        for place, inner in enumerate(branch.get("prefixItems", ())):
            yield from _walk(f"{path}[{place}]", inner, definitions, "")
        for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(branch.get(key), dict):
                yield from _walk(f"{path}{mark}", branch[key], definitions, "")


def _resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        found: dict[str, Any] = definitions[schema["$ref"].rpartition("/")[2]]
        schema = found
    return schema


def _word(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return f"one of {json.dumps(sorted(values, key=str))}"
    is_closed = schema.get("additionalProperties") is False
    limits = [f"{name}={schema[name]}" for name in _CONSTRAINTS if name in schema]
    return " ".join([str(schema.get("type", "anything")), *(["closed"] if is_closed else []), *limits])
