"""What is not one well-behaved JSON object is refused before anything is built from it."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.json_body import MAX_DEPTH, MAX_VALUES, parse_body
from serving.errors import InvalidRequest

REFUSED = {
    "empty": b"",
    "blank": b" \n",
    "bom": b'\xef\xbb\xbf{"a":1}',
    "utf-16": '{"a":1}'.encode("utf-16"),
    "not json": b"model=auto",
    "cut": b'{"a":',
    "unterminated": b'{"a',
    "two values": b'{"a":1} {"a":1}',
    "array": b"[]",
    "string": b'"text"',
    "number": b"1",
    "null": b"null",
    "invalid utf-8": b'{"a":"\xff"}',
    "overlong utf-8": b'{"a":"\xc0\x80"}',
    "raw surrogate": b'{"a":"\xed\xa0\x80"}',
    "escaped surrogate": b'{"a":"\\ud800"}',
    "surrogate in a key": b'{"\\uDFFF":1}',
    "surrogate twice in one key": b'{"\\ud800":1,"\\ud800":2}',
    "raw control character": b'{"a":"\n"}',
    "single quotes": b"{'a':1}",
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1} // x',
    "depth 10,000": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "depth 10,000, unclosed": b'{"a":' * 10_000,
    "closing brackets": b"]" * 10_000,
    "too many values": b'{"a":[' + b"0," * MAX_VALUES + b"0]}",
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "1e999": b'{"a":1e999}',
    "2**63": b'{"a":9223372036854775808}',
    "-2**63-1": b'{"a":-9223372036854775809}',
    "a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
    "duplicate keys": b'{"a":1,"a":1}',
    "nested duplicate keys": b'{"a":[{"b":1,"c":2,"b":3}]}',
    "duplicate by escape": b'{"a":1,"\\u0061":1}',
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_body_that_is_not_one_well_behaved_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_body(raw)
    assert len(refused.value.message) < 200
    json.dumps(refused.value.body()).encode()  # nothing in it that cannot be sent


ACCEPTED = {
    "empty object": (b"{}", {}),
    "white space around": (b' {"a":1}\r\n', {"a": 1}),
    "int64 bounds": (b'{"a":[9223372036854775807,-9223372036854775808]}', {"a": [2**63 - 1, -(2**63)]}),
    "surrogate pair": (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    "escaped escape": (b'{"a":"\\\\ud800"}', {"a": "\\ud800"}),
    "same key in two objects": (b'{"a":{"b":1},"c":{"b":1}}', {"a": {"b": 1}, "c": {"b": 1}}),
    "brackets in text": (b'{"a":"' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
    "brackets after an escaped quote": (b'{"a":"\\"' + b"{" * 1000 + b'"}', {"a": '"' + "{" * 1000}),
    "commas in text": (b'{"a":"' + b"," * (MAX_VALUES + 1) + b'"}', {"a": "," * (MAX_VALUES + 1)}),
    "escaped NUL": (b'{"a":"\\u0000"}', {"a": "\0"}),
}


@pytest.mark.parametrize(("raw", "value"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_odd_but_honest_body_is_read(raw: bytes, value: dict[str, Any]) -> None:
    assert parse_body(raw) == value


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_has_an_exact_limit(opening: bytes) -> None:

    def nested(levels: int) -> bytes:
        return b'{"a":' + opening * (levels - 1) + b"1" + {b"[": b"]"}.get(opening, b"}") * (levels - 1) + b"}"

    parse_body(nested(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match="nested"):
        parse_body(nested(MAX_DEPTH + 1))


def test_duplicate_key_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_body(b'{"temperature":0,"temperature":2}')
    assert refused.value.param == "temperature"


def test_lone_surrogate_is_found_at_its_path() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_body(b'{"messages":[{"content":"ok"},{"content":"\\udc00"}]}')
    assert refused.value.param == "messages[1].content"


Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), Json, max_size=5), ascii=st.booleans())
def test_every_json_object_is_read_as_json_reads_it(value: dict[str, Any], ascii: bool) -> None:
    assert parse_body(json.dumps(value, ensure_ascii=ascii).encode()) == value


@given(raw=st.binary() | st.text('{}[]",:\\ud8019 .eE+-ntrfalsu\n').map(str.encode))
def test_any_bytes_give_an_object_or_a_refusal(raw: bytes) -> None:
    try:
        value = parse_body(raw)
    except InvalidRequest as refused:
        json.dumps(refused.body()).encode()
    else:
        assert value == json.loads(raw)
        assert all(math.isfinite(v) for v in value.values() if isinstance(v, float))
