"""Check a value against a JSON schema that a stranger wrote, in bounded time and without fetching anything.

A schema that would take too long, that refers to something outside itself or that is no schema cannot be checked, and
what cannot be checked does not match: the frontier may answer then.
"""

from typing import Any, Final

import jsonschema_rs

MAX_SCHEMA_VISITS: Final = 5_000  # subschemas, counted once for every way $ref leads to them
MAX_CHECKS: Final = 5_000_000  # visits x values: about half a second in the worst case
MAX_DEPTH: Final = 64
MAX_PATTERNS: Final = 64
# Rust's regex engine takes linear time and no backreferences; the limit keeps counted repetitions from adding up.
PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=200_000, dfa_size_limit=1_000_000)


class Uncheckable(ValueError):
    """The schema or the value is outside what can be checked in bounded time."""


def matches(value: Any, schema: Any) -> bool:
    """Whether a parsed JSON value matches a parsed JSON schema (2020-12 unless $schema says otherwise).

    False too when it cannot be checked; see the module.
    """
    try:
        if schema_visits(schema) * value_size(value) > MAX_CHECKS:
            return False
        return jsonschema_rs.validator_for(schema, pattern_options=PATTERNS, offline=True).is_valid(value)
    except (ValueError, jsonschema_rs.ReferencingError):
        return False


def value_size(value: Any) -> int:
    """How many values a JSON value is made of. Raises Uncheckable when it is nested deeper than MAX_DEPTH."""
    size = 0
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return size
        size += len(level)
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    raise Uncheckable(f"nested deeper than {MAX_DEPTH}")


def schema_visits(schema: Any) -> int:
    """How many subschemas a validator meets when every local $ref is followed until it leads back.

    The library evaluates recursion once a value, but walks references that fan out and meet again every time: that is
    exponential. Raises Uncheckable above MAX_SCHEMA_VISITS, for deep nesting, many patterns and foreign references.
    """
    value_size(schema)
    visits = patterns = 0
    stack: list[tuple[Any, frozenset[str]]] = [(schema, frozenset())]
    while stack:
        node, followed = stack.pop()
        visits += 1
        if visits > MAX_SCHEMA_VISITS:
            raise Uncheckable(f"more than {MAX_SCHEMA_VISITS} subschemas")
        if isinstance(node, list):
            stack.extend((child, followed) for child in node)
        if not isinstance(node, dict):
            continue
        patterns += isinstance(node.get("pattern"), str)
        if isinstance(by_pattern := node.get("patternProperties"), dict):
            patterns += len(by_pattern)
        if patterns > MAX_PATTERNS:
            raise Uncheckable(f"more than {MAX_PATTERNS} patterns")
        stack.extend((child, followed) for name, child in node.items() if name not in ("$defs", "definitions"))
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(pointer := node.get(keyword), str) and pointer not in followed:
                stack.append((resolve(schema, pointer), followed | {pointer}))
    return visits


def resolve(schema: Any, pointer: str) -> Any:
    """What a local reference (`#`, `#/...`) points at. Raises Uncheckable for any other."""
    if pointer != "#" and not pointer.startswith("#/"):
        raise Uncheckable(f"reference to {pointer[:100]!r}: only references within the schema are followed")
    node = schema
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Uncheckable(f"reference to {pointer[:100]!r}, which does not exist") from error
    return node
