"""Limits JSON schemas that clients send, so that compiling or checking one takes bounded time.

A schema becomes a grammar in the engine and a validator in the gate. Neither bounds its own work. References are
expanded, counts unrolled and patterns turned into automata, so a hundred bytes could cost minutes and gigabytes.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

from serving.errors import InvalidRequest

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32  # levels of JSON, and OpenAI allows 10 levels of objects, each of which takes two
MAX_SUBSCHEMAS = 4_000
MAX_PROPERTIES = 256  # of one object: a grammar for n optional ones costs n**2, 0.8 CPU seconds at 256 (xgrammar 0.2.8)
MAX_ENUM_VALUES = 1_000  # OpenAI's bound
MAX_COUNT = 65_536  # any string bound from 128 on costs 5.6 CPU seconds to compile, once a grammar (xgrammar 0.2.8)
MAX_PATTERNS = 32  # each up to 2 CPU seconds to compile, for '^.{1,100}$' (xgrammar 0.2.8)
MAX_PATTERN_CHARS = 256
MAX_PATTERN_REPEAT = 256
# Subschemas that judge one and the same value, references followed. Ten references of ten references of ... are a
# hundred bytes each and a power of ten together.
MAX_IN_PLACE = 1_000
MAX_IN_PLACE_DEPTH = 64

# The keywords that hold subschemas. Everything under another keyword is data. A subschema "in place" judges the same
# value as its parent.
_IN_PLACE = frozenset(("not", "if", "then", "else"))
_IN_PLACE_LISTS = frozenset(("allOf", "anyOf", "oneOf"))
_IN_PLACE_MAPS = frozenset(("dependentSchemas",))
_NESTED = frozenset(("contains", "items", "propertyNames", "unevaluatedItems", "unevaluatedProperties"))
_NESTED |= {"additionalItems", "additionalProperties"}
_NESTED_LISTS = frozenset(("prefixItems",))
_NESTED_MAPS = frozenset(("$defs", "definitions", "patternProperties", "properties"))
_COUNTS = frozenset(f"{bound}{of}" for bound in ("min", "max") for of in ("Length", "Items", "Properties", "Contains"))
_REFUSED = frozenset(("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"))
_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")

Schema = dict[str, Any] | bool


class _OutOfBounds(Exception):
    """What is wrong with a schema. check_schema adds the parameter's name."""


def check_schema(schema: dict[str, Any], param: str) -> None:
    """Raises InvalidRequest naming `param` when the schema is malformed, out of bounds, or points outside itself."""
    try:
        _check(schema)
    except _OutOfBounds as problem:
        raise InvalidRequest(f"Invalid JSON schema in '{param}': {problem}.", param=param) from None


def _check(root: dict[str, Any]) -> None:
    if len(json.dumps(root, ensure_ascii=False).encode()) > MAX_SCHEMA_BYTES:
        raise _OutOfBounds(f"larger than {MAX_SCHEMA_BYTES} bytes")
    _check_depth(root)  # first: what follows may recurse
    subschemas = patterns = 0
    pending: list[Schema] = [root]
    while pending:
        schema = pending.pop()
        subschemas += 1
        if subschemas > MAX_SUBSCHEMAS:
            raise _OutOfBounds(f"more than {MAX_SUBSCHEMAS} subschemas")
        if isinstance(schema, bool):
            continue
        pending += [*_in_place(schema), *_nested(schema)]  # first: it refuses keywords of the wrong shape
        _check_keywords(schema, root)
        for pattern in _patterns(schema):
            _check_pattern(pattern)
            patterns += 1
        if patterns > MAX_PATTERNS:
            raise _OutOfBounds(f"more than {MAX_PATTERNS} patterns")
    known: dict[int, int] = {}
    for schema in _all(root):
        _in_place_size(schema, root, known, 0)


