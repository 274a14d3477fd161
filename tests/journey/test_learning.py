"""What a running stack gathers: feedback, shadows that no user waits for, texts without secrets."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import pytest

from routing.learning.samples import Grader, Sample, SampleSource
from routing.records import AttemptKind, AttemptOutcome, RequestRecord, Tier
from serving.ledger.samples import SampleStore
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft, ScriptedTier1
from tests.journey.test_keys_journey import Keys, bearer, keys  # noqa: F401 - a fixture
from tests.journey.upstream import ScriptedUpstream, error, ok, stall

Seen = TypeVar("Seen")
SHADOW_ALL = {"shadow": {"rate": 1.0, "judge": False}}


@asynccontextmanager
async def learning(start: StartGateway, **section: Any) -> AsyncGenerator[tuple[Gateway, SampleStore], None]:
    async with start(learning=section) as g:
        lessons = SampleStore(g.stack.ledger._config)
        yield g, lessons
        lessons.close()


async def eventually(look: Callable[[], Seen], ready: Callable[[Seen], bool] = bool, within_s: float = 5) -> Seen:
    """What `look` sees, as soon as it is what is waited for; the books are written by a thread."""
    async with asyncio.timeout(within_s):
        while not ready(seen := look()):  # noqa: ASYNC110 - a table has no event
            await asyncio.sleep(0.01)
    return seen


def count(g: Gateway, event: str) -> float:
    return g.stack.telemetry.registry.get_sample_value("tierwise_samples_total", {"event": event}) or 0.0


async def booked(g: Gateway, ready: Callable[[RequestRecord], bool]) -> RequestRecord:
    """The first request's row in the ledger once it is as it should be."""

    def look() -> RequestRecord | None:
        g.stack.ledger.flush()
        return next(iter(g.reader.latest(1)), None)

    row = await eventually(look, lambda r: r is not None and ready(r))
    assert row is not None
    return row


