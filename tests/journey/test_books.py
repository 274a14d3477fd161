"""Ten thousand mixed requests: the ledger has the tokens and dollars of the upstreams' own books, to the last one."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from routing.records import AttemptKind, AttemptOutcome, RequestRecord, Tier
from serving.app import build_gateway
from serving.gateway.routes import build_app
from serving.ledger.reader import LedgerReader
from serving.request.call import Call
from serving.request.frame import Frame
from tests.journey.gateway import PRICE, WordTokenizer, journey_config
from tests.journey.scripted import BROKEN_ENGINE, Draft, ScriptedRouter, ScriptedTier1
from tests.journey.upstream import Exchange, Script, ScriptedUpstream, UsageStyle, cut, error, no_done, ok, stall

REQUESTS = 10_000
AT_ONCE = 24
USD_PER_S = 1.0 / 3600  # of the journey's engines
SECONDS_PER_TOKEN = 0.001
NEVER = asyncio.Event()

# What happens to a request, and how often in a hundred. The upstream sees those from `escalated` on.
KINDS = {
    "kept": 60,
    "left_in_hold": 4,
    "replayed": 6,  # the client repeats it with the same idempotency key
    "escalated": 8,
    "engine_dies": 4,
    "asked": 4,
    "usage_missing": 4,
    "retried": 3,  # the provider fails once
    "refused": 2,  # the provider fails for good
    "cut": 2,  # after the first bytes were released
    "left_in_stream": 3,
}
FRONTIER_ONLY = ("asked", "usage_missing", "retried", "refused", "cut", "left_in_stream")


@dataclass(frozen=True, slots=True)
class Plan:
    """One request and what its tiers are going to do; words is its own so that both sides know which it is."""

    number: int
    kind: str
    stream: bool
    prompt_words: int
    draft_words: int
    answer_words: int
    cached_tokens: int | None

    @property
    def content(self) -> str:
        return " ".join([f"plan{self.number}", *["word"] * (self.prompt_words - 1)])

    @property
    def prompt_tokens(self) -> int:
        """As the gateway's tokenizer counts: the role and each word."""
        return self.prompt_words + 1

    @property
    def draft(self) -> Draft:
        text = " ".join(f"d{n}" for n in range(self.draft_words))
        match self.kind:
            case "escalated":
                bad = [Draft(text=""), Draft(text=text, finish_reason="length"), Draft(text="again and " * 120)]
                return bad[self.number % 3]
            case "engine_dies":
                return Draft(text=text, error=BROKEN_ENGINE, fail_after=self.number % self.draft_words)
            case "left_in_hold":
                return Draft(text=text, gate=NEVER, gate_after=self.number % self.draft_words)
            case _:
                return Draft(text=text)

    def script(self, tries: int) -> Script:
        text = " ".join(f"f{n}" for n in range(self.answer_words))
        match self.kind:
            case "usage_missing":
                return ok(text, usage=UsageStyle.MISSING, input_tokens=self.prompt_tokens)
            case "retried" if tries == 0:
                return error(500)
            case "refused":
                return error(400)
            case "cut":
                return replace(cut(text, after=self.answer_words - 1), input_tokens=self.prompt_tokens)
            case "left_in_stream":
                return replace(stall(text, after=self.answer_words - 1), input_tokens=self.prompt_tokens)
            case "asked" if self.number % 2:
                return no_done(text)
        styles = (UsageStyle.LAST, UsageStyle.REPEATED, UsageStyle.WITH_CHOICES)
        return ok(
            text, usage=styles[self.number % 3], input_tokens=100 + self.number % 50, cached_tokens=self.cached_tokens
        )


def plans(n: int) -> list[Plan]:
    dice = random.Random(20_261_122)
    kinds = dice.choices(list(KINDS), list(KINDS.values()), k=n)
    return [
        Plan(
            number,
            kind,
            kind in ("cut", "left_in_stream") or dice.random() < 0.5,
            prompt_words=dice.randrange(1, 30),
            draft_words=dice.randrange(2, 8),
            answer_words=dice.randrange(2, 8),
            cached_tokens=dice.choice([None, 0, 64]),
        )
        for number, kind in enumerate(kinds)
    ]


