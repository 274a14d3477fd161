"""The HTTP surface: read and refuse, then hand one `Call` to the cascade and its frames to `Released`.

Nothing is decided here. Bodies are read within a limit, errors are rendered in OpenAI's shape in one place, and
whatever the request carries besides the allow-listed fields ends in this file.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from routing.cost import CostConfig
from routing.features import request_features, steering_attempt
from routing.schema import Api, Record, RequestedModel, RequestRecord, Tier
from serving.budget_desk import add_budget_routes
from serving.budgets import Budgets, within_budget
from serving.cascade import Sections, answer
from serving.dashboard import Live, add_dashboard_routes
from serving.errors import (
    BodyTooLarge,
    ClientGone,
    Forbidden,
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
    QueueFull,
    StackError,
    UnsupportedMedia,
)
from serving.idempotency import HEADER as IDEMPOTENCY_HEADER
from serving.idempotency import IdempotencyStore, Replay, Token
from serving.keys import KeyRing, Principal, tenant_salt
from serving.learning.feedback import FeedbackBody, FeedbackDesk
from serving.learning.sampler import Sampler
from serving.ledger.writer import Ledger
from serving.openai_schema import (
    ChatCompletionBody,
    CompletionBody,
    WireLimits,
    read_chat,
    read_completion,
    request_body_openapi,
    requested_model,
    to_call_body,
)
from serving.release import ReleaseConfig, Released, retry_headers, send_json
from serving.releases import Releases
from serving.telemetry import Telemetry
from serving.tiers import Call, DraftEngine, Frame, RouterModel, Tiers
from serving.trace import METADATA_VERSION, RequestTrace

ANSWERING_PATHS = {"/v1/chat/completions": Api.CHAT, "/v1/completions": Api.COMPLETIONS}
MAX_ID_CHARS = 128
LOAD_TIMEOUT_S = 1.0


class GatewayConfig(Record):
    """Where the stack listens and what it refuses at the door."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_body_bytes: int = Field(10 * 2**20, ge=1024)
    max_concurrent_requests: int = Field(256, ge=1, description="answered at once by one ingress process; then 429")
    request_deadline_s: float = Field(300, gt=0, description="nobody waits longer for one answer")
    probe_ttl_s: float = Field(10, ge=0, description="how long a readiness probe's result is reused")
    probe_timeout_s: float = Field(30, gt=0)
    replicas: int = Field(1, ge=1, description="ingress processes")
    drain_s: float = Field(20, gt=0, description="a gateway that is replaced may finish its requests for so long")
    keys_file: Path | None = Field(None, description="hashed API keys; required when host is not loopback")
    secret_file: Path = Field(Path(".cache/tierwise/secret"), description="where the tenants' salts are derived from")
    wire: WireLimits = WireLimits()