def _check_depth(root: dict[str, Any]) -> None:
    level: list[Any] = [root]
    for _ in range(MAX_SCHEMA_DEPTH):
        children = (node.values() if isinstance(node, dict) else node for node in level)
        level = [item for items in children for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise _OutOfBounds(f"nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _check_keywords(schema: dict[str, Any], root: dict[str, Any]) -> None:
    for keyword in schema.keys() & _REFUSED:
        raise _OutOfBounds(f"'{keyword}' is not supported; use '$ref' into '$defs'")
    if "$id" in schema and schema is not root:
        raise _OutOfBounds("'$id' below the top level is not supported")
    if "$ref" in schema:
        _resolve(schema["$ref"], root)
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            raise _OutOfBounds(f"'type' must be one or more of {', '.join(sorted(_TYPES))}")
    for keyword in schema.keys() & _COUNTS:
        count = schema[keyword]
        if type(count) not in (int, float) or not 0 <= count <= MAX_COUNT or count != int(count):
            raise _OutOfBounds(f"'{keyword}' must be a whole number from 0 to {MAX_COUNT}")
    if len(schema.get("properties", ())) > MAX_PROPERTIES:
        raise _OutOfBounds(f"more than {MAX_PROPERTIES} properties in one object")
    enum = schema.get("enum", [None])
    if not isinstance(enum, list) or not 0 < len(enum) <= MAX_ENUM_VALUES:
        raise _OutOfBounds(f"'enum' must be a list of 1 to {MAX_ENUM_VALUES} values")


def _patterns(schema: dict[str, Any]) -> Iterator[Any]:
    if "pattern" in schema:
        yield schema["pattern"]
    yield from schema.get("patternProperties", ())


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARS:
        raise _OutOfBounds(f"a pattern must be a string of at most {MAX_PATTERN_CHARS} characters")
    repeats = (int(bound) for match in _REPEAT.finditer(pattern) for bound in match.groups() if bound)
    if any(repeat > MAX_PATTERN_REPEAT for repeat in repeats):
        raise _OutOfBounds(f"a pattern repeats something more than {MAX_PATTERN_REPEAT} times")
    try:
        # Rust's regex crate: linear time by construction, without look-around and back-references, bounded in size.
        SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        raise _OutOfBounds("a pattern is not a regular expression without look-around and back-references") from None


def _resolve(reference: Any, root: dict[str, Any]) -> Schema:
    """What a $ref names. Only pointers into the same schema are followed. Nothing is ever fetched."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise _OutOfBounds("'$ref' must point into the schema itself, as '#/$defs/name' does")
    node: Any = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            raise _OutOfBounds("a '$ref' points to nothing")
    return _schema(node)


def _in_place(schema: dict[str, Any]) -> Iterator[Schema]:
    """Subschemas that judge the same value, without references."""
    return _children(schema, _IN_PLACE, _IN_PLACE_LISTS, _IN_PLACE_MAPS)


def _nested(schema: dict[str, Any]) -> Iterator[Schema]:
    """Subschemas that judge a part of the value, or that a $ref may name."""
    return _children(schema, _NESTED, _NESTED_LISTS, _NESTED_MAPS)


def _children(
    schema: dict[str, Any], singles: frozenset[str], lists: frozenset[str], maps: frozenset[str]
) -> Iterator[Schema]:
    for keyword, value in schema.items():
        if keyword in lists or (keyword == "items" and keyword in singles and isinstance(value, list)):
            if not isinstance(value, list):
                raise _OutOfBounds(f"'{keyword}' must be a list of schemas")
            yield from map(_schema, value)
        elif keyword in maps:
            if not isinstance(value, dict):
                raise _OutOfBounds(f"'{keyword}' must be an object of schemas")
            yield from map(_schema, value.values())
        elif keyword in singles:
            yield _schema(value)


def _schema(value: Any) -> Schema:
    if not isinstance(value, dict | bool):
        raise _OutOfBounds("a schema must be an object or a boolean")
    return value


def _all(root: dict[str, Any]) -> Iterator[Schema]:
    pending: list[Schema] = [root]
    while pending:
        schema = pending.pop()
        yield schema
        if isinstance(schema, dict):
            pending += [*_in_place(schema), *_nested(schema)]


def _in_place_size(schema: Schema, root: dict[str, Any], known: dict[int, int], depth: int) -> int:
    """How many subschemas judge one value that `schema` judges, references followed.

    known: size by id of the subschemas done.
    A reference that leads back to itself without descending into the value never ends, so the bound on depth stops it.
    """
    if isinstance(schema, bool):
        return 1
    if depth > MAX_IN_PLACE_DEPTH:
        raise _OutOfBounds("'$ref' leads back to itself, or through too many others")
    if id(schema) not in known:
        size = 1 + sum(_in_place_size(child, root, known, depth + 1) for child in _in_place(schema))
        if "$ref" in schema:
            size += _in_place_size(_resolve(schema["$ref"], root), root, known, depth + 1)
        if size > MAX_IN_PLACE:
            raise _OutOfBounds(f"more than {MAX_IN_PLACE} subschemas judge one value")
        known[id(schema)] = size
    return known[id(schema)]