class PlannedUpstream(ScriptedUpstream):
    """Answers each prompt as its plan says, whatever the order of arrival."""

    def __init__(self, planned: list[Plan]) -> None:
        super().__init__()
        self._planned = planned
        self._tries: Counter[int] = Counter()

    def began(self, exchange: Exchange) -> None:
        number = int(exchange.body["messages"][0]["content"].split()[0].removeprefix("plan"))
        exchange.script = self._planned[number].script(self._tries[number])
        self._tries[number] += 1
        super().began(exchange)

    @property
    def billed_usd(self) -> float:
        """What it would put on its bill."""
        cents = 0.0
        for exchange in self.exchanges:
            cached = (exchange.script.cached_tokens or 0) if exchange.billed_output_tokens else 0
            plain = exchange.billed_input_tokens - cached
            cents += (
                plain * PRICE.input_usd
                + cached * (PRICE.cached_input_usd or 0)
                + exchange.billed_output_tokens * PRICE.output_usd
            )
        return cents * 1e-6


class PlannedTier1(ScriptedTier1):
    """Drafts as planned, and keeps books: a prompt counts once a token was made or the draft is complete."""

    def __init__(self, planned: list[Plan]) -> None:
        super().__init__()
        self._planned = planned
        self.billed_input_tokens = self.billed_output_tokens = 0
        self.busy_s = 0.0

    async def draft(self, call: Call) -> AsyncGenerator[Frame, None]:
        plan = self._planned[int(call.body["messages"][0]["content"].split()[0].removeprefix("plan"))]
        self._queue.append(plan.draft)  # taken by the next line, before anybody else runs
        made, complete = 0, False
        try:
            async with aclosing(super().draft(call)) as frames:
                async for frame in frames:
                    made += frame.n_tokens
                    complete |= frame.usage is not None
                    yield replace(frame, engine_s=made * SECONDS_PER_TOKEN)
        finally:
            if made or complete:
                self.billed_input_tokens += plan.prompt_tokens
                self.billed_output_tokens += made
                self.busy_s += made * SECONDS_PER_TOKEN


async def call_app(app: Any, plan: Plan, headers: dict[str, str], leave: Callable[[bytes], bool]) -> tuple[int, bytes]:
    """One request straight into the application; the client is gone as soon as `leave` says so of what it has read."""
    body = json.dumps(
        {
            "model": "frontier" if plan.kind in FRONTIER_ONLY else "auto",
            "stream": plan.stream,
            "messages": [{"role": "user", "content": plan.content}],
        }
    ).encode()
    sent, status, gone, asked = bytearray(), 0, asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        sent.extend(message.get("body", b""))
        if leave(bytes(sent)):
            gone.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    task = asyncio.create_task(app(scope, receive, send))
    if plan.kind == "left_in_hold":
        await asyncio.sleep(0.02)  # a client that waits a little and leaves
        gone.set()
    await task
    return status, bytes(sent)


def stays(_: bytes) -> bool:
    return False


async def play(app: Any, plan: Plan) -> None:
    """One client: asks, reads, perhaps leaves or asks again."""
    headers = {"content-type": "application/json"}
    if plan.kind == "replayed":
        headers["idempotency-key"] = f"key-{plan.number}"
    last_word = f'"f{plan.answer_words - 2} "'.encode()
    leave = (lambda sent: last_word in sent) if plan.kind == "left_in_stream" else stays
    status, sent = await call_app(app, plan, headers, leave)
    expected = {"refused": {400}, "left_in_hold": {0, 200}}.get(plan.kind, {200})
    assert status in expected, (plan, status, sent)
    if plan.kind == "replayed":
        assert (await call_app(app, plan, headers, stays))[0] == 200


