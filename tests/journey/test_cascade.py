"""One request through the whole gateway: which tier answers, what the client sees, what the ledger says."""

import json

import pytest

from routing.records import AttemptKind, AttemptOutcome, DecisionReason, RejectReason, Tier
from tests.journey.gateway import Gateway
from tests.journey.scripted import BROKEN_ENGINE, Draft
from tests.journey.upstream import ok


async def test_accepted_draft_is_the_answer_and_the_frontier_is_not_called(g: Gateway) -> None:
    g.tier1.script(Draft(text="Red, yellow and blue."))
    reply = await g.chat("Name three primary colours.")
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "Red, yellow and blue."
    assert reply.json()["model"] == "scripted-tier1"
    assert reply.json()["tierwise"]["tier"] == "tier1"
    assert g.upstream.calls == 0
    row = await g.row()
    assert [(a.kind, a.outcome) for a in row.attempts] == [
        (AttemptKind.ROUTER, AttemptOutcome.USED),
        (AttemptKind.DRAFT, AttemptOutcome.SERVED),
    ]
    assert row.served_tier is Tier.TIER1
    assert row.cost_usd is not None
    assert row.baseline_cost_usd is not None


async def test_rejected_draft_is_replaced_and_billed_as_waste(g: Gateway) -> None:
    g.tier1.script(Draft(text=""))
    g.upstream.script(ok("the frontier says hello"))
    reply = await g.chat()
    assert reply.json()["choices"][0]["message"]["content"] == "the frontier says hello"
    assert reply.json()["model"] == "big"
    row = await g.row()
    assert row.verdict is not None
    assert row.verdict.reasons == (RejectReason.EMPTY,)
    assert [(a.kind, a.outcome) for a in row.attempts][1:] == [
        (AttemptKind.DRAFT, AttemptOutcome.REJECTED),
        (AttemptKind.FRONTIER, AttemptOutcome.SERVED),
    ]


async def test_low_score_goes_straight_to_the_frontier(g: Gateway) -> None:
    g.router.score_answer = 0.1
    reply = await g.chat()
    assert reply.json()["tierwise"]["decision"] == DecisionReason.SCORE_LOW
    assert g.tier1.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_failure_escalates(g: Gateway, stream: bool) -> None:
    g.tier1.script(Draft(text="one two three", error=BROKEN_ENGINE, fail_after=2))
    g.upstream.script(ok("saved"))
    reply = await g.chat(stream=stream)
    assert "saved" in reply.text
    assert "one" not in reply.text
    row = await g.row()
    assert row.verdict is not None
    assert row.verdict.reasons == (RejectReason.TIER1_FAILED,)


async def test_stream_carries_the_drafts_own_chunks_and_metadata_in_the_last(g: Gateway) -> None:
    g.tier1.script(Draft(text="a b c d"))
    reply = await g.chat(stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "a b c d"
    assert [c for c in chunks if "tierwise" in c] == [chunks[-1]]
    assert reply.headers["x-tierwise-verdict"] == "accepted"
