"""Reads the bytes of a request as exactly one JSON object.

It is stricter than `json.loads`, which accepts attacks and mistakes. Deep nesting, large size, duplicate keys, numbers
that another parser reads differently, and text that is not Unicode are refused before anything is built from them.
"""

import json
import math
import re
from typing import Any, NoReturn

import numpy as np

from serving.errors import InvalidRequest

MAX_DEPTH = 64
# The longest honest body is a prompt of token ids. 2**18 is enough for two prompts of 128k tokens.
MAX_VALUES = 2**18
INT64_DIGITS = 20  # "-9223372036854775808", and a longer literal is out of range

# Whole string literals. Possessive and with an optional end quote, so that every match attempt consumes what it has
# read. That is linear in the body, also for a million escaped quotes without an end.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_body(raw: bytes) -> dict[str, Any]:
    """The one JSON object in `raw`.

    Raises InvalidRequest for an empty body, a BOM, invalid UTF-8, anything but one object, nesting deeper than
    MAX_DEPTH, more than MAX_VALUES values, duplicate keys, NaN and infinities, integers beyond 64 bit and lone
    surrogates. The time is linear in len(raw), which the caller bounds.
    """
    if not raw.strip():
        raise InvalidRequest("The request body is empty; send a JSON object.")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise InvalidRequest("The request body starts with a byte order mark; send plain UTF-8.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The request body is not valid UTF-8 (byte {error.start}).") from error
    check_shape(raw)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_int64,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error.msg} at character {error.pos}.") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {_name(value)}.")
    if _SURROGATE_ESCAPE.search(text):
        refuse_surrogates(value)
    return value


def check_shape(raw: bytes) -> None:
    """Check depth and number of values by the brackets and commas outside strings. Nothing is built yet.

    Raises InvalidRequest beyond MAX_DEPTH or MAX_VALUES.
    """
    skeleton = _STRING.sub(b"", raw)
    values = skeleton.count(b",") + skeleton.count(b"[") + skeleton.count(b"{")
    if values > MAX_VALUES:
        raise InvalidRequest(f"The request body holds more than {MAX_VALUES} values.")
    brackets = np.frombuffer(skeleton.translate(None, _NO_BRACKETS), dtype=np.uint8)
    depth = np.cumsum(np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1))
    if depth.size and int(depth.max()) > MAX_DEPTH:
        raise InvalidRequest(f"The request body is nested deeper than {MAX_DEPTH} levels.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidRequest(f"Duplicate key {key[:100]!r} in the request body.", param=_printable(key))
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not a JSON number.")


def _finite_float(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise InvalidRequest(f"The number {literal[:40]} is out of range.")
    return value


def _int64(literal: str) -> int:
    # The length is checked first, because Python refuses integers of thousands of digits with an error of its own.
    if len(literal) > INT64_DIGITS or not -(2**63) <= (value := int(literal)) < 2**63:
        raise InvalidRequest(f"The integer {literal[:40]} does not fit in 64 bits.")
    return value


def refuse_surrogates(value: Any) -> None:
    """Refuse escapes such as \\ud83d without their other half, which decode to text that no encoder accepts."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                raise InvalidRequest(f"Lone surrogate in the text at {path or 'the top level'}.", param=path or None)
        elif isinstance(item, list):
            pending.extend((f"{path}[{i}]", child) for i, child in enumerate(item))
        elif isinstance(item, dict):
            for key, child in item.items():
                if _SURROGATE.search(key):
                    raise InvalidRequest("Lone surrogate in a key of the request body.", param=path or None)
                pending.append((f"{path}.{key}" if path else key, child))


def _printable(key: str) -> str:
    return _SURROGATE.sub("\ufffd", key[:100])


def _name(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
