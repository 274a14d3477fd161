"""The whole embedded stack, real engines, through the openai SDK: every path, both ways of answering, to the token."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from routing.heads.evidence import Evidence, HeadKind, readable
from routing.learning.release import RELEASE_FILE
from routing.records import Api, AttemptKind, AttemptOutcome, DecisionReason, RequestOutcome, RequestRecord, Tier
from routing.text.answers import answer_of
from routing.text.request_body import asked_text
from serving.artefacts.heads import read_panel
from tests.e2e.stack import ROOT, RunningStack, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

HEADS = ROOT / "deploy" / "artefacts" / "embedded"
REGISTRY = "registry"
PRODUCT = "Compute the result. Answer with the number only.\n\n34 * 7"
LAST_WORD = "Which is the last word? Answer with the word only.\n\nriver stone cloud garden"
COLOURS = [{"role": "user", "content": "Name three primary colours."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def stack(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the file. Pinned categories make each path certain, whatever the small router thinks."""
    policy = {"categories": {"chat": {"tier": "tier1"}, "translate": {"tier": "frontier"}}, "default_threshold": 0.0}
    folder = tmp_path_factory.mktemp("stack")
    with running(folder, policy=policy, promotion={"registry": str(folder / REGISTRY), "poll_s": 0.2}) as up:
        yield up


