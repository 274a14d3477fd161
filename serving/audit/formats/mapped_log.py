"""Any JSON lines, read through a field mapping: `--map model=meta.engine --map input_tokens=usage.in ...`.

Chat logs with a whole conversation on each line need only `--map messages=PATH`. Every assistant turn is a call. Its
prompt is everything before it, and its tokens are estimated from the length of the text.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from serving.audit.formats.call import BYTES_PER_TOKEN, NO_TENANT, BadRow, Call, LoggedRequest, seconds

TOKEN_FIELDS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens")
TEXT_FIELDS = ("model", "provider", "tenant", "category")
FIELDS = (*TEXT_FIELDS, "at", *TOKEN_FIELDS, "cost_usd", "messages", "prompt", "response")


def parse_mapping(options: Iterable[str]) -> dict[str, str]:
    """{"model": "meta.engine"} from ["model=meta.engine"]. Raises ValueError naming what is wrong."""
    mapping: dict[str, str] = {}
    for option in options:
        field, equals, path = option.partition("=")
        if field not in FIELDS or not equals or not path:
            raise ValueError(f"--map {option!r}: write FIELD=PATH with FIELD one of {', '.join(FIELDS)}")
        mapping[field] = path
    if not ({"messages"} <= mapping.keys() or {"input_tokens", "output_tokens"} <= mapping.keys()):
        raise ValueError("--map needs messages=PATH, or both input_tokens=PATH and output_tokens=PATH")
    return mapping


class MappedReader:
    """Reads lines through a mapping of field to dotted path."""

    def __init__(self, mapping: Mapping[str, str], model: str | None) -> None:
        """model: of lines whose mapping names none."""
        self._paths = {field: path.split(".") for field, path in mapping.items()}
        self._names = dict(mapping)
        self._model = model

    def __call__(self, line: bytes) -> list[Call]:
        """The calls of one line. Raises BadRow, msgspec.DecodeError."""
        row = msgspec.json.decode(line)
        found = {field: _at(row, path) for field, path in self._paths.items()}
        for field in TEXT_FIELDS:
            if found.get(field) is not None and not isinstance(found[field], str):
                raise BadRow(self._names[field], f"expected text, got {found[field]!r:.40}")
        for field in TOKEN_FIELDS:
            value = found.get(field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise BadRow(self._names[field], f"expected a whole number of tokens, got {value!r:.40}")
        at = found.get("at")
        if at is not None and (isinstance(at, bool) or not isinstance(at, int | float | str)):
            raise BadRow(self._names["at"], f"expected a time, got {at!r:.40}")
        cost = found.get("cost_usd")
        if cost is not None and (isinstance(cost, bool) or not isinstance(cost, int | float) or not cost >= 0):
            raise BadRow(self._names["cost_usd"], f"expected dollars, got {cost!r:.40}")
        call = Call(
            found.get("model") or self._model or "(unnamed model)",
            found.get("input_tokens") or 0,
            found.get("output_tokens") or 0,
            seconds(at, self._names.get("at", "at")),
            found.get("provider"),
            found.get("tenant") or NO_TENANT,
            found.get("category"),
            found.get("cached_tokens") or 0,
            found.get("cache_write_tokens") or 0,
            recorded_usd=cost,
        )
        if call.cached_tokens + call.cache_write_tokens > call.input_tokens:
            raise BadRow(self._names["cached_tokens"], "more cached and written than input tokens")
        messages = found.get("messages")
        if messages is None:
            self._need(found, TOKEN_FIELDS[:2])
            if isinstance(found.get("prompt"), str):
                call.prompt = found["prompt"].encode()
                call.request = LoggedRequest(prompt=msgspec.Raw(msgspec.json.encode(found["prompt"])))
            return [call]
        if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
            raise BadRow(self._names["messages"], "expected a list of messages with role and content")
        if found.get("input_tokens") is not None and found.get("output_tokens") is not None:
            return [_with_prompt(call, messages)]
        return list(_turns(call, messages, found.get("response"), self._names["messages"]))

    def _need(self, found: Mapping[str, Any], fields: Iterable[str]) -> None:
        for field in fields:
            if found.get(field) is None:
                raise BadRow(self._names.get(field, field), "missing")


def _at(row: Any, path: list[str]) -> Any:
    for key in path:
        if isinstance(row, list) and key.isdigit():
            row = row[int(key)] if int(key) < len(row) else None
        elif isinstance(row, Mapping):
            row = row.get(key)
        else:
            return None
    return row


def _with_prompt(call: Call, messages: list[Mapping[str, Any]]) -> Call:
    # One message after the other without the list's brackets: a longer conversation begins with the shorter one.
    call.prompt = b"".join(map(msgspec.json.encode, messages))
    call.request = LoggedRequest(msgspec.Raw(msgspec.json.encode(messages)))
    return call


def _turns(call: Call, messages: list[Mapping[str, Any]], response: Any, field: str) -> Iterable[Call]:
    """One call per assistant message, or the one that `response` answers."""
    if isinstance(response, str):
        ends, answers = [len(messages)], [response]
    else:
        ends = [n for n, message in enumerate(messages) if n and message.get("role") == "assistant"]
        answers = [str(messages[n].get("content") or "") for n in ends]
    if not ends:
        raise BadRow(field, "no assistant message: what the call answered is not known")
    for end, answer in zip(ends, answers, strict=True):
        turn = _with_prompt(msgspec.structs.replace(call, estimated=True), messages[:end])
        turn.input_tokens = len(turn.prompt) // BYTES_PER_TOKEN
        turn.output_tokens = len(answer.encode()) // BYTES_PER_TOKEN
        yield turn
