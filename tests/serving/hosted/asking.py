"""One call, a trace to book it on, and its result, for the tests of the hosted client."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from routing.cost.attempt import CostConfig, TokenPrice
from routing.records import Api, Attempt, AttemptOutcome, RequestedModel, RequestFeatures
from serving.hosted.breaker import BreakerState
from serving.hosted.client import HostedClient
from serving.hosted.faults import Reason
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.trace import RequestTrace
from tests.journey.upstream import ScriptedUpstream

Build = Callable[..., HostedClient]
KEY = "sk-live-abcdef0123456789"
BRIEF: dict[str, Any] = {"ttft_timeout_s": 0.3, "idle_timeout_s": 0.3}
KINDS = ["openai", "anthropic"]
BOTH = pytest.mark.parametrize("kind", KINDS)
EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
SERVED, FAILED = AttemptOutcome.SERVED, AttemptOutcome.FAILED
BROKEN, CANCELLED = AttemptOutcome.BROKEN, AttemptOutcome.CANCELLED


@dataclass
class Counted:
    """A FrontierObserver that remembers."""

    failed: list[tuple[str, Reason]] = field(default_factory=list)
    changes: list[tuple[str, BreakerState]] = field(default_factory=list)

    def try_failed(self, provider: str, reason: Reason) -> None:
        self.failed.append((provider, reason))

    def breaker_changed(self, provider: str, state: BreakerState) -> None:
        self.changes.append((provider, state))


@dataclass
class ManualClock:
    """A clock that a test sets."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def a_call(
    deadline_s: float = 5.0, *, stream: bool = False, api: Api = Api.CHAT, input_tokens: int = 7, **body: Any
) -> Call:
    """One request. Keyword arguments are fields of the OpenAI body."""
    body = {"messages": [{"role": "user", "content": "say three words"}], **body}
    if api is Api.COMPLETIONS:
        body.pop("messages")
    features = RequestFeatures(
        category="other",
        input_tokens=input_tokens,
        n_messages=1,
        n_choices=body.get("n") or 1,
        max_output_tokens=body.get("max_tokens"),
    )
    return Call(
        request_id="req-1",
        tenant="acme",
        api=api,
        model=RequestedModel.FRONTIER,
        body=body,
        features=features,
        prompt_token_ids=[1] * input_tokens,
        cache_salt="salt",
        deadline=time.perf_counter() + deadline_s,
        stream=stream,
    )


@dataclass
class Asked:
    """What came of one call."""

    trace: RequestTrace
    frames: list[Frame] = field(default_factory=list)
    error: Exception | None = None

    @property
    def text(self) -> str:
        return "".join(frame.text for frame in self.frames)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.trace.record().attempts


def a_trace(call: Call) -> RequestTrace:
    price = TokenPrice(input_usd=1, output_usd=10, cached_input_usd=0.1, source="test", as_of="2026-11-01")
    prices = {f"{provider}/{model}": price for provider in ("a", "b", "claude") for model in ("big", "other", "opus")}
    return RequestTrace(call, "hash", CostConfig(frontier=prices, baseline="a/big"))


async def ask(client: HostedClient, call: Call) -> Asked:
    """Run a call to its end. Errors are kept."""
    asked = Asked(a_trace(call))
    try:
        async for frame in client.complete(call, asked.trace):
            asked.frames.append(frame)
    except Exception as error:
        asked.error = error
    return asked


def provider(name: str, upstream: ScriptedUpstream, **options: Any) -> dict[str, Any]:
    kind = options.get("kind", "openai")
    limits = {"max_output_tokens": 4096} if kind == "anthropic" else {}
    model = "opus" if kind == "anthropic" else "big"
    base_url = upstream.url if kind == "anthropic" else upstream.base_url
    defaults = {"kind": kind, "base_url": base_url, "api_key": KEY, "model": model, "max_context_tokens": 10_000}
    return {"name": name, **defaults, **limits, **options}