def ask(stack: RunningStack, stream: bool, **body: Any) -> tuple[str, dict[str, Any], str]:
    """Text, the tierwise object and the model's name of one answer, through the SDK."""
    body = {"model": "auto", "messages": COLOURS, "temperature": 0, "max_tokens": 24, **body}
    if not stream:
        reply = stack.sdk.chat.completions.create(**body)
        return reply.choices[0].message.content or "", reply.model_extra["tierwise"], reply.model
    chunks = list(stack.sdk.chat.completions.create(**body, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return text, chunks[-1].model_extra["tierwise"], chunks[-1].model


def assert_same(row: RequestRecord, said: dict[str, Any]) -> None:
    """The ledger and the answer tell the same story."""
    assert row.outcome is RequestOutcome.OK
    assert said["tier"] == row.served_tier
    assert said["cost_usd"] == pytest.approx(row.cost_usd, abs=1e-9)
    assert [a["kind"] for a in said["attempts"]] == [a.kind for a in row.attempts]


def test_ready_means_a_token_from_every_tier(stack: RunningStack) -> None:
    reply = httpx.get(f"{stack.url}/readyz", timeout=120)
    assert reply.status_code == 200
    assert reply.json()["tiers"] == {"tier1": "ok", "frontier": "ok", "router": "ok"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_accepted_answer(stack: RunningStack, stream: bool) -> None:
    text, said, model = ask(stack, stream)
    row = stack.row(said["request_id"])
    assert_same(row, said)
    assert row.served_tier is Tier.TIER1
    assert model == "qwen2.5-coder-0.5b-instruct"
    assert row.verdict is not None
    assert row.verdict.accepted
    assert "red" in text.lower() or "blue" in text.lower()
    assert row.cost_usd is not None
    assert row.cost_usd > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_answer_escalated_by_the_gate(stack: RunningStack, stream: bool) -> None:
    """The 0.5B writes a tool call as text, which the gate refuses; the frontier's answer is what the client gets."""
    _, said, model = ask(
        stack, stream, messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=[WEATHER]
    )
    row = stack.row(said["request_id"])
    assert_same(row, said)
    assert row.verdict is not None
    assert not row.verdict.accepted
    assert row.served_tier is Tier.FRONTIER
    assert model == "qwen2.5-coder-1.5b-instruct"
    kinds = [(a.kind, a.outcome) for a in row.attempts if a.kind is not AttemptKind.ROUTER]
    assert kinds[0][0] is AttemptKind.DRAFT
    assert kinds[0][1] in (AttemptOutcome.REJECTED, AttemptOutcome.ABORTED)
    assert kinds[-1] == (AttemptKind.FRONTIER, AttemptOutcome.SERVED)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_answer_routed_away(stack: RunningStack, stream: bool) -> None:
    _, said, _ = ask(
        stack, stream, messages=[{"role": "user", "content": "Translate into French: good morning, my friend."}]
    )
    row = stack.row(said["request_id"])
    assert_same(row, said)
    assert row.decision is not None
    assert row.decision.reason is DecisionReason.CATEGORY
    assert [a.kind for a in row.attempts] == [AttemptKind.FRONTIER]


def test_router_scores_what_no_rule_decides_with_one_token_and_a_cached_instruction(stack: RunningStack) -> None:
    body = {"messages": [{"role": "user", "content": "Compute 3 + 4."}], "max_tokens": 8}
    ask(stack, False, **body)
    _, said, _ = ask(stack, False, **body)
    row = stack.row(said["request_id"])
    assert row.decision is not None
    assert row.decision.p_tier1_ok is not None
    score = row.attempts[0]
    assert score.kind is AttemptKind.ROUTER
    assert score.usage is not None
    assert score.usage.output_tokens == 1
    assert score.usage.cached_tokens


async def test_async_client_streams_like_the_sync_one(stack: RunningStack) -> None:
    stream = await stack.asdk.chat.completions.create(
        model="tier1", messages=COLOURS, temperature=0, max_tokens=16, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    whole = await stack.asdk.chat.completions.create(model="tier1", messages=COLOURS, temperature=0, max_tokens=16)
    assert whole.choices[0].message.content == "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_json_schema_holds(stack: RunningStack, stream: bool) -> None:
    import json

    text, _, _ = ask(
        stack,
        stream,
        model="tier1",
        messages=[{"role": "user", "content": "Give me a person's name and age as JSON."}],
        response_format=PERSON,
        max_tokens=64,
    )
    assert set(json.loads(text)) == {"name", "age"}


def test_tools_through_tier_1_are_parsed_when_the_model_is_forced(stack: RunningStack) -> None:
    reply = stack.sdk.chat.completions.create(
        model="tier1",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],  # type: ignore[list-item]
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=48,
    )
    calls = reply.choices[0].message.tool_calls
    assert calls
    assert calls[0].function.name == "weather"
    assert "city" in calls[0].function.arguments


def test_completions_endpoint(stack: RunningStack) -> None:
    reply = stack.sdk.completions.create(
        model="tier1", prompt="def add(a, b):\n    return", max_tokens=8, temperature=0
    )
    assert "a" in reply.choices[0].text
    assert reply.model_extra["tierwise"]["tier"] == "tier1"


def test_ledger_equals_the_engines_and_the_providers_own_counts(stack: RunningStack) -> None:
    """To the token: tier 1 by its engine's counters, the frontier by the stand-in's own metrics."""
    generated = stack.engine("tier1", "generated_tokens")
    provider_out = stack.metric("vllm:generation_tokens_total", stack.standin_url)
    provider_in = stack.metric("vllm:prompt_tokens_total", stack.standin_url)
    rows = []
    for model in ("tier1", "frontier", "tier1", "frontier"):
        reply = stack.sdk.chat.completions.create(model=model, messages=COLOURS, max_tokens=12)  # type: ignore[arg-type]
        row = stack.row(reply.model_extra["tierwise"]["request_id"])
        assert reply.usage is not None
        usage = row.attempts[-1].usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (reply.usage.prompt_tokens, reply.usage.completion_tokens)
        rows.append(row)
    ours = {
        kind: sum(a.usage.output_tokens for r in rows for a in r.attempts if a.kind is kind and a.usage)
        for kind in (AttemptKind.DRAFT, AttemptKind.FRONTIER)
    }
    frontier_in = sum(
        a.usage.input_tokens for r in rows for a in r.attempts if a.kind is AttemptKind.FRONTIER and a.usage
    )
    assert stack.engine("tier1", "generated_tokens") - generated == ours[AttemptKind.DRAFT]
    assert stack.metric("vllm:generation_tokens_total", stack.standin_url) - provider_out == ours[AttemptKind.FRONTIER]
    assert stack.metric("vllm:prompt_tokens_total", stack.standin_url) - provider_in == frontier_in


async def cancel_when(stack: RunningStack, body: dict[str, Any], released: bool) -> None:
    """Start a long answer and hang up: during the hold, or after its first bytes."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=120) as client:
        request = client.build_request("POST", "/v1/chat/completions", json=body)
        sending = asyncio.create_task(client.send(request, stream=True))
        await until(lambda: stack.engine("tier1", "running") >= 1)
        if released:
            reply = await sending
            async for _ in reply.aiter_bytes():
                break
            await reply.aclose()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def until(seen: Any, within_s: float = 30) -> float:
    """Wait for a condition that costs an HTTP call; seconds waited."""
    began = time.perf_counter()
    while not await asyncio.to_thread(seen):
        assert time.perf_counter() - began < within_s
        await asyncio.sleep(0.02)
    return time.perf_counter() - began


@pytest.mark.parametrize("released", [False, True], ids=["during-hold", "during-release"])
async def test_a_client_that_leaves_frees_the_engine_within_a_second(stack: RunningStack, released: bool) -> None:
    """vLLM's own running gauge is back at 0; the row says cancelled and bills what was made."""
    story = [{"role": "user", "content": "Tell me a very long story about a lighthouse keeper and her brother."}]
    body = {"model": "tier1" if released else "auto", "messages": story, "max_tokens": 2000, "stream": True}
    earlier = {row.request_id for row in await asyncio.to_thread(stack.ledger.latest, 50)}
    await cancel_when(stack, body, released)
    assert await until(lambda: stack.engine("tier1", "running") == 0) <= 1.0
    row = await asyncio.to_thread(stack.next_row, earlier)  # nobody was told its id
    assert row.outcome is RequestOutcome.CANCELLED
    draft = next(a for a in row.attempts if a.kind is AttemptKind.DRAFT)
    assert draft.outcome is AttemptOutcome.CANCELLED


def test_anthropic_client_meets_vllms_own_messages_endpoint(stack: RunningStack) -> None:
    """What the Anthropic provider speaks to: the SDK against a real /v1/messages server."""
    reply = stack.anthropic.messages.create(
        model="qwen2.5-coder-1.5b-instruct", max_tokens=16, messages=[{"role": "user", "content": "Say hello."}]
    )
    assert reply.content[0].type == "text"
    assert reply.usage.output_tokens > 0


def test_anthropic_provider_answers_from_a_real_messages_server(stack: RunningStack, tmp_path: Any) -> None:
    """Our own Anthropic client, whole and streamed, against vLLM's /v1/messages; usage equals the server's."""
    from pydantic import SecretStr

    from routing.cost.attempt import CostConfig
    from routing.records import RequestedModel, RequestFeatures
    from serving.hosted.client import HostedClient
    from serving.hosted.config import FrontierConfig, ProviderConfig
    from serving.request.call import Call
    from serving.request.trace import RequestTrace

    provider = ProviderConfig(
        name="standin", kind="anthropic", base_url=stack.standin_url, api_key=SecretStr("none"),
        model="qwen2.5-coder-1.5b-instruct", max_context_tokens=16384, max_output_tokens=512,
    )  # fmt: skip

    async def answer(stream: bool) -> tuple[str, Any]:
        client = HostedClient(FrontierConfig(providers=(provider,), ttft_timeout_s=120, idle_timeout_s=120))
        call = Call(
            request_id="a" * 32, tenant="t", api=Api.CHAT, model=RequestedModel.FRONTIER,
            body={"messages": COLOURS, "max_completion_tokens": 16, "temperature": 0.0},
            features=RequestFeatures(category="chat", input_tokens=30, n_messages=1),
            prompt_token_ids=[], cache_salt="s", deadline=time.perf_counter() + 200, stream=stream,
        )  # fmt: skip
        trace = RequestTrace(call, "hash", CostConfig())
        try:
            frames = [frame async for frame in client.complete(call, trace)]
        finally:
            await client.aclose()
        return "".join(frame.text for frame in frames), trace.bookings[-1].usage

    whole, usage = asyncio.run(answer(False))
    streamed, streamed_usage = asyncio.run(answer(True))
    assert whole
    assert streamed
    for counted in (usage, streamed_usage):
        assert counted is not None
        assert not counted.estimated
        assert counted.output_tokens > 0


def test_frontier_of_the_embedded_profile_survives_a_seeded_prompt_of_several_steps(stack: RunningStack) -> None:
    """vLLM 0.32 dies of it on CPUs, so the stand-in never sees a seed."""
    long = [{"role": "user", "content": "word " * 900}]
    for _ in range(2):
        _, said, _ = ask(stack, False, model="frontier", messages=long, seed=11, temperature=1.0, max_tokens=4)
        assert said["tier"] == Tier.FRONTIER


def test_nothing_listens_beyond_loopback(stack: RunningStack) -> None:
    """Every listening socket of the stack's processes is on 127.0.0.1 or ::1."""
    import psutil

    serve = next(
        p for p in psutil.process_iter(["cmdline"]) if str(stack.output.parent) in " ".join(p.info["cmdline"] or [])
    )
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [serve, *serve.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1"}, addresses


@pytest.fixture
def with_heads(stack: RunningStack) -> RunningStack:
    """The same stack under a release that names the embedded heads: the last tests of the file, for it stays."""
    heads = {"artefact": str(HEADS)}
    overrides = {"policy": {**heads, "quality_target": 0.8}, "gate": heads}
    registry = stack.output.parent / REGISTRY
    registry.mkdir(exist_ok=True)
    half = registry / ".part"
    half.write_text(json.dumps({"stable": {"version": 1, "overrides": overrides}}))
    half.replace(registry / RELEASE_FILE)
    give_up = time.perf_counter() + 30
    while not ask(stack, False, model="tier1", max_tokens=1)[1]["config_hash"].endswith(".r1"):
        assert time.perf_counter() < give_up, "the release was not applied"
    return stack


def test_trained_router_head_decides_by_the_router_models_word(with_heads: RunningStack) -> None:
    body = {"messages": [{"role": "user", "content": PRODUCT}]}
    _, said, _ = ask(with_heads, False, **body, max_tokens=8)
    row = with_heads.row(said["request_id"])
    assert row.features is not None
    assert row.decision is not None
    assert row.decision.p_router is not None
    evidence = Evidence(readable(asked_text(body, Api.CHAT)), row.features.category, p_router=row.decision.p_router)
    expected = read_panel(HEADS, HeadKind.ROUTER).score(evidence)
    assert expected.n_labels > 0
    assert said["p_tier1_ok"] == pytest.approx(expected.p_tier1_ok, abs=1e-6)
    assert row.decision.reason in (DecisionReason.SCORE_HIGH, DecisionReason.SCORE_LOW)


def test_trained_gate_head_rules_on_the_drafts_own_logprobs(with_heads: RunningStack) -> None:
    body = {"messages": [{"role": "user", "content": LAST_WORD}], "max_tokens": 12, "temperature": 0}
    draft, _, _ = ask(with_heads, False, model="tier1", **body)
    _, said, _ = ask(with_heads, False, **body)  # its category is pinned to tier 1, so there is a draft to judge
    row = with_heads.row(said["request_id"])
    assert row.verdict is not None
    assert row.verdict.mean_logprob is not None
    panel = read_panel(HEADS, HeadKind.GATE)
    evidence = Evidence(
        readable(asked_text(body, Api.CHAT)), "chat", draft, answer_of(draft),
        mean_logprob=row.verdict.mean_logprob, worst_token_logprob=row.verdict.worst_token_logprob,
    )  # fmt: skip
    walk = panel.sequences(0.8)[-1]
    expected = panel.score(evidence, walk.looks[0].reads).p_tier1_ok
    assert row.verdict.p_accept == pytest.approx(expected, abs=1e-3)
    threshold = walk.by_category["chat"].threshold
    assert threshold is not None
    assert row.verdict.accepted == (row.verdict.p_accept >= threshold)
