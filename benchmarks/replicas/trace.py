"""Read a request trace in Mooncake's form: one JSON object a line with timestamp, lengths and prefix block ids.

Such traces are published with the Mooncake paper (kvcache-ai/Mooncake, FAST25 release). One's own logs serve as well:
`timestamp` in milliseconds, `input_length` and `output_length` in tokens, `hash_ids` one id per block of the prompt,
equal ids for equal prefixes.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from routing.replicas.kv_blocks import block_keys, root_key


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request. keys: of its full blocks in prompt order. session: number of the conversation it belongs to."""

    at_s: float
    input_tokens: int
    output_tokens: int
    keys: tuple[int, ...]
    session: int


def read_trace(path: Path, block_size_tokens: int = 512, speed: float = 1.0) -> list[TraceRequest]:
    """All requests in order of arrival, the first one at 0 s. With speed 2 they come twice as fast.

    Raises ValueError with the line number for a line that is not such a request.
    """
    rows: list[tuple[float, int, int, list[int]]] = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                at_s, length = float(row["timestamp"]) / 1000, int(row["input_length"])
                ids = [int(block) for block in row["hash_ids"][: length // block_size_tokens]]
                rows.append((at_s, length, int(row["output_length"]), ids))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not a trace request: {error!r}") from error
            if length < 1 or len(ids) < length // block_size_tokens:
                raise ValueError(
                    f"{path}, line {number}: {length} tokens need {length // block_size_tokens} full blocks of "
                    f"{block_size_tokens}, hash_ids has {len(row['hash_ids'])}"
                )
    rows.sort(key=lambda row: row[0])
    root = root_key("trace")
    sessions = _Sessions()
    requests = []
    for at_s, input_tokens, output_tokens, ids in rows:
        # An id of the trace stands for a whole block's content: it is hashed as a block of one token would be.
        keys = tuple(block_keys(ids, 1, root))
        requests.append(
            TraceRequest((at_s - rows[0][0]) / speed, input_tokens, max(1, output_tokens), keys, sessions.of(keys))
        )
    return requests


class _Sessions:
    """Tells conversations apart, which a trace does not: a request continues the prompt whose blocks it repeats."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._ends: dict[int, int] = {}
        self._count = 0

    def of(self, keys: tuple[int, ...]) -> int:
        """The session of the next request of the trace."""
        session = next((self._ends[key] for key in reversed(keys) if key in self._ends), None)
        if session is None:
            session, self._count = self._count, self._count + 1
        # A prompt that brought nothing new is a shared beginning (a system prompt), which names no conversation.
        if keys and keys[-1] not in self._seen:
            self._ends[keys[-1]] = session
        self._seen.update(keys)
        return session
