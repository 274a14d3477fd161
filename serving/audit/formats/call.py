"""One logged call of a model in any log format, and the rows that could not be read as calls."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

NO_TENANT = "(no tenant)"
EXAMPLES = 20
BYTES_PER_TOKEN = 4  # of English text and of JSON. Logs without token ids are cut into blocks by it
EARLIEST_S, LATEST_S = 946_684_800.0, 4_102_444_800.0  # the years 2000 to 2100


class BadRow(Exception):
    """A line that is not a call. field: where the fault is, as a path from the line's root."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


class LoggedRequest(msgspec.Struct, gc=False):
    """The parts of a request that tell its kind of work. Their JSON is decoded only when it is read."""

    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    response_format: msgspec.Raw = msgspec.Raw(b"")

    def body(self) -> dict[str, Any]:
        """The request as routing/ladder/features.py reads it."""
        parts = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: msgspec.json.decode(raw) for name, raw in parts.items() if raw}


class Call(msgspec.Struct, gc=False):
    """One call. Tokens are those that were billed. cached_tokens and cache_write_tokens are parts of input_tokens.

    at_s: seconds since 1970, or since the log's start for traces. None: not logged. category None: not named.
    recorded_usd: the log's own figure, used instead of the price table. unpriced: the log's price is unknown.
    frontier_usd: what the request would have cost at the frontier, as the log has it (ledgers).
    failed: the request failed. Set only on the call that counts as the request.
    is_request: False for a further attempt of a request that another call already counts.
    prompt: bytes whose common beginnings are common prompt prefixes. block_ids: the same, already cut (traces).
    """

    model: str
    input_tokens: int
    output_tokens: int
    at_s: float | None = None
    provider: str | None = None
    tenant: str = NO_TENANT
    category: str | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    batch: bool = False
    estimated: bool = False
    failed: bool = False
    is_request: bool = True
    recorded_usd: float | None = None
    unpriced: bool = False
    frontier_usd: float | None = None
    prompt: bytes = b""
    block_ids: list[int] | None = None
    request: LoggedRequest | None = None


# What a log format is: one line to its calls. Raises BadRow or msgspec.DecodeError.
LineReader = Callable[[bytes], Iterable[Call]]


class BadRows:
    """Counts every row that was left out, keeps the first ones by line, and writes all of them when told to."""

    def __init__(self, out: TextIO | None = None) -> None:
        """out: gets one JSON object for each bad row."""
        self.count = 0
        self.examples: list[dict[str, object]] = []
        self.by_field: Counter[str] = Counter()
        self._out = out

    def add(self, line: int, error: Exception) -> None:
        """Count a bad row: BadRow, or msgspec's error, whose message ends with the path."""
        if isinstance(error, BadRow):
            field, problem = error.field, error.problem
        else:
            problem, _, path = str(error).partition(" - at `")
            field = path.rstrip("`").removeprefix("$").lstrip(".") or "(line)"
        self.count += 1
        # A path may hold keys of the user's own. Only a bounded number of paths is told apart.
        known = field in self.by_field or len(self.by_field) < EXAMPLES
        self.by_field[field if known else "(other fields)"] += 1
        row: dict[str, object] = {"line": line, "field": field, "problem": problem[:200]}
        if len(self.examples) < EXAMPLES:
            self.examples.append(row)
        if self._out is not None:
            self._out.write(json.dumps(row) + "\n")

    def summary(self) -> dict[str, object]:
        """For the JSON document."""
        return {"count": self.count, "by_field": dict(self.by_field), "first": self.examples}


def seconds(value: float | str | None, field: str) -> float | None:
    """A moment in seconds since 1970 from seconds, milliseconds, microseconds or ISO 8601 (UTC when it names no zone).

    Raises BadRow for anything else, and for moments outside the years 2000 to 2100.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
            moment = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            try:
                moment = float(value)
            except ValueError:
                raise BadRow(field, f"{value[:40]!r} is neither ISO 8601 nor a number") from None
    else:
        moment = float(value)
    if moment > 1e14:
        moment *= 1e-6
    elif moment > 1e11:
        moment *= 1e-3
    if not EARLIEST_S <= moment <= LATEST_S:
        raise BadRow(field, f"{value!r} is not between the years 2000 and 2100, in s, ms or us")
    return moment