class Tokenizer(Protocol):
    """What renders a prompt into tier 1's token ids (serving/tokenizer.py)."""

    vocab_size: int

    async def render(self, api: Api, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """Ids of the whole prompt. Raises ContextLengthExceeded, InvalidRequest."""
        ...

    def count(self, text: str) -> int:
        """Tokens of one text, for usage that nobody else reports."""
        ...


@dataclass
class Stack:
    """What one ingress process holds, built once (serving/app.py) and passed in."""

    tiers: Tiers
    tokenizer: Tokenizer
    ledger: Ledger
    keys: KeyRing
    salt_secret: bytes
    releases: Releases
    release: ReleaseConfig
    gateway: GatewayConfig
    cost: CostConfig
    telemetry: Telemetry
    idempotency: IdempotencyStore
    sampler: Sampler
    feedback: FeedbackDesk
    budgets: Budgets
    close: Callable[[], Awaitable[None]]
    replica_id: str | None = None  # where several ingress processes share one address
    probes: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    probe_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def settle(self, row: RequestRecord) -> None:
        """Book and count one finished request."""
        self.ledger.record(row)
        self.budgets.settle(row)
        self.telemetry.observe(row)


def build_app(stack: Stack) -> FastAPI:
    """The ASGI application of one ingress process."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        stack.sampler.start()
        stack.releases.start()
        yield
        await stack.close()

    app = FastAPI(title="Tierwise", version=METADATA_VERSION, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.router.lifespan_context = lifespan
    app.add_middleware(Admission, limit=stack.gateway.max_concurrent_requests, telemetry=stack.telemetry)
    app.add_exception_handler(StackError, on_stack_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_bug)

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": request_body_openapi(ChatCompletionBody)})
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation with the cheapest tier that will answer it well."""
        return await complete(stack, request, Api.CHAT)

    @app.post("/v1/completions", openapi_extra={"requestBody": request_body_openapi(CompletionBody)})
    async def completions(request: Request) -> Response:
        """Continue one prompt."""
        return await complete(stack, request, Api.COMPLETIONS)

    @app.post("/v1/feedback", openapi_extra={"requestBody": request_body_openapi(FeedbackBody)})
    async def feedback(request: Request) -> JSONResponse:
        """Say of one of your requests whether its answer was good, or what it should have been."""
        principal = stack.keys.authenticate(request.headers.get("authorization"))
        raw = await read_body(request, stack.gateway.max_body_bytes)
        return JSONResponse(await stack.feedback.take(raw, principal.tenant))

    add_budget_routes(app, stack.keys, stack.budgets)
    add_dashboard_routes(app, stack.ledger.config, live(stack))

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        """The model names a request may ask for."""
        stack.keys.authenticate(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [model_card(name) for name in RequestedModel]})

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> JSONResponse:
        """One of them."""
        stack.keys.authenticate(request.headers.get("authorization"))
        if name not in set(RequestedModel):
            raise NotFound(f"the model {name[:MAX_ID_CHARS]!r} does not exist", param="model")
        return JSONResponse(model_card(RequestedModel(name)))

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """This process runs."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Each tier has generated a token just now (or within probe_ttl_s)."""
        tiers = await probe_tiers(stack)
        ready = all(error is None for error in tiers.values()) and stack.ledger.ready()
        states = {name: error or "ok" for name, error in tiers.items()}
        return JSONResponse({"status": "ready" if ready else "not ready", "tiers": states}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text; needs an admin key where keys are in use."""
        if not stack.keys.authenticate(request.headers.get("authorization")).admin:
            raise Forbidden("metrics need an admin key")
        await show_load(stack)
        return Response(stack.telemetry.render(stack.replica_id), media_type="text/plain; version=0.0.4")

    return app


async def complete(stack: Stack, request: Request, api: Api) -> Released:
    """Read, check, tokenize once, and let the cascade answer."""
    arrived = time.perf_counter()
    principal = stack.keys.authenticate(request.headers.get("authorization"))
    if not stack.ledger.ready():
        raise LedgerUnavailable("the ledger cannot book this request and the stack is configured to refuse then")
    raw = await read_body(request, stack.gateway.max_body_bytes)
    request_id = uuid.uuid4().hex  # never the client's: two tenants may send the same one
    running = stack.releases.pick(request_id)  # to the end of this request, whatever is promoted meanwhile
    call = await make_call(stack, principal, api, raw, request, arrived, request_id, running.sections)
    client_id = header_id(request, "x-request-id") or call.request_id
    claim = claim_key(stack, request, call, raw)
    if isinstance(claim, Replay):
        return Released(
            replayed(claim),
            stream=call.stream,
            include_usage=call.include_usage,
            headers=lambda: {"x-request-id": client_id, "x-tierwise-replayed": "true"},
            metadata=lambda: {"version": METADATA_VERSION, "replayed": True, "cost_usd": 0.0},
            config=stack.release,
        )
    trace = RequestTrace(call, running.config_hash, stack.cost, started=arrived)
    watched = stack.sampler.begin(call)
    settle = stack.settle if watched is None else watched.settling(stack.settle)
    frames = within_budget(
        stack.budgets, principal, trace, settle, lambda call: answer(call, stack.tiers, trace, settle, running.sections)
    )
    frames = frames if watched is None else watched.frames(frames, trace)
    return Released(
        frames if claim is None else kept(frames, claim),
        stream=call.stream,
        include_usage=call.include_usage,
        headers=lambda: {"x-request-id": client_id, **decision_headers(trace)},
        metadata=trace.metadata,
        config=stack.release,
    )


async def make_call(
    stack: Stack,
    principal: Principal,
    api: Api,
    raw: bytes,
    request: Request,
    arrived: float,
    request_id: str,
    sections: Sections,
) -> Call:
    """The validated body, the one tokenization, the features and the server's own identifiers of one request."""
    read = read_chat if api is Api.CHAT else read_completion
    wire: ChatCompletionBody | CompletionBody = read(raw, stack.gateway.wire, stack.tokenizer.vocab_size)
    model, body = requested_model(wire), to_call_body(wire)
    longest = max(stack.tiers.tier1.max_context_tokens, stack.tiers.frontier.max_context_tokens)
    ids = await stack.tokenizer.render(api, body, longest)
    hint = {"metadata": wire.metadata} if isinstance(wire, ChatCompletionBody) else {}
    if steering_attempt(last_text(body)):
        stack.telemetry.steering.inc()
    return Call(
        request_id=request_id,
        tenant=principal.tenant,
        api=api,
        model=model,
        body=body,
        features=request_features({**body, **hint}, api, len(ids), sections.policy),
        prompt_token_ids=ids,
        cache_salt=tenant_salt(stack.salt_secret, principal.tenant),
        deadline=arrived + stack.gateway.request_deadline_s,
        stream=bool(wire.stream),
        include_usage=bool(wire.stream_options and wire.stream_options.include_usage),
        session_id=header_id(request, "x-session-id"),
    )


def last_text(body: Mapping[str, Any]) -> str:
    """The newest text of the client: the last message, or the prompt."""
    text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return text if isinstance(text, str) else ""


def claim_key(stack: Stack, request: Request, call: Call, raw: bytes) -> Replay | Token | None:
    """The right to run a request that carries an idempotency key, or its answer; None without a key."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return None
    return stack.idempotency.begin(call.tenant, key, hashlib.sha256(call.api.encode() + raw).hexdigest())


async def kept(frames: AsyncGenerator[Frame, None], token: Token) -> AsyncGenerator[Frame, None]:
    """The frames, remembered for a retry once they are complete."""
    seen: list[Frame] = []
    try:
        async with aclosing(frames):
            async for frame in frames:
                seen.append(frame)
                yield frame
        token.finish(seen)
    finally:
        token.abandon()


async def replayed(replay: Replay) -> AsyncGenerator[Frame, None]:
    """The frames of an earlier answer; nobody is called and nothing is billed."""
    for frame in replay.frames:
        yield frame


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body, given up on at the first byte past the limit. Raises BodyTooLarge, UnsupportedMedia."""
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
    """A client's identifier, if it is one we can safely echo: printable ASCII, at most 128 characters."""
    value = request.headers.get(name)
    return value if value and fits_header(value) else None


def fits_header(value: str) -> bool:
    """Whether a text that somebody else chose can be a header: printable ASCII, at most 128 characters."""
    return len(value) <= MAX_ID_CHARS and value.isascii() and value.isprintable()


def decision_headers(trace: RequestTrace) -> dict[str, str]:
    """At most ten x-tierwise-* headers; what is not known yet when headers leave is in the last chunk instead."""
    known = {
        "version": METADATA_VERSION,
        "request-id": trace.call.request_id,
        "config": trace.config_hash,
        "category": trace.call.features.category,
        "tier": trace.served.tier if trace.served else None,
        "model": trace.served.model if trace.served else None,
        "decision": trace.decision.reason if trace.decision else None,
        "verdict": None if trace.verdict is None else ("accepted" if trace.verdict.accepted else "rejected"),
        "degraded": "true" if trace.degraded else None,
    }
    # A provider's name for its model and a configured category are anybody's words; the metadata has them unchanged.
    return {f"x-tierwise-{name}": value for name, value in known.items() if value is not None and fits_header(value)}


def model_card(name: RequestedModel) -> dict[str, Any]:
    """OpenAI's model object; created is 0 because these are policies, not artefacts."""
    return {"id": name.value, "object": "model", "created": 0, "owned_by": "tierwise"}


def live(stack: Stack) -> Live:
    """What the dashboard may ask about this moment."""
    engines = {Tier.TIER1: stack.tiers.tier1.stats}
    if stack.tiers.router is not None:
        engines[Tier.ROUTER] = stack.tiers.router.stats
    return Live(
        stack.keys,
        stack.budgets,
        engines,
        lambda: stack.telemetry.in_flight_now,
        stack.telemetry.boards,
        stack.releases.registry,
    )


async def show_load(stack: Stack) -> None:
    """Put the engines' load into the metrics; an engine that does not answer at once keeps its last figures."""
    engines: dict[Tier, DraftEngine | RouterModel | None] = {
        Tier.TIER1: stack.tiers.tier1,
        Tier.ROUTER: stack.tiers.router,
    }
    for tier, engine in engines.items():
        if engine is not None:
            with contextlib.suppress(StackError, TimeoutError):
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    stack.telemetry.load(tier, await engine.stats())


async def probe_tiers(stack: Stack) -> dict[str, str | None]:
    """Per tier None or the code of what is wrong; asked again at most every probe_ttl_s."""
    probes = {"tier1": stack.tiers.tier1.probe, "frontier": stack.tiers.frontier.probe}
    if stack.tiers.router is not None:
        probes["router"] = stack.tiers.router.probe
    async with stack.probe_lock:
        return dict(zip(probes, await asyncio.gather(*(probe(stack, n, p) for n, p in probes.items())), strict=True))


async def probe(stack: Stack, name: str, generate_token: Callable[[], Awaitable[None]]) -> str | None:
    """None when the tier generated a token, else an error code."""
    at, result = stack.probes.get(name, (None, None))
    if at is not None and time.perf_counter() - at < stack.gateway.probe_ttl_s:
        return result
    try:
        async with asyncio.timeout(stack.gateway.probe_timeout_s):
            await generate_token()
        result = None
    except StackError as error:
        result = error.code
    except TimeoutError:
        result = "timeout"
    stack.probes[name] = (time.perf_counter(), result)
    return result


class Admission:
    """ASGI middleware: at most `limit` answers in the making; further ones get 429 before their body is read."""

    def __init__(self, app: ASGIApp, limit: int, telemetry: Telemetry) -> None:
        self._app, self._limit, self._telemetry = app, limit, telemetry
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http" or scope["path"] not in ANSWERING_PATHS:
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._limit:
            self._telemetry.refused.inc()
            error = QueueFull(f"{self._limit} requests are being answered already; retry shortly", retry_after_s=1)
            await send_json(send, error.http_status, error.body(), retry_headers(error))
            return
        self._in_flight += 1
        self._telemetry.in_flight.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._telemetry.in_flight.dec()


async def on_stack_error(_: Request, error: Exception) -> Response:
    """A named error: its own status, OpenAI's shape."""
    assert isinstance(error, StackError)
    headers = {**retry_headers(error), **({"connection": "close"} if error.closes else {})}
    return JSONResponse(error.body(), error.http_status, headers)


async def on_http_error(_: Request, error: Exception) -> Response:
    """What the web framework refuses by itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    named = NotFound("no such path") if error.status_code == 404 else InvalidRequest(str(error.detail))
    return JSONResponse(named.body(), error.status_code, dict(error.headers or {}))


async def on_bug(_: Request, error: Exception) -> Response:
    """Anything else is our bug: logged by the server, answered without a detail."""
    return JSONResponse(StackError("internal error").body(), 500)
