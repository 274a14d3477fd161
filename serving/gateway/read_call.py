"""Makes a `Call` of an HTTP request: reads its body within a limit, validates it and tokenizes it once."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from routing.ladder.features import request_features, steering_attempt
from routing.records import Api
from serving.access.keys import Principal, tenant_salt
from serving.api.chat import ChatCompletionBody, read_chat
from serving.api.completions import CompletionBody, read_completion
from serving.api.formats import requested_model, to_call_body
from serving.cascade.sections import Sections
from serving.errors import BodyTooLarge, ClientGone, UnsupportedMedia
from serving.gateway.gateway import Gateway
from serving.request.call import Call

MAX_ID_CHARS = 128


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Reading stops at the first byte past the limit.

    Raises BodyTooLarge, UnsupportedMedia, ClientGone.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("compressed bodies are not accepted; send the JSON uncompressed")
    if not request.headers.get("content-type", "application/json").lower().startswith("application/json"):
        raise UnsupportedMedia("send the request as content-type: application/json")
    too_large = BodyTooLarge(f"the body is larger than {limit_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    raw = bytearray()
    try:
        async for part in request.stream():
            raw += part
            if len(raw) > limit_bytes:
                raise too_large
    except ClientDisconnect as error:
        raise ClientGone("the client left before its request was complete") from error
    return bytes(raw)


def header_id(request: Request, name: str) -> str | None:
    """A client's identifier, if we can safely send it back: printable ASCII, at most 128 characters."""
    value = request.headers.get(name)
    return value if value and fits_header(value) else None


def fits_header(value: str) -> bool:
    """Whether a text can be a header: printable ASCII, at most 128 characters."""
    return len(value) <= MAX_ID_CHARS and value.isascii() and value.isprintable()


async def make_call(
    gateway: Gateway,
    principal: Principal,
    api: Api,
    raw: bytes,
    request: Request,
    arrived: float,
    request_id: str,
    sections: Sections,
) -> Call:
    """Validate and tokenize one request, compute its features and give it the server's own identifiers."""
    read = read_chat if api is Api.CHAT else read_completion
    wire: ChatCompletionBody | CompletionBody = read(raw, gateway.config.wire, gateway.tokenizer.vocab_size)
    model, body = requested_model(wire), to_call_body(wire)
    longest = max(gateway.tiers.tier1.max_context_tokens, gateway.tiers.frontier.max_context_tokens)
    ids = await gateway.tokenizer.render(api, body, longest)
    hint = {"metadata": wire.metadata} if isinstance(wire, ChatCompletionBody) else {}
    if steering_attempt(last_text(body)):
        gateway.telemetry.steering.inc()
    features = request_features({**body, **hint}, api, len(ids), sections.policy)
    return Call(
        request_id=request_id,
        tenant=principal.tenant,
        api=api,
        model=model,
        body=body,
        features=features,
        prompt_token_ids=ids,
        cache_salt=tenant_salt(gateway.salt_secret, principal.tenant),
        deadline=arrived + gateway.config.request_deadline_s,
        stream=bool(wire.stream),
        include_usage=bool(wire.stream_options and wire.stream_options.include_usage),
        session_id=header_id(request, "x-session-id"),
        adapter=sections.adapter_of(features.category),
    )


def last_text(body: Mapping[str, Any]) -> str:
    """The text of the last message, or the prompt."""
    text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return text if isinstance(text, str) else ""
