"""Asks Anthropic, and any server with its Messages API, through the anthropic SDK."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anthropic
import httpx2

from serving.hosted.config import ProviderConfig
from serving.hosted.faults import FOREIGN_ERRORS, safe_cause, translate, translate_event
from serving.hosted.providers.anthropic_events import AnthropicEvents
from serving.hosted.providers.anthropic_request import to_anthropic
from serving.hosted.providers.openai_provider import sdk_options
from serving.hosted.providers.provider import Piece, ProviderRequest, drain, events_of

NOT_AN_EVENT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class AnthropicProvider:
    """One provider of kind anthropic."""

    def __init__(self, config: ProviderConfig, connect_timeout_s: float, count_tokens: Callable[[str], int]) -> None:
        self.config = config
        self._count_tokens = count_tokens
        self._sdk = anthropic.AsyncAnthropic(
            base_url=config.base_url.rstrip("/").removesuffix("/v1"),
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False),
            open_telemetry=False,  # prompts must not go into traces
            **sdk_options(config, connect_timeout_s),
        )
        self._create = self._sdk.messages.with_streaming_response.create

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """See Provider."""
        params = to_anthropic(request.body, self.config, self._count_tokens)
        params = {self.config.rename_params.get(name, name): value for name, value in params.items()}
        events = AnthropicEvents(self.config.model)
        try:
            async with (
                self._create(
                    model=self.config.model,
                    max_tokens=params.pop("max_tokens"),
                    messages=params.pop("messages"),
                    stream=True,
                    extra_body=params,
                ) as response,
                aclosing(events_of(response.http_response)) as source,
            ):
                async for event in source:
                    for piece in self._pieces(events, event):
                        yield piece
                        if piece.done:
                            await drain(source)
                            return
        except FOREIGN_ERRORS as error:
            raise translate(error, self.config) from safe_cause(error, self.config)

    def _pieces(self, events: AnthropicEvents, event: httpx2.ServerSentEvent) -> list[Piece]:
        try:
            body = json.loads(event.data)
            if body["type"] == "error":
                raise translate_event(body, self.config)
            return list(events.pieces(body))
        except NOT_AN_EVENT:
            return [Piece()]  # one bad event is skipped. If it was the last one, the answer counts as cut.

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()
