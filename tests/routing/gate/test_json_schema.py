import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.gate.json_schema import (
    MAX_DEPTH,
    MAX_PATTERNS,
    MAX_SUBSCHEMAS,
    Uncheckable,
    matches,
    schema_size,
    value_size,
)

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
}
ORDER = {
    "$defs": {"day": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}, "a/b": {"type": "integer"}},
    "type": "object",
    "properties": {"from": {"$ref": "#/$defs/day"}, "to": {"$ref": "#/$defs/day"}, "n": {"$ref": "#/$defs/a~1b"}},
}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (WEATHER, {"city": "Paris"}, True),
        (WEATHER, {"city": "Paris", "unit": "c", "days": 3}, True),
        (WEATHER, {}, False),
        (WEATHER, {"city": 3}, False),
        (WEATHER, {"city": "Paris", "unit": "k"}, False),
        (WEATHER, {"city": "Paris", "days": 0}, False),
        (WEATHER, {"city": "Paris", "color": "red"}, False),
        (WEATHER, ["Paris"], False),
        (TREE, {"name": "a", "children": [{"name": "b", "children": []}]}, True),
        (TREE, {"name": "a", "children": [{"children": []}]}, False),
        (ORDER, {"from": "2026-11-21", "to": "2026-11-22", "n": 1}, True),
        (ORDER, {"from": "2026-11-21", "to": "tomorrow"}, False),
        (ORDER, {"n": "1"}, False),
        ({}, "anything", True),
        (True, "anything", True),
        (False, "anything", False),
        ({"const": {"$ref": 3}}, {"$ref": 3}, True),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}, "x", True),
    ],
)
def test_values_are_checked_against_the_schema(schema: Any, value: Any, expected: bool) -> None:
    assert matches(value, schema) is expected


def chain(links: int, leaf: dict[str, Any]) -> dict[str, Any]:
    """Every definition refers twice to the next: 2 ** links ways to the leaf in a few kilobytes."""
    definitions: dict[str, Any] = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(links)}
    return {"$defs": {**definitions, f"d{links}": leaf}, "$ref": "#/$defs/d0"}


def nested(schema: Any, depth: int) -> Any:
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


UNCHECKABLE = {
    "references that fan out": chain(40, {"type": "string"}),
    "references that fan out and recur": chain(40, {"properties": {"a": {"$ref": "#/$defs/d0"}}}),
    "a bomb behind an escaped pointer": {
        "properties": {"x": {"$ref": "#/%24defs/d0"}},
        "$defs": chain(40, {"type": "string"})["$defs"],
    },
    "a bomb in a property called $defs": {"properties": {"$defs": {"allOf": [{"$ref": "#/x"}]}}, "x": chain(40, {})},
    "deep nesting": nested({}, MAX_DEPTH),
    "many subschemas": {"anyOf": [{"const": i} for i in range(MAX_SUBSCHEMAS)]},
    "many patterns": {"allOf": [{"pattern": f"a{i}"} for i in range(MAX_PATTERNS + 1)]},
    "many unevaluated keywords": {"allOf": [{"unevaluatedProperties": False}] * 9},
    "a counted repetition of a counted repetition": {"pattern": "((a{1000}){1000}){1000}"},
    "a backreference": {"pattern": r"(a+)\1"},
    "a broken pattern": {"pattern": "("},
    "a reference to the network": {"$ref": "http://127.0.0.1:9/schema.json"},
    "a reference to a file": {"$ref": "file:///etc/hostname"},
    "a reference to nowhere": {"$ref": "#/$defs/missing"},
    "an anchor": {"$ref": "#node", "$defs": {"n": {"$anchor": "node"}}},
    "a bomb in an embedded document": {
        "$defs": {f"d{i}": {} for i in range(41)},  # what the references mean outside of it
        "allOf": [{"$id": "http://example.org/n", **chain(40, {})}],
    },
    "another language of schemas": {"$schema": "http://json-schema.org/draft-03/schema#"},
    "an unknown type": {"type": "strng"},
    "no schema": ["type", "string"],
    "a number": 3,
    "nothing": None,
}


@pytest.mark.parametrize("name", UNCHECKABLE)
def test_a_schema_that_cannot_be_checked_matches_nothing(name: str) -> None:
    """Recursive, huge and regex-bomb schemas take bounded time. What cannot be checked fails closed."""
    assert not matches("aaaa", UNCHECKABLE[name])
    assert not matches({"x": "aaaa", "a": {"a": {}}}, UNCHECKABLE[name])


def test_a_pattern_that_backtracks_elsewhere_is_checked_in_linear_time() -> None:
    assert not matches("a" * 50_000 + "!", {"pattern": "^(a+)+$"})
    assert matches("a" * 50_000, {"pattern": "^(a+)+$"})


def test_a_large_automaton_is_not_run_over_a_long_text() -> None:
    """The same pattern is checked on a short text."""
    schema = {"pattern": "(a|b)*a(a|b){1000}c"}
    assert matches("a" * 1001 + "c", schema)
    assert not matches("a" * 200_000 + "c", schema)


def test_a_recursive_schema_takes_no_more_time_than_the_value_is_large() -> None:
    """Two ways down at every level would be 2 ** 50 without care."""
    both_ways = {"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}
    value: Any = 1
    for _ in range(50):
        value = {"a": value}
    assert matches(value, both_ways)


def test_a_value_nested_too_deeply_matches_nothing() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert matches(value, {})
    assert not matches([value], {})


def test_many_values_times_many_subschemas_match_nothing() -> None:
    schema = {"items": {"anyOf": [{"const": i} for i in range(1_000)]}}
    assert matches([1] * 100, schema)
    assert not matches([1] * 5_000, schema)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)
KEYWORDS = ("type", "properties", "$ref", "$defs", "items", "allOf", "enum", "pattern", "required", "$schema", "$id")
odd_schemas = st.recursive(
    json_values | st.sampled_from(["#", "#/$defs/a", "string", "a+", "("]),
    lambda inner: st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(value=json_values, schema=odd_schemas)
def test_any_schema_gives_an_answer(value: Any, schema: Any) -> None:
    assert matches(value, schema) in (True, False)


@given(value=json_values)
def test_a_value_matches_its_own_constant(value: Any) -> None:
    assert matches(value, {"const": value})


@given(value=json_values)
def test_the_size_of_a_value_is_what_it_is_made_of(value: Any) -> None:
    def count(node: Any) -> int:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return 1 + sum(map(count, children))

    values, chars = value_size(value)
    assert values == count(value)
    assert chars <= len(json.dumps(value, ensure_ascii=False))


def test_every_way_to_a_subschema_counts() -> None:
    single, _ = schema_size(chain(5, {}))
    double, _ = schema_size(chain(6, {}))
    assert double > 1.8 * single
    with pytest.raises(Uncheckable):
        schema_size(chain(20, {}))
