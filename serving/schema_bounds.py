"""Bounds for JSON schemas that strangers send, so that compiling or checking one takes bounded time.

A schema becomes a grammar in the engine and a validator in the gate. Neither bounds its own work: counts are unrolled,
references expanded and patterns turned into automata, so a hundred bytes can cost minutes and gigabytes.
"""

import json
from collections.abc import Iterator
from typing import Any

from serving.errors import InvalidRequest

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 4_000
MAX_EXPANDED_NODES = 20_000
MAX_COUNT = 4_096
MAX_PATTERN_CHARS = 256

# Where subschemas live; what is under any other keyword is data. In place: they judge the same value as their parent.
_NESTED = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_NESTED_LISTS = ("items", "prefixItems")
_NESTED_MAPS = ("$defs", "definitions", "patternProperties", "properties")
_IN_PLACE = ("else", "if", "not", "then")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE_MAPS = ("dependentSchemas",)
_COUNTS = (
    "minContains",
    "maxContains",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
)
_REFUSED = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef")


def check_schema(schema: dict[str, Any], param: str) -> None:
    """Raises InvalidRequest naming `param` when the schema is beyond the constants above or points outside itself."""
    if len(json.dumps(schema, ensure_ascii=False).encode()) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"The JSON schema is larger than {MAX_SCHEMA_BYTES} bytes.", param=param)
    _check_depth(schema, param)


def _check_depth(schema: dict[str, Any], param: str) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for node in level for child in _containers(node)]
        if not level:
            return
    raise InvalidRequest(f"The JSON schema is nested deeper than {MAX_SCHEMA_DEPTH} levels.", param=param)


def _containers(node: Any) -> Iterator[Any]:
    children = node.values() if isinstance(node, dict) else node
    return (child for child in children if isinstance(child, dict | list))
