"""Check a value against a JSON schema that a stranger wrote, in bounded time and without fetching anything.

A schema cannot be checked when it would take too long, refers to something outside itself or is no schema.
A value then does not match, so that the frontier answers.
"""

from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs

MAX_SUBSCHEMAS: Final = 5_000  # counted once for every way $ref leads to them
MAX_CHECKS: Final = 5_000_000  # subschemas x values, 0.2 s at worst
MAX_DEPTH: Final = 64
MAX_PATTERNS: Final = 64
MAX_UNEVALUATED: Final = 8  # each may visit all that is below it once more
# Compiled bytes x characters, over all patterns and strings. The engine is linear (no backreferences, no lookaround)
# but slow on large automata: up to 0.2 ns for each was measured, so 0.4 s at worst.
MAX_PATTERN_WORK: Final = 2_000_000_000
MAX_PATTERN_BYTES: Final = 1_000_000  # of one pattern, compiled: enough for ^.{1,500}$
DRAFTS: Final = ("draft-06", "draft-07", "2019-09", "2020-12")  # older ones scope references by other keywords


class Uncheckable(ValueError):
    """The schema or the value is outside what can be checked in bounded time."""


def matches(value: Any, schema: Any) -> bool:
    """Whether a parsed JSON value matches a parsed JSON schema (2020-12 unless $schema says otherwise).

    Also False when it cannot be checked (see the module).
    """
    try:
        subschemas, patterns = schema_size(schema)
        values, chars = value_size(value)
        if subschemas * values > MAX_CHECKS:
            return False
        pattern_bytes = min(MAX_PATTERN_BYTES, MAX_PATTERN_WORK // max(patterns * chars, 1))
        options = jsonschema_rs.RegexOptions(size_limit=pattern_bytes)
        return jsonschema_rs.validator_for(schema, pattern_options=options, offline=True).is_valid(value)
    except (ValueError, jsonschema_rs.ReferencingError):
        return False


def value_size(value: Any) -> tuple[int, int]:
    """(values, characters of all strings and keys) of a JSON value. Raises Uncheckable when deeper than MAX_DEPTH."""
    values = chars = depth = 0
    level = [value]
    while level:
        if depth > MAX_DEPTH:
            raise Uncheckable(f"nested deeper than {MAX_DEPTH}")
        values += len(level)
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                chars += sum(map(len, node))
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, str):
                chars += len(node)
        level = below
        depth += 1
    return values, chars


def schema_size(schema: Any) -> tuple[int, int]:
    """(subschemas, patterns) that a validator meets when it follows every $ref until that leads back to itself.

    The library evaluates recursion once for each value. It follows references that fan out and meet again every time,
    which is exponential. The count is an upper bound, because it includes definitions and data such as `enum`.
    Raises Uncheckable above the limits.
    """
    value_size(schema)
    subschemas = patterns = unevaluated = 0
    stack: list[tuple[Any, frozenset[str]]] = [(schema, frozenset())]
    while stack:
        node, followed = stack.pop()
        subschemas += 1
        if isinstance(node, list):
            stack.extend((child, followed) for child in node)
        if not isinstance(node, dict):
            continue
        stack.extend((child, followed) for child in node.values())
        patterns += isinstance(node.get("pattern"), str)
        patterns += len(by_pattern) if isinstance(by_pattern := node.get("patternProperties"), dict) else 0
        unevaluated += ("unevaluatedProperties" in node) + ("unevaluatedItems" in node)
        if subschemas > MAX_SUBSCHEMAS or patterns > MAX_PATTERNS or unevaluated > MAX_UNEVALUATED:
            raise Uncheckable(f"{subschemas} subschemas, {patterns} patterns and {unevaluated} unevaluated keywords")
        if node is not schema and isinstance(node.get("$id"), str):
            raise Uncheckable("an embedded $id changes what references mean")
        if isinstance(draft := node.get("$schema"), str) and not any(known in draft for known in DRAFTS):
            raise Uncheckable(f"unknown $schema {draft[:100]!r}")
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(pointer := node.get(keyword), str) and pointer not in followed:
                stack.append((resolve(schema, pointer), followed | {pointer}))
    return subschemas, patterns


def resolve(schema: Any, pointer: str) -> Any:
    """What a local reference (`#` or `#/...`) points at. Raises Uncheckable for any other and when it leads nowhere."""
    if pointer != "#" and not pointer.startswith("#/"):
        raise Uncheckable(f"reference to {pointer[:100]!r}: only references within the schema are followed")
    node = schema
    for part in unquote(pointer).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Uncheckable(f"reference to {pointer[:100]!r}, which does not exist") from error
    return node
