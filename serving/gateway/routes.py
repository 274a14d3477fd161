"""The HTTP routes of the gateway, and the one place where errors are rendered in OpenAI's shape.

Nothing is decided here.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from routing.records import Api, RequestedModel, Tier
from serving.access.admission import Admission
from serving.api.chat import ChatCompletionBody
from serving.api.completions import CompletionBody
from serving.api.fields import request_body_openapi
from serving.api.http_json import retry_headers
from serving.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    StackError,
)
from serving.gateway.answering import complete
from serving.gateway.budget_routes import add_budget_routes
from serving.gateway.dashboard_routes import Live, add_dashboard_routes
from serving.gateway.gateway import Gateway
from serving.gateway.health import probe_tiers, show_load
from serving.gateway.read_call import MAX_ID_CHARS, read_body
from serving.learning.feedback import FeedbackBody
from serving.request.trace import METADATA_VERSION

ANSWERING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


def build_app(gateway: Gateway) -> FastAPI:
    """The ASGI application of one gateway process."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        gateway.sampler.start()
        gateway.releases.start()
        yield
        await gateway.close()

    app = FastAPI(title="Tierwise", version=METADATA_VERSION, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.router.lifespan_context = lifespan
    app.add_middleware(
        Admission, paths=ANSWERING_PATHS, limit=gateway.config.max_concurrent_requests, observer=gateway.telemetry
    )
    app.add_exception_handler(StackError, on_stack_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_bug)

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": request_body_openapi(ChatCompletionBody)})
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation with the cheapest tier that will answer it well."""
        return await complete(gateway, request, Api.CHAT)

    @app.post("/v1/completions", openapi_extra={"requestBody": request_body_openapi(CompletionBody)})
    async def completions(request: Request) -> Response:
        """Continue one prompt."""
        return await complete(gateway, request, Api.COMPLETIONS)

    @app.post("/v1/feedback", openapi_extra={"requestBody": request_body_openapi(FeedbackBody)})
    async def feedback(request: Request) -> JSONResponse:
        """Say of one of your requests whether its answer was good, or what it should have been."""
        principal = gateway.keys.authenticate(request.headers.get("authorization"))
        raw = await read_body(request, gateway.config.max_body_bytes)
        return JSONResponse(await gateway.feedback.take(raw, principal.tenant))

    add_budget_routes(app, gateway.keys, gateway.budgets)
    add_dashboard_routes(app, gateway.ledger.config, live(gateway))

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        """The model names a request may ask for."""
        gateway.keys.authenticate(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [model_card(name) for name in RequestedModel]})

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> JSONResponse:
        """One of them."""
        gateway.keys.authenticate(request.headers.get("authorization"))
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
        tiers = await probe_tiers(gateway)
        ready = all(error is None for error in tiers.values()) and gateway.ledger.ready()
        states = {name: error or "ok" for name, error in tiers.items()}
        return JSONResponse({"status": "ready" if ready else "not ready", "tiers": states}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text. Needs an admin key where keys are in use."""
        if not gateway.keys.authenticate(request.headers.get("authorization")).admin:
            raise Forbidden("metrics need an admin key")
        await show_load(gateway)
        return Response(gateway.telemetry.render(gateway.replica_id), media_type="text/plain; version=0.0.4")

    return app


def model_card(name: RequestedModel) -> dict[str, Any]:
    """OpenAI's model object. `created` is 0, because these are policies and not artefacts."""
    return {"id": name.value, "object": "model", "created": 0, "owned_by": "tierwise"}


def live(gateway: Gateway) -> Live:
    """Where the dashboard asks for the current state."""
    engines = {Tier.TIER1: gateway.tiers.tier1.stats}
    if gateway.tiers.router is not None:
        engines[Tier.ROUTER] = gateway.tiers.router.stats
    return Live(
        gateway.keys,
        gateway.budgets,
        engines,
        lambda: gateway.telemetry.in_flight_now,
        gateway.telemetry.trackers,
        gateway.releases.registry,
    )


async def on_stack_error(_: Request, error: Exception) -> Response:
    """A named error, with its own status and in OpenAI's shape."""
    assert isinstance(error, StackError)
    headers = {**retry_headers(error), **({"connection": "close"} if error.closes else {})}
    return JSONResponse(error.body(), error.http_status, headers)


async def on_http_error(_: Request, error: Exception) -> Response:
    """A request that the web framework refuses: an unknown path or method."""
    assert isinstance(error, HTTPException)
    named = NotFound("no such path") if error.status_code == 404 else InvalidRequest(str(error.detail))
    return JSONResponse(named.body(), error.status_code, dict(error.headers or {}))


async def on_bug(_: Request, error: Exception) -> Response:
    """Anything else is a bug of ours. The server logs it and the client sees no detail."""
    return JSONResponse(StackError("internal error").body(), 500)
