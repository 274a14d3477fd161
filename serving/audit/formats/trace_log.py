"""Traces in Mooncake's form: arrival, lengths and one id per prompt block, no texts."""

from typing import Annotated

import msgspec

from serving.audit.formats.call import BadRow, Call

MODEL = "(trace)"


class TraceLine(msgspec.Struct, gc=False):
    """One request. timestamp: milliseconds since the trace's start."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1)]
    output_length: Annotated[int, msgspec.Meta(ge=0)]
    hash_ids: list[Annotated[int, msgspec.Meta(ge=0, lt=2**32)]]


_decode = msgspec.json.Decoder(TraceLine).decode


class TraceReader:
    """Reads lines of a trace whose blocks hold so many tokens and whose requests went to one model."""

    def __init__(self, block_size_tokens: int, model: str | None) -> None:
        """model: whose price the requests pay, as a trace names none. None: no price."""
        self._block_size_tokens, self._model = block_size_tokens, model or MODEL

    def __call__(self, line: bytes) -> tuple[Call]:
        """The call of one line. Raises BadRow, msgspec.DecodeError."""
        row = _decode(line)
        full = row.input_length // self._block_size_tokens
        if len(row.hash_ids) < full:
            raise BadRow("hash_ids", f"{len(row.hash_ids)} ids for {full} full blocks of {self._block_size_tokens}")
        return (
            Call(
                self._model,
                row.input_length,
                row.output_length,
                row.timestamp / 1000,
                block_ids=row.hash_ids[:full],
            ),
        )
