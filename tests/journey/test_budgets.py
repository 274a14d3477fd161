"""Budgets end to end: who is let in, what a limit does, what is freed, and who may see and set them."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from routing.records import RequestOutcome
from serving.access.keys import KeyEntry, new_key
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import error, ok, stall

CEILING = {"input_usd": 20.0, "output_usd": 80.0, "source": "ceiling", "as_of": "2026-11-01"}
PROMPT_TOKENS = 3  # "role hello there"
ANSWER_USD = (10 * 2 + 100 * 8) * 1e-6


def answer(**options: Any) -> Any:
    """A frontier answer of known cost."""
    return ok(" ".join(["word"] * 100), input_tokens=10, **options)


async def set_budget(g: Gateway, headers: dict[str, str] | None = None, **budget: Any) -> None:
    budget = {"scope": "tenant", "subject": "local", "period": "day", **budget}
    assert g.stack.ledger.wait_up(5)
    reply = await g.http.put("/admin/budgets", json=budget, headers=headers)
    assert reply.status_code == 200, reply.text


async def used(g: Gateway) -> tuple[float, float]:
    (budget,) = (await g.http.get("/v1/budgets")).json()["data"]
    return budget["spent_usd"], budget["reserved_usd"]


async def settled(g: Gateway, within_s: float = 5) -> tuple[float, float]:
    """What is used once nothing is reserved any more."""
    until = time.perf_counter() + within_s
    while True:
        now = await used(g)
        if not now[1] or time.perf_counter() > until:
            return now


async def test_request_without_a_budget_is_answered_as_ever(g: Gateway) -> None:
    assert (await g.chat()).status_code == 200


async def test_what_an_answer_cost_is_spent(g: Gateway) -> None:
    await set_budget(g, hard_usd=1)
    g.upstream.script(answer())
    assert (await g.chat(model="frontier", max_tokens=200)).status_code == 200
    assert await settled(g) == (pytest.approx(ANSWER_USD, abs=1e-12), 0)
    assert (await g.row()).cost_usd == pytest.approx(ANSWER_USD)


async def test_budget_that_is_used_up_refuses_in_openais_shape(g: Gateway) -> None:
    await set_budget(g, hard_usd=ANSWER_USD / 2)
    g.upstream.script(answer())
    assert (await g.chat(model="frontier", max_tokens=200)).status_code == 200
    await settled(g)
    refused = await g.chat(model="frontier", max_tokens=200)
    assert refused.status_code == 402
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert int(refused.headers["retry-after"]) <= 24 * 3600
    row = await g.row(1)
    assert (row.outcome, row.status, row.error, row.attempts) == (RequestOutcome.ERROR, 402, "budget_exceeded", ())
    metrics = (await g.http.get("/metrics")).text
    assert 'tierwise_budget_limits_total{action="refuse",scope="tenant"} 1.0' in metrics
    assert g.upstream.calls == 1


async def test_hundred_at_once_overspend_by_at_most_one_reservation(start: StartGateway) -> None:
    """100 parallel requests on a key with budget for 1."""
    async with start(frontier={"ttft_timeout_s": 20}) as g:
        await set_budget(g, hard_usd=ANSWER_USD)
        g.upstream.always(answer(first_token_delay_s=0.05))
        replies = await asyncio.gather(*(g.chat(model="frontier", max_tokens=100) for _ in range(100)))
        answered = [reply for reply in replies if reply.status_code == 200]
        assert len(answered) == 1
        assert {reply.status_code for reply in replies} <= {200, 402, 429}
        assert {reply.json()["error"]["code"] for reply in replies if reply.status_code == 429} <= {"budget_reserved"}
        assert (await settled(g))[0] == pytest.approx(ANSWER_USD)
        assert g.upstream.calls == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_two_gateways_on_one_ledger_share_the_budget(start: StartGateway, stream: bool) -> None:
    """Parallel requests on one budget, with two gateway processes' worth of state."""
    patient = {"frontier": {"ttft_timeout_s": 20}, "response": {"hold_headers_s": 20}}
    async with start(**patient) as one, start(**patient, budget={"refresh_s": 0.05}) as two:
        await set_budget(one, hard_usd=ANSWER_USD)
        for _ in range(1000):  # the other process looks from time to time
            if two.stack.budgets.subjects:
                break
            await asyncio.sleep(0.01)
        one.upstream.always(answer(first_token_delay_s=0.05))
        asked = [g.chat(model="frontier", max_tokens=100, stream=stream) for g in (one, two) for _ in range(20)]
        replies = await asyncio.gather(*asked)
        assert [reply.status_code for reply in replies].count(200) == 1