@pytest.mark.timeout(900)  # 40 s on two cores of its own, minutes beside others
async def test_ledger_equals_the_upstreams_own_books(tmp_path: Path) -> None:
    """Cut streams, retries, duplicates, missing usage and missing prices at once, among requests that went well."""
    planned = plans(REQUESTS)
    tier1 = PlannedTier1(planned)
    async with PlannedUpstream(planned) as upstream:
        config = patient(tmp_path, upstream)
        stack = build_gateway(config, tier1, ScriptedRouter(), WordTokenizer())
        app = build_app(stack)
        waiting = iter(planned)

        async def client() -> None:
            for plan in waiting:
                await play(app, plan)

        async with asyncio.TaskGroup() as clients:
            for _ in range(AT_ONCE):
                clients.create_task(client())
        await upstream.idle()
        assert tier1.running == 0
        await stack.close()
        rows = list(LedgerReader(config.ledger).requests())
        assert len(rows) == REQUESTS
        assert_books(rows, tier1, upstream)
        assert_kinds(rows)


def patient(tmp_path: Path, upstream: ScriptedUpstream) -> Any:
    """The journey's configuration for a busy machine: nothing times out, no breaker opens."""
    provider = {
        "name": "up",
        "kind": "openai",
        "base_url": upstream.base_url,
        "api_key": "sk-upstream-secret",
        "model": "big",
        "max_context_tokens": 16384,
        "breaker": {"failures_to_open": REQUESTS},
    }
    return journey_config(
        tmp_path,
        upstream,
        frontier={"providers": [provider], "ttft_timeout_s": 60, "idle_timeout_s": 60},
        draft={"first_token_timeout_s": 60, "idle_timeout_s": 60, "judge_timeout_s": 60},
        cascade={"router_timeout_s": 60},
        response={"hold_headers_s": 60, "write_timeout_s": 60},
    )


def assert_books(rows: list[RequestRecord], tier1: PlannedTier1, upstream: PlannedUpstream) -> None:
    tokens: Counter[tuple[AttemptKind, str]] = Counter()
    usd: dict[AttemptKind, float] = {}
    for attempt in (attempt for row in rows for attempt in row.attempts):
        assert attempt.cost_usd is not None
        usd[attempt.kind] = usd.get(attempt.kind, 0.0) + attempt.cost_usd
        if attempt.usage is not None:
            tokens[attempt.kind, "in"] += attempt.usage.input_tokens
            tokens[attempt.kind, "out"] += attempt.usage.output_tokens
    assert tokens[AttemptKind.FRONTIER, "in"] == upstream.billed_input_tokens
    assert tokens[AttemptKind.FRONTIER, "out"] == upstream.billed_output_tokens
    assert usd[AttemptKind.FRONTIER] == pytest.approx(upstream.billed_usd, abs=1e-9)
    assert tokens[AttemptKind.DRAFT, "in"] == tier1.billed_input_tokens
    assert tokens[AttemptKind.DRAFT, "out"] == tier1.billed_output_tokens
    assert usd[AttemptKind.DRAFT] == pytest.approx(tier1.busy_s * USD_PER_S, abs=1e-9)
    assert sum(row.cost_usd or 0 for row in rows) == pytest.approx(sum(usd.values()), abs=1e-9)


def assert_kinds(rows: list[RequestRecord]) -> None:
    """It was as mixed as it says."""
    outcomes = Counter((a.kind, a.outcome) for row in rows for a in row.attempts)
    for kind, outcome in (
        (AttemptKind.DRAFT, AttemptOutcome.SERVED),
        (AttemptKind.DRAFT, AttemptOutcome.REJECTED),
        (AttemptKind.DRAFT, AttemptOutcome.ABORTED),
        (AttemptKind.DRAFT, AttemptOutcome.FAILED),
        (AttemptKind.DRAFT, AttemptOutcome.CANCELLED),
        (AttemptKind.FRONTIER, AttemptOutcome.SERVED),
        (AttemptKind.FRONTIER, AttemptOutcome.FAILED),
        (AttemptKind.FRONTIER, AttemptOutcome.BROKEN),
        (AttemptKind.FRONTIER, AttemptOutcome.CANCELLED),
    ):
        assert outcomes[kind, outcome] > REQUESTS / 200, (kind, outcome)
    assert sum(a.try_number == 2 for row in rows for a in row.attempts) > REQUESTS / 100
    assert sum(a.usage.estimated for row in rows for a in row.attempts if a.usage) > REQUESTS / 50
    assert {row.served_tier for row in rows} == {None, Tier.TIER1, Tier.FRONTIER}
