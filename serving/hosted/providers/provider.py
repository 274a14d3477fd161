"""Declares a provider for the hosted client: it takes one request and gives pieces of one answer in OpenAI's shape."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httpx2

from serving.hosted.config import ProviderConfig

# As in the openai SDK. A provider that keeps the connection open after its last event costs a connection, not time.
DRAIN_S = 0.1

Chunk = dict[str, Any]
"""A chat.completion.chunk as parsed JSON, without `usage`."""


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One chat request, the same for every provider that is tried.

    body: OpenAI chat body without model, stream and stream_options. cache_key: hex, stable per tenant and session.
    """

    body: Mapping[str, Any]
    request_id: str
    cache_key: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens as the provider reported them, as running totals. None: not (yet) reported.

    input_tokens includes the cached and the written ones, whatever the provider's own convention is.
    wire: the provider's own usage object when it already has OpenAI's shape.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    wire: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of an answer: a chunk, new counts, or nothing (a ping). done: the provider said it is complete."""

    chunk: Chunk | None = None
    counts: Counts | None = None
    done: bool = False


class Provider(Protocol):
    """One SDK client, built once."""

    config: ProviderConfig

    def stream(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Ask, and yield pieces as they come. Raises ProviderFault. Closing the generator closes the connection."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def count(value: Any) -> int | None:
    """A token count from the wire. None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def events_of(response: httpx2.Response) -> AsyncGenerator[httpx2.ServerSentEvent, None]:
    """The raw events of an open response. The SDKs' own decoders stop at the first bad one and hide `[DONE]`."""
    return cast("AsyncGenerator[httpx2.ServerSentEvent, None]", aiter(httpx2.EventSource(response)))


async def drain(events: AsyncIterator[httpx2.ServerSentEvent]) -> None:
    """Read to the end of a body whose answer is complete, so that the connection can be used again."""
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in events:
                pass
