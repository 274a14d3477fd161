"""Asks OpenAI, and any server with its chat completions API (such as vLLM), through the openai SDK."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx2
import openai
from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic needs it below Python 3.12

from serving.hosted.config import ProviderConfig
from serving.hosted.faults import FOREIGN_ERRORS, safe_cause, translate, translate_event
from serving.hosted.providers.provider import Counts, Piece, ProviderRequest, count, drain, events_of

OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")
WRITE_TIMEOUT_S = 30.0  # for the request body. HostedClient has the timeouts of the answer.


class _Function(TypedDict, total=False):
    name: str | None
    arguments: str | None


class _ToolCall(TypedDict, total=False):
    index: int
    id: str | None
    function: _Function | None


class _Delta(TypedDict, total=False):
    content: str | None
    tool_calls: list[_ToolCall] | None


class _Token(TypedDict):
    token: str
    logprob: float


class _Logprobs(TypedDict, total=False):
    content: list[_Token] | None


class _Choice(TypedDict, total=False):
    index: int
    delta: _Delta | None
    logprobs: _Logprobs | None
    finish_reason: str | None


class _Chunk(TypedDict, total=False):
    id: str
    model: str
    choices: list[_Choice]


WIRE_CHUNK = TypeAdapter(_Chunk)
"""The fields of a chunk that are read here. Providers add fields of their own, which are passed on."""


def sdk_options(config: ProviderConfig, connect_timeout_s: float) -> dict[str, Any]:
    """The options of both SDKs: no retries and no read timeout of their own."""
    timeout = httpx2.Timeout(None, connect=connect_timeout_s, write=WRITE_TIMEOUT_S, pool=connect_timeout_s)
    return {"api_key": config.api_key.get_secret_value(), "max_retries": 0, "timeout": timeout}


class OpenAIProvider:
    """One provider of kind openai."""

    def __init__(self, config: ProviderConfig, connect_timeout_s: float) -> None:
        self.config = config
        self._sdk = openai.AsyncOpenAI(
            base_url=config.base_url,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # a redirect would carry the key away
            **sdk_options(config, connect_timeout_s),
        )
        # Resolved now, because the SDK imports its resources on first use, which would stop the event loop for 0.3 s.
        self._create = self._sdk.chat.completions.with_streaming_response.create

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """See Provider."""
        params = openai_params(request, self.config)
        try:
            async with (
                self._create(
                    model=self.config.model,
                    messages=params.pop("messages"),
                    stream=True,
                    extra_body=params,
                    extra_headers={"X-Client-Request-Id": request.request_id},
                ) as response,
                aclosing(events_of(response.http_response)) as events,
            ):
                async for event in events:
                    if event.data.startswith("[DONE]"):
                        yield Piece(done=True)
                        await drain(events)
                        return
                    yield self._piece(event.data)
        except FOREIGN_ERRORS as error:
            raise translate(error, self.config) from safe_cause(error, self.config)

    def _piece(self, data: str) -> Piece:
        try:
            chunk = json.loads(data)
            if isinstance(chunk, dict) and chunk.get("error"):
                raise translate_event(chunk, self.config)
            WIRE_CHUNK.validate_python(chunk)
        except (ValueError, RecursionError):  # of either library
            return Piece()  # one bad chunk is skipped. If it was the last one, the answer counts as cut.
        usage = chunk.pop("usage", None)
        return Piece(chunk=chunk, counts=openai_counts(usage) if isinstance(usage, dict) else None)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.close()


def openai_params(request: ProviderRequest, config: ProviderConfig) -> dict[str, Any]:
    """The body as this provider takes it: limits cut, refused fields dropped, fields renamed."""
    params = {**request.body, "stream_options": {"include_usage": True}}
    params = {name: value for name, value in params.items() if name not in config.drop_params}
    for name in OUTPUT_LIMITS:
        if config.max_output_tokens is not None and params.get(name) is not None:
            params[name] = min(params[name], config.max_output_tokens)
    if config.send_cache_key:
        params["prompt_cache_key"] = request.cache_key
    return {config.rename_params.get(name, name): value for name, value in params.items()}


def openai_counts(usage: Mapping[str, Any]) -> Counts:
    """OpenAI's usage: prompt_tokens already includes the cached ones."""
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    return Counts(
        input_tokens=count(usage.get("prompt_tokens")),
        output_tokens=count(usage.get("completion_tokens")),
        cached_tokens=count(details.get("cached_tokens")),
        cache_write_tokens=count(details.get("cache_write_tokens")),
        wire=usage,
    )
