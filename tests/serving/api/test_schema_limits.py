"""JSON schemas from strangers are compiled and checked only when that takes bounded time."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.api.schema_limits import (
    MAX_COUNT,
    MAX_ENUM_VALUES,
    MAX_PATTERN_CHARS,
    MAX_PATTERN_REPEAT,
    MAX_PATTERNS,
    MAX_PROPERTIES,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    check_schema,
)
from serving.errors import InvalidRequest


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels of JSON."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {} for i in range(count)}}


def chain(count: int) -> dict[str, Any]:
    """References in a row."""
    return {
        "$ref": "#/$defs/0",
        "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(count)} | {str(count): {}},
    }


def laughs(levels: int, keyword: str) -> dict[str, Any]:
    """Ten references of ten references of ..."""
    definitions = {str(i): {keyword: [{"$ref": f"#/$defs/{i + 1}"}] * 10} for i in range(levels)}
    return {"$ref": "#/$defs/0", "$defs": definitions | {str(levels): {"type": "string"}}}


REFUSED: dict[str, dict[str, Any]] = {
    "1 MB": {"description": "x" * 2**20},
    "too large": {"description": "é" * (MAX_SCHEMA_BYTES // 2)},
    "too deep": nested(MAX_SCHEMA_DEPTH + 1),
    "too many properties": properties(MAX_PROPERTIES + 1),
    "too many enum values": {"enum": list(range(MAX_ENUM_VALUES + 1))},
    "refers to itself": {"$ref": "#"},
    "refers in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "circle in an unused definition": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}},
    "circle through conditions": {
        "$defs": {"a": {"if": {"$ref": "#/$defs/a"}}},
        "properties": {"x": {"$ref": "#/$defs/a"}},
    },
    "long chain of references": chain(500),
    "exponential anyOf": laughs(8, "anyOf"),
    "exponential allOf": laughs(8, "allOf"),
    "remote reference": {"$ref": "http://169.254.169.254/schema"},
    "file reference": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "relative reference": {"$ref": "other.json#/a"},
    "reference to nothing": {"$ref": "#/$defs/absent"},
    "reference to a number": {"$ref": "#/maxLength", "maxLength": 1},
    "reference that is no text": {"$ref": 1},
    "dynamic reference": {"$dynamicRef": "#node"},
    "anchor": {"$defs": {"a": {"$anchor": "x"}}},
    "id below the top": {"$defs": {"a": {"$id": "http://example.org/a"}}},
    "huge count": {"type": "string", "maxLength": MAX_COUNT + 1},
    "infinite count": {"type": "array", "minItems": float("inf")},
    "negative count": {"type": "array", "minItems": -1},
    "fractional count": {"type": "array", "minItems": 0.5},
    "boolean count": {"type": "array", "minItems": True},
    "pattern too long": {"pattern": "a" * (MAX_PATTERN_CHARS + 1)},
    "pattern repeats too often": {"pattern": f"^a{{1,{MAX_PATTERN_REPEAT + 1}}}$"},
    "pattern multiplies": {"pattern": "^(((a{1,256}){1,256}){1,256}){1,256}$"},
    "pattern looks ahead": {"pattern": "^(?=a)a$"},
    "pattern refers back": {"pattern": r"^(a)\1$"},
    "pattern is malformed": {"pattern": "(("},
    "pattern is no text": {"pattern": 5},
    "pattern of property names": {"patternProperties": {"(a{9999}){9999}": {}}},
    "too many patterns": {"properties": {str(i): {"pattern": "^a$"} for i in range(MAX_PATTERNS + 1)}},
    "unknown type": {"type": "strin"},
    "type of the wrong type": {"type": [[]]},
    "properties of the wrong type": {"properties": []},
    "properties a number": {"properties": 1},
    "property patterns a number": {"patternProperties": 1.5},
    "properties null": {"properties": None},
    "items of the wrong type": {"items": "string"},
    "anyOf of the wrong type": {"anyOf": {}},
    "enum of the wrong type": {"enum": "a"},
    "empty enum": {"enum": []},
}


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED.keys())
def test_schema_out_of_bounds_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema(schema, "tools[0].function.parameters")
    assert refused.value.param == "tools[0].function.parameters"


ACCEPTED: dict[str, dict[str, Any]] = {
    "empty": {},
    "largest depth": nested(MAX_SCHEMA_DEPTH),
    "most properties": properties(MAX_PROPERTIES),
    "most enum values": {"enum": list(range(MAX_ENUM_VALUES))},
    "tree": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/tree",
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "additionalProperties": False,
            }
        },
    },
    "recursive root": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
    "shared definitions": laughs(2, "anyOf"),
    "short chain of references": chain(30),
    "escaped pointer": {"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": {}}},
    "pointer into a list": {"$ref": "#/anyOf/1", "anyOf": [{}, {"type": "string"}]},
    "properties named like keywords": {"properties": {"$ref": {"type": "string"}, "$id": {}, "enum": {}, "type": {}}},
    "keywords in data": {"enum": [{"$ref": "http://x"}], "default": {"$anchor": 1}, "const": {"type": "no"}},
    "old tuple": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]},
    "boolean schemas": {"additionalProperties": False, "properties": {"a": True}},
    "nullable": {"type": ["string", "null"], "maxLength": 255.0},
    "slug": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
    "nested quantifiers, linear in Rust": {"type": "string", "pattern": "^(a+)+b$"},
}


@pytest.mark.parametrize("schema", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_ordinary_schema_is_accepted(schema: dict[str, Any]) -> None:
    check_schema(schema, "p")


Keywords = st.sampled_from(
    ["$ref", "$defs", "properties", "items", "anyOf", "not", "pattern", "patternProperties", "type", "enum", "minItems"]
)
Data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["#", "#/$defs/a", "string"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Keywords | st.just("a"), inner, max_size=4),
    max_leaves=25,
)


@pytest.mark.slow
@settings(max_examples=500)
@given(schema=st.dictionaries(Keywords, Data, max_size=4))
def test_any_object_is_judged_without_an_accident(schema: dict[str, Any]) -> None:
    before = json.dumps(schema)
    with contextlib.suppress(InvalidRequest):
        check_schema(schema, "p")
    assert json.dumps(schema) == before