async def test_cancelled_and_failed_requests_free_what_they_reserved(g: Gateway) -> None:
    await set_budget(g, hard_usd=1)
    g.upstream.always(error(503))
    assert (await g.chat(model="frontier")).status_code == 503
    assert await settled(g) == (0, 0)
    g.upstream.always(stall("one two three", after=2))
    body = {"model": "frontier", "stream": True, "messages": [{"role": "user", "content": "hello there"}]}
    task = asyncio.create_task(g.http.post("/v1/chat/completions", json=body))
    await g.upstream.bell.until(lambda: bool(g.upstream.exchanges[-1].billed_output_tokens))
    assert (await used(g))[1] > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    row = await g.row(1)
    assert row.outcome is RequestOutcome.CANCELLED
    assert await settled(g) == (pytest.approx(row.cost_usd), 0)


async def test_client_that_leaves_before_the_answer_begins_holds_nothing(g: Gateway) -> None:
    await set_budget(g, hard_usd=1)
    for _ in range(20):
        task = asyncio.create_task(g.chat())
        await asyncio.sleep(0.002)  # leaves at whatever point this happens to be
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await settled(g)
    assert g.stack.budgets.reserved_usd == 0


class TestLimits:
    async def test_soft_limit_asks_the_cheap_way(self, g: Gateway) -> None:
        """The score that auto:quality would have sent to the frontier stays."""
        g.router.score_answer = 0.4
        await set_budget(g, soft_usd=0)
        reply = await g.chat(model="auto:quality")
        assert reply.json()["tierwise"]["tier"] == "tier1"
        row = await g.row()
        assert row.requested_model == "auto:quality"
        assert row.decision is not None
        assert row.decision.threshold == pytest.approx(0.3)

    async def test_tier1_only_never_calls_the_frontier(self, start: StartGateway) -> None:
        async with start(budget={"at_hard": "tier1_only"}) as g:
            await set_budget(g, hard_usd=0)
            g.tier1.script(Draft(text=""))
            reply = await g.chat(model="frontier")
            assert reply.json()["tierwise"]["decision"] == "budget"
            assert reply.json()["tierwise"]["tier"] == "tier1"
            assert g.upstream.calls == 0

    async def test_model_without_a_price_spends_the_ceiling(self, start: StartGateway) -> None:
        cost = {"frontier": {}, "baseline": None, "ceiling": CEILING}
        async with start(cost=cost) as g:
            await set_budget(g, hard_usd=1)
            g.upstream.script(answer())
            assert (await g.chat(model="frontier", max_tokens=200)).status_code == 200
            assert (await g.row()).cost_usd is None
            assert (await settled(g))[0] == pytest.approx(ANSWER_USD * 10)

    async def test_without_price_and_ceiling_a_budget_lets_nothing_through(self, start: StartGateway) -> None:
        async with start(cost={"frontier": {}, "baseline": None}) as g:
            await set_budget(g, hard_usd=1)
            reply = await g.chat(model="frontier")
            assert reply.status_code == 402
            assert "cost.ceiling" in reply.json()["error"]["message"]

    @pytest.mark.parametrize(("has_budget", "status"), [(False, 200), (True, 402)])
    async def test_gateway_that_has_just_started_looks_before_it_refuses_for_an_unknown_price(
        self, start: StartGateway, has_budget: bool, status: int
    ) -> None:
        async with start(cost={"frontier": {}, "baseline": None}, budget={"refresh_s": 3600.0}) as g:
            await set_budget(g, hard_usd=1, subject="local" if has_budget else "somebody else")
            g.stack.budgets._subjects = None  # as before its thread's first look
            assert (await g.chat(model="frontier")).status_code == status


@pytest.mark.parametrize(("on_failure", "status"), [("serve", 200), ("refuse", 503)])
async def test_ledger_that_is_away_serves_or_refuses_as_configured(
    start: StartGateway, tmp_path: Path, on_failure: str, status: int
) -> None:
    """The database of the budgets is down or locked."""
    async with start(ledger={"on_failure": on_failure}) as g:
        await set_budget(g, hard_usd=0)
        (tmp_path / "ledger.sqlite3").unlink()
        assert (await g.chat()).status_code == status
        assert "tierwise_budget_unreserved_total 1.0" in (await g.http.get("/metrics")).text


