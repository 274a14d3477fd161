"""The HTTP routes of budgets. Each key sees its own, an admin key sees and sets all."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from routing.cost.budget import Budget, BudgetState, Period, Scope, window_end
from serving.access.budgets import Budgets, utc_now
from serving.access.keys import KeyRing, Principal
from serving.api.json_body import parse_body
from serving.errors import Forbidden, InvalidRequest, NotFound

MAX_BODY_BYTES = 4096


def add_budget_routes(app: FastAPI, keys: KeyRing, budgets: Budgets) -> None:
    """`/v1/budgets` for everybody, `/admin/budgets` for admin keys."""
    router = APIRouter(include_in_schema=False)

    def admin(request: Request) -> Principal:
        principal = keys.authenticate(request.headers.get("authorization"))
        if not principal.admin:
            raise Forbidden("budgets of others need an admin key")
        return principal

    @router.get("/v1/budgets")
    async def own(request: Request) -> JSONResponse:
        """The caller's tenant's and key's budgets."""
        principal = keys.authenticate(request.headers.get("authorization"))
        return listing(await budgets.states(principal.tenant, principal.key_id))

    @router.get("/v1/budgets/{tenant:path}")
    async def of_tenant(request: Request, tenant: str) -> JSONResponse:
        """The budgets of one tenant. For a key of another tenant they do not exist."""
        principal = keys.authenticate(request.headers.get("authorization"))
        if tenant != principal.tenant and not principal.admin:
            raise NotFound("no such budget")
        return listing(await budgets.states(tenant))

    @router.get("/admin/budgets")
    async def everybody(request: Request) -> JSONResponse:
        """Every budget there is."""
        admin(request)
        return listing(await budgets.states())

    @router.put("/admin/budgets")
    async def put(request: Request) -> JSONResponse:
        """Set a budget: {"scope", "subject", "period", "hard_usd", "soft_usd"}."""
        admin(request)
        budget = read_budget(await small_body(request))
        await budgets.put(budget)
        return JSONResponse(budget.model_dump(mode="json"))

    @router.delete("/admin/budgets/{scope}/{period}/{subject:path}")
    async def remove(request: Request, scope: str, period: str, subject: str) -> JSONResponse:
        """Remove a budget."""
        admin(request)
        if scope not in set(Scope) or period not in set(Period):
            raise NotFound("no such budget")
        if not await budgets.remove(Scope(scope), subject, Period(period)):
            raise NotFound("no such budget")
        return JSONResponse({"deleted": True})

    app.include_router(router)


async def small_body(request: Request) -> bytes:
    """The body. Raises InvalidRequest when it is larger than any budget."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > MAX_BODY_BYTES:
            raise InvalidRequest(f"a budget fits into {MAX_BODY_BYTES} bytes")
    return bytes(raw)


def read_budget(raw: bytes) -> Budget:
    """The budget of a body. Raises InvalidRequest naming the field."""
    try:
        return Budget.model_validate(parse_body(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequest(f"{param or 'budget'}: {first['msg']}", param=param) from None


def listing(states: list[BudgetState]) -> JSONResponse:
    """OpenAI's list object."""
    return JSONResponse({"object": "list", "data": [shown(state) for state in states]})


def shown(state: BudgetState) -> dict[str, Any]:
    """A budget as the API shows it."""
    return {
        "object": "budget",
        **state.budget.model_dump(mode="json"),
        "starts": state.starts.isoformat(),
        "ends": window_end(state.budget.period, utc_now()).isoformat(),
        "spent_usd": state.spent_usd,
        "reserved_usd": state.reserved_usd,
    }
