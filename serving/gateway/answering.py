"""The stations of one request, in their order. Nothing is decided here."""

import hashlib
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request

from routing.records import Api
from serving.access.budgets import within_budget
from serving.access.idempotency import HEADER as IDEMPOTENCY_HEADER
from serving.access.idempotency import Replay, Token
from serving.cascade.answer import answer
from serving.errors import LedgerUnavailable
from serving.gateway.gateway import Gateway
from serving.gateway.read_call import fits_header, header_id, make_call, read_body
from serving.gateway.response import AnswerResponse
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.trace import METADATA_VERSION, RequestTrace


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
        return AnswerResponse(
            replayed(claim),
            stream=call.stream,
            include_usage=call.include_usage,
            headers=lambda: {"x-request-id": client_id, "x-tierwise-replayed": "true"},
            metadata=lambda: {"version": METADATA_VERSION, "replayed": True, "cost_usd": 0.0},
            config=gateway.response,
        )
    trace = RequestTrace(call, running.config_hash, gateway.cost, started=arrived)
    watched = gateway.sampler.begin(call)
    settle = gateway.settle if watched is None else watched.settling(gateway.settle)
    if gateway.spans is not None:
        settle = gateway.spans.settling(settle, trace, request.headers)
    frames = within_budget(
        gateway.budgets,
        principal,
        trace,
        settle,
        lambda call: answer(call, gateway.tiers, trace, settle, running.sections),
    )
    frames = frames if watched is None else watched.frames(frames, trace)
    return AnswerResponse(
        frames if claim is None else kept(frames, claim),
        stream=call.stream,
        include_usage=call.include_usage,
        headers=lambda: {"x-request-id": client_id, **decision_headers(trace)},
        metadata=trace.metadata,
        config=gateway.response,
    )


def claim_key(gateway: Gateway, request: Request, call: Call, raw: bytes) -> Replay | Token | None:
    """The right to run a request that carries an idempotency key, or its answer; None without a key."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return None
    return gateway.idempotency.begin(call.tenant, key, hashlib.sha256(call.api.encode() + raw).hexdigest())


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