# Who may see and set


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    plain, entries = {}, []
    for name, admin in (("blue", False), ("green", False), ("operators", True)):
        plain[name], entry = new_key(name, admin=admin)
        entries.append(entry)
    write_keys(tmp_path / "keys.yaml", entries)
    return plain


def write_keys(path: Path, entries: list[KeyEntry]) -> None:
    path.write_text(yaml.safe_dump({"keys": [entry.model_dump(mode="json") for entry in entries]}))


@pytest.fixture
async def locked(start: StartGateway, keys: dict[str, str], tmp_path: Path) -> AsyncGenerator[Gateway, None]:
    async with start(gateway={"keys_file": str(tmp_path / "keys.yaml")}) as g:
        await set_budget(g, bearer(keys["operators"]), subject="blue", hard_usd=1)
        await set_budget(g, bearer(keys["operators"]), subject="green", hard_usd=2)
        yield g


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_everybody_sees_their_own(locked: Gateway, keys: dict[str, str]) -> None:
    for path in ("/v1/budgets", "/v1/budgets/blue"):
        (budget,) = (await locked.http.get(path, headers=bearer(keys["blue"]))).json()["data"]
        assert (budget["subject"], budget["hard_usd"], budget["spent_usd"]) == ("blue", 1, 0)


async def test_budget_of_another_tenant_does_not_exist(locked: Gateway, keys: dict[str, str]) -> None:
    """Key of tenant A asks the budget of B."""
    theirs = await locked.http.get("/v1/budgets/green", headers=bearer(keys["blue"]))
    nobodys = await locked.http.get("/v1/budgets/nobody", headers=bearer(keys["blue"]))
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json() == nobodys.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/admin/budgets"), ("PUT", "/admin/budgets"), ("DELETE", "/admin/budgets/tenant/day/blue")],
)
async def test_admin_routes_need_an_admin_key(locked: Gateway, keys: dict[str, str], method: str, path: str) -> None:
    """Non-admin key on admin routes. Admin key in query string."""
    assert (await locked.http.request(method, path, headers=bearer(keys["blue"]))).status_code == 403
    assert (await locked.http.request(method, path)).status_code == 401
    for name in ("key", "api_key", "authorization"):
        reply = await locked.http.request(method, path, params={name: keys["operators"]})
        assert reply.status_code == 401


async def test_admin_lists_changes_and_lifts(locked: Gateway, keys: dict[str, str]) -> None:
    admin = bearer(keys["operators"])
    await set_budget(locked, admin, subject="blue", hard_usd=5, soft_usd=4)
    everything = (await locked.http.get("/admin/budgets", headers=admin)).json()["data"]
    assert [(b["subject"], b["soft_usd"], b["hard_usd"]) for b in everything] == [("blue", 4, 5), ("green", None, 2)]
    gone = await locked.http.delete("/admin/budgets/tenant/day/blue", headers=admin)
    assert gone.json() == {"deleted": True}
    for path in ("/admin/budgets/tenant/day/blue", "/admin/budgets/planet/day/x", "/admin/budgets/tenant/year/x"):
        assert (await locked.http.delete(path, headers=admin)).status_code == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"scope": "tenant", "subject": "x", "period": "day"}, "hard_usd"),
        ({"scope": "tenant", "subject": "x", "period": "year", "hard_usd": 1}, "period"),
        ({"scope": "tenant", "subject": "x", "period": "day", "hard_usd": 1, "colour": "red"}, "colour"),
        ([], "JSON object"),
        ({"subject": "x" * 5000}, "fits into"),
    ],
)
async def test_budget_that_makes_no_sense_is_refused_by_name(g: Gateway, body: Any, says: str) -> None:
    reply = await g.http.put("/admin/budgets", json=body)
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]


async def test_budget_of_a_key_is_that_keys_alone(locked: Gateway, keys: dict[str, str], tmp_path: Path) -> None:
    entries = yaml.safe_load((tmp_path / "keys.yaml").read_text())["keys"]
    key_id = next(entry["id"] for entry in entries if entry["tenant"] == "blue")
    await set_budget(locked, bearer(keys["operators"]), scope="key", subject=key_id, hard_usd=0)
    refused: httpx.Response = await locked.chat(headers=bearer(keys["blue"]))
    assert refused.status_code == 402
    assert "the key's budget" in refused.json()["error"]["message"]
    assert (await locked.chat(headers=bearer(keys["green"]))).status_code == 200