class TestFeedback:
    async def test_word_on_ones_own_request_is_kept_at_once(self, start: StartGateway) -> None:
        async with learning(start) as (g, lessons):
            asked = (await g.chat()).json()["tierwise"]["request_id"]
            reply = await g.http.post(
                "/v1/feedback", json={"request_id": asked, "rating": -1, "correction": "ask bob@example.com"}
            )
            assert reply.status_code == 200, reply.text
            assert reply.json() == {"object": "feedback", "request_id": asked, "recorded": True}
            (kept,) = lessons.all_feedback()
            assert (kept.rating, kept.correction) == (-1, "ask [EMAIL]")

    async def test_request_of_another_tenant_is_as_unknown_as_none(self, start: StartGateway, keys: Keys) -> None:  # noqa: F811
        """Key of tenant A asks feedback of B."""
        async with start(gateway={"keys_file": str(keys.file)}) as g:
            asked = (await g.chat(headers=bearer(keys.blue))).json()["tierwise"]["request_id"]
            body = {"request_id": asked, "rating": 1}
            theirs = await g.http.post("/v1/feedback", json=body, headers=bearer(keys.green))
            none = await g.http.post("/v1/feedback", json={**body, "request_id": "f" * 32}, headers=bearer(keys.green))
            assert theirs.status_code == none.status_code == 404
            assert theirs.text == none.text.replace("f" * 32, asked)
            assert (await g.http.post("/v1/feedback", json=body)).status_code == 401
            assert (await g.http.post("/v1/feedback", json=body, headers=bearer(keys.blue))).status_code == 200

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"request_id": "a"}, None),
            ({"request_id": "a", "rating": 5}, "rating"),
            ({"rating": 1}, "request_id"),
            ({"request_id": "a", "rating": 1, "tenant": "b"}, "tenant"),
            ({"request_id": "a", "correction": "x" * 20_001}, "correction"),
        ],
    )
    async def test_wrong_body_is_refused_by_field(self, g: Gateway, body: dict[str, object], param: str | None) -> None:
        reply = await g.http.post("/v1/feedback", json=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param

    async def test_flood_of_one_tenant_ends_at_its_cap(self, start: StartGateway) -> None:
        """One tenant floods fake thumbs-up."""
        async with learning(start, feedback_per_tenant_per_day=2) as (g, lessons):
            replies: list[httpx.Response] = []
            for _ in range(4):
                asked = (await g.chat()).json()["tierwise"]["request_id"]
                replies.append(await g.http.post("/v1/feedback", json={"request_id": asked, "rating": 1}))
            assert [r.status_code for r in replies] == [200, 200, 429, 429]
            assert replies[2].json()["error"]["code"] == "tenant_limited"
            assert int(replies[2].headers["retry-after"]) <= 86400
            assert len(lessons.all_feedback()) == 2

    async def test_tenant_that_opted_out_is_answered_and_not_recorded(self, start: StartGateway) -> None:
        async with learning(start, opted_out=["local"], keep_texts_rate=1.0, **SHADOW_ALL) as (g, lessons):
            asked = (await g.chat()).json()["tierwise"]["request_id"]
            reply = await g.http.post("/v1/feedback", json={"request_id": asked, "rating": 1})
            assert reply.json()["recorded"] is False
            assert lessons.all_feedback() == []
            assert g.upstream.exchanges == []


class TestShadow:
    async def test_frontier_is_asked_after_the_user_has_the_answer_and_booked_as_shadow(
        self, start: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        answered = asyncio.Event()
        upstream.always(stall("the better answer", 0, until=answered))
        async with learning(start, **SHADOW_ALL) as (g, lessons):
            reply = await g.chat("what is it?")
            assert reply.json()["tierwise"]["tier"] == "tier1"
            assert [a["kind"] for a in reply.json()["tierwise"]["attempts"]] == ["router", "draft"]
            answered.set()
            (kept,) = await eventually(lessons.all_samples)
            assert kept.source is SampleSource.SHADOW
            assert (kept.prompt, kept.tier1_output, kept.frontier_output) == (
                "what is it?",
                "a fine answer",
                "the better answer",
            )
            row = await booked(g, lambda r: len(r.attempts) == 3)
            shadow = row.attempts[-1]
            assert (shadow.kind, shadow.tier, shadow.outcome) == (
                AttemptKind.SHADOW,
                Tier.FRONTIER,
                AttemptOutcome.USED,
            )
            assert shadow.cost_usd is not None
            assert shadow.cost_usd > 0
            assert row.cost_usd == g.rows[0].cost_usd  # what the user's answer cost
            assert len(g.rows) == 1

    async def test_judge_sees_both_orders_and_its_grade_is_kept(
        self, start: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.script(ok("the better answer"), ok("B"), ok("A"))
        async with learning(start, shadow={"rate": 1.0}) as (g, lessons):
            await g.chat("what is it?")
            (kept,) = await eventually(lessons.all_samples)
            assert (kept.tier1_quality, kept.frontier_quality, kept.grader) == (0.0, 1.0, Grader.PAIRWISE)
            asked = [e.body["messages"][1]["content"] for e in upstream.exchanges[1:]]
            assert asked[0].index("a fine answer") < asked[0].index("the better answer")
            assert asked[1].index("a fine answer") > asked[1].index("the better answer")
            row = await booked(g, lambda r: len(r.attempts) == 5)
            assert [a.kind for a in row.attempts[2:]] == [AttemptKind.SHADOW] * 3

    async def test_frontier_that_fails_costs_the_sample_and_not_the_request(
        self, start: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(error(500))
        async with learning(start, **SHADOW_ALL) as (g, lessons):
            assert (await g.chat()).status_code == 200
            await eventually(lambda: count(g, "failed"))
            assert lessons.all_samples() == []
            row = await booked(g, lambda r: len(r.attempts) > 2)
            assert {a.outcome for a in row.attempts[2:]} == {AttemptOutcome.FAILED}

    async def test_day_without_dollars_has_no_shadows(self, start: StartGateway) -> None:
        async with learning(start, shadow={"rate": 1.0, "judge": False, "daily_budget_usd": 1e-6}) as (g, lessons):
            await g.chat("first")
            await eventually(lessons.all_samples)
            await g.chat("second")
            await eventually(lambda: count(g, "over_budget"))
            assert len(g.upstream.exchanges) == 1

    async def test_unknown_price_is_no_licence_to_spend(self, start: StartGateway) -> None:
        """An unknown price is never 0."""
        async with start(learning=SHADOW_ALL, cost={"frontier": {}, "baseline": None}) as g:
            await g.chat("first")
            await eventually(lambda: count(g, "kept"))
            await g.chat("second")
            await eventually(lambda: count(g, "over_budget"))
            assert len(g.upstream.exchanges) == 1

    async def test_full_queue_drops_and_counts(self, start: StartGateway, upstream: ScriptedUpstream) -> None:
        held = asyncio.Event()
        upstream.always(stall("slow", 0, until=held))
        async with learning(start, shadow={"rate": 1.0, "judge": False, "queue_size": 1}) as (g, lessons):
            await g.chat("first")
            await upstream.bell.until(lambda: upstream.in_flight == 1)
            for _ in range(3):
                assert (await g.chat()).status_code == 200
            assert count(g, "dropped") == 2
            held.set()
            await eventually(lessons.all_samples, lambda kept: len(kept) == 2)

    async def test_shutdown_cancels_the_shadow_and_books_what_it_cost(
        self, start: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.always(stall("never ends", 1))
        async with learning(start, **SHADOW_ALL) as (g, _):
            await g.chat()
            await upstream.bell.until(lambda: upstream.in_flight == 1)
            reader = g.reader
        assert upstream.in_flight == 0
        (row,) = reader.latest(1)
        assert row.attempts[-1].kind is AttemptKind.SHADOW
        assert row.attempts[-1].outcome is AttemptOutcome.CANCELLED

    @pytest.mark.parametrize(
        ("model", "policy"), [("tier1", {}), ("auto", {"tenant_pins": {"local": "tier1"}})], ids=["asked for", "pinned"]
    )
    async def test_text_that_may_have_to_stay_is_never_sent(
        self, start: StartGateway, model: str, policy: dict[str, Any]
    ) -> None:
        async with start(learning={"keep_texts_rate": 1.0, **SHADOW_ALL}, policy=policy) as g:
            reply = await g.chat(model=model)
            assert reply.json()["tierwise"]["tier"] == "tier1"
            await eventually(lambda: count(g, "kept"))
            assert g.upstream.exchanges == []

    async def test_share_is_per_category(self, start: StartGateway) -> None:
        async with learning(start, shadow={"rate": 0.0, "judge": False, "categories": {"math": 1.0}}) as (g, lessons):
            await g.chat("hello there")
            await g.chat("add them", metadata={"category": "math"})
            (kept,) = await eventually(lessons.all_samples)
            assert kept.category == "math"


class TestTexts:
    async def test_nothing_is_kept_unless_asked_for(self, g: Gateway) -> None:
        await g.chat()
        await g.row()
        assert g.stack.sampler.begin(g.tier1.calls[0]) is None

    async def test_rejected_draft_and_its_replacement_are_kept_together(
        self, start: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        tier1 = ScriptedTier1(Draft(text="no JSON at all"))
        upstream.always(ok('{"here": 1}'))
        async with start(learning={"keep_escalations": True}, tier1=tier1) as g:
            lessons = SampleStore(g.stack.ledger._config)
            assert (await g.chat(stream=True, response_format={"type": "json_object"})).status_code == 200
            (kept,) = await eventually(lessons.all_samples)
            assert kept.source is SampleSource.ESCALATION
            assert (kept.tier1_output, kept.frontier_output) == ("no JSON at all", '{"here": 1}')
            assert kept.response_format == {"type": "json_object"}
            lessons.close()

    async def test_secrets_reach_neither_samples_nor_logs_nor_metrics(
        self, start: StartGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Secrets in a prompt, an answer and a correction are in nothing that is kept."""
        caplog.set_level(logging.DEBUG)
        secrets = ["sk-veryverysecret123", "carol@example.org", "4111 1111 1111 1111", "hunter2hunter2"]
        upstream.always(ok(f"write to {secrets[1]} with {secrets[2]}"))
        tier1 = ScriptedTier1(Draft(text=f"use {secrets[0]} and password: {secrets[3]}"))
        async with start(learning={"keep_texts_rate": 1.0, **SHADOW_ALL}, tier1=tier1) as g:
            lessons = SampleStore(g.stack.ledger._config)
            asked = (await g.chat(f"my key {secrets[0]}, mail {secrets[1]}")).json()["tierwise"]["request_id"]
            await g.http.post("/v1/feedback", json={"request_id": asked, "correction": f"card {secrets[2]}"})
            (kept,) = await eventually(lessons.all_samples)
            assert isinstance(kept, Sample)
            g.stack.ledger.flush()
            path = g.stack.ledger._config.sqlite_path
            assert path is not None
            artefacts = [f.read_bytes() for f in path.parent.glob("ledger.sqlite3*") if f.is_file()]
            artefacts += [g.stack.telemetry.render(), caplog.text.encode()]
            lessons.close()
        for secret in secrets:
            assert not [a for a in artefacts if secret.encode() in a], secret

    async def test_tenant_that_floods_is_capped(self, start: StartGateway) -> None:
        async with learning(start, keep_texts_rate=1.0, samples_per_tenant_per_day=2) as (g, lessons):
            for i in range(4):
                await g.chat(f"question {i}")
                await eventually(lambda n=i: count(g, "kept") + count(g, "capped"), lambda seen, n=i: seen == n + 1)
            assert len(lessons.all_samples()) == 2
            assert count(g, "capped") == 2
