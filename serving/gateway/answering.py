"""Lists the stations that a request passes, in order. Nothing is decided here."""

import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from fastapi import Request

from routing.records import Api
from serving.access.idempotency import HEADER as IDEMPOTENCY_HEADER
from serving.access.idempotency import Replay, Token
from serving.access.keys import Principal
from serving.cascade.answer import answer
from serving.cascade.exchange import Exchange
from serving.errors import LedgerUnavailable
from serving.gateway.gateway import Gateway
from serving.gateway.read_call import fits_header, header_id, make_call, read_body
from serving.gateway.response import AnswerResponse
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.trace import METADATA_VERSION, RequestTrace


@dataclass(slots=True)
class Answering(Exchange):
    """One request on its way through the stations.

    token: the right to run this request, None when it carries no idempotency key.
    """

    gateway: Gateway
    principal: Principal
    headers: Mapping[str, str]
    token: Token | None


Frames = AsyncGenerator[Frame, None]
Following = Callable[[], Frames]  # the rest of the way: what the next station yields


def kept_for_retries(exchange: Answering, following: Following) -> Frames:
    """Remember the frames of a request that carries an idempotency key."""
    return following() if exchange.token is None else kept(following(), exchange.token)


def seen_by_sampler(exchange: Answering, following: Following) -> Frames:
    """Offer a sampled request's answer for training once its last frame has left."""
    watched = exchange.gateway.sampler.begin(exchange.call)
    if watched is None:
        return following()
    exchange.settle = watched.settling(exchange.settle)
    return watched.frames(following(), exchange.trace)


def told_in_spans(exchange: Answering, following: Following) -> Frames:
    """Send the request's spans after its record was settled."""
    spans = exchange.gateway.spans
    if spans is not None:
        exchange.settle = spans.settling(exchange.settle, exchange.trace, exchange.headers)
    return following()


async def within_budget(exchange: Answering, following: Following) -> Frames:
    """Reserve what the request may cost. A request that its budget refuses is booked like any other that failed."""
    budgets, trace = exchange.gateway.budgets, exchange.trace
    try:
        try:
            trace.call = await budgets.admit(exchange.principal, exchange.call)
        except BaseException as error:
            trace.fail(error)
            exchange.settle(trace.settle())
            raise
        async with aclosing(following()) as frames:
            async for frame in frames:
                yield frame
    finally:
        budgets.release(exchange.call.request_id)  # nothing to do once the cascade has settled


STATIONS = (kept_for_retries, seen_by_sampler, told_in_spans, within_budget)  # the first is outermost


def frames_of(exchange: Answering) -> Frames:
    """What the client gets: the cascade's frames, through every station."""
    following: Following = partial(answer, exchange)
    for station in reversed(STATIONS):
        following = partial(station, exchange, following)
    return following()


async def complete(gateway: Gateway, request: Request, api: Api) -> AnswerResponse:
    """Read, check, tokenize once, and let the cascade answer."""
    arrived = time.perf_counter()
    principal = gateway.keys.authenticate(request.headers.get("authorization"))
    if not gateway.ledger.ready():
        raise LedgerUnavailable("the ledger cannot book this request and the stack is configured to refuse then")
    raw = await read_body(request, gateway.config.max_body_bytes)
    request_id = uuid.uuid4().hex  # never the client's: two tenants may send the same one
    running = gateway.releases.pick(request_id)  # to the end of this request, whatever is promoted meanwhile
    call = await make_call(gateway, principal, api, raw, request, arrived, request_id, running.sections)
    client_id = header_id(request, "x-request-id") or call.request_id
    claim = claim_key(gateway, request, call, raw)
    if isinstance(claim, Replay):
        return replay_response(gateway, call, claim, client_id)
    trace = RequestTrace(call, running.config_hash, gateway.cost, started=arrived)
    exchange = Answering(
        trace, gateway.tiers, running.sections, gateway.settle, gateway, principal, request.headers, claim
    )
    return AnswerResponse(
        frames_of(exchange),
        stream=call.stream,
        include_usage=call.include_usage,
        headers=lambda: {"x-request-id": client_id, **decision_headers(trace)},
        metadata=trace.metadata,
        config=gateway.response,
    )


def claim_key(gateway: Gateway, request: Request, call: Call, raw: bytes) -> Replay | Token | None:
    """The right to run a request that carries an idempotency key, or its earlier answer. None without a key."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return None
    return gateway.idempotency.begin(call.tenant, key, hashlib.sha256(call.api.encode() + raw).hexdigest())


async def kept(frames: Frames, token: Token) -> Frames:
    """The same frames. Once they are complete they are stored for a retry."""
    seen: list[Frame] = []
    try:
        async with aclosing(frames):
            async for frame in frames:
                seen.append(frame)
                yield frame
        token.finish(seen)
    finally:
        token.abandon()


def replay_response(gateway: Gateway, call: Call, replay: Replay, client_id: str) -> AnswerResponse:
    """Sends an earlier answer again. No model is called and nothing is billed."""
    return AnswerResponse(
        replayed(replay),
        stream=call.stream,
        include_usage=call.include_usage,
        headers=lambda: {"x-request-id": client_id, "x-tierwise-replayed": "true"},
        metadata=lambda: {"version": METADATA_VERSION, "replayed": True, "cost_usd": 0.0},
        config=gateway.response,
    )


async def replayed(replay: Replay) -> Frames:
    """The frames of an earlier answer."""
    for frame in replay.frames:
        yield frame


def decision_headers(trace: RequestTrace) -> dict[str, str]:
    """At most ten x-tierwise-* headers.

    A fact that is not known yet when the headers are sent is in the last chunk instead.
    """
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
    # A provider and an operator choose the names of models and categories. The metadata has them unchanged.
    return {f"x-tierwise-{name}": value for name, value in known.items() if value is not None and fits_header(value)}
