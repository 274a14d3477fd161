"""The real gateway under test: real HTTP, real cascade, real ledger and frontier client; tier 1 and router scripted.

async with gateway(tmp_path, upstream) as g:
    g.tier1.script(Draft(text=""))
    reply = await g.chat("hello")
    assert reply.json()["tierwise"]["tier"] == "frontier"
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI

from routing.cost.attempt import TokenPrice
from routing.records import Api, RequestRecord
from serving.app import build_gateway
from serving.config import StackConfig
from serving.gateway.gateway import Gateway as ServingGateway
from serving.gateway.routes import build_app
from serving.ledger.reader import LedgerReader
from tests.journey.scripted import ScriptedRouter, ScriptedTier1
from tests.journey.upstream import ScriptedUpstream
from tests.journey.upstream_wire import Bell

PRICE = TokenPrice(input_usd=2.0, output_usd=8.0, cached_input_usd=0.5, source="test table", as_of="2026-11-01")


class WordTokenizer:
    """One id a word: as good as any for a scripted engine."""

    vocab_size = 1000

    async def render(self, api: Api, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """Ids of the whole prompt."""
        if api is Api.COMPLETIONS:
            prompt = body["prompt"]
            return list(prompt) if isinstance(prompt, list) else self.ids(prompt)
        return [i for m in body["messages"] for i in self.ids(f"role {m.get('content') or ''}")]

    def count(self, text: str) -> int:
        """Tokens of one text."""
        return len(self.ids(text))

    def ids(self, text: str) -> list[int]:
        """Ids of one text."""
        return [hash(word) % self.vocab_size for word in text.split()]


@dataclass
class Gateway:
    """One running gateway and what stands behind it."""

    url: str
    stack: ServingGateway
    tier1: ScriptedTier1
    router: ScriptedRouter
    upstream: ScriptedUpstream
    http: httpx.AsyncClient
    sdk: AsyncOpenAI
    reader: LedgerReader
    rows: list[RequestRecord] = field(default_factory=list)
    bell: Bell = field(default_factory=Bell)

    async def chat(
        self, content: str = "hello there", *, headers: Mapping[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        """One chat completion, not streamed."""
        body = {"model": "auto", "messages": [{"role": "user", "content": content}], **body}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def row(self, index: int = 0, within_s: float = 5) -> RequestRecord:
        """The settled record of the nth request, as soon as there is one."""
        await self.bell.until(lambda: len(self.rows) > index, within_s)
        return self.rows[index]

    def on_settle(self, row: RequestRecord) -> None:
        """Called by the stack beside the ledger."""
        self.rows.append(row)
        self.bell.ring()


def journey_config(tmp_path: Path, upstream: ScriptedUpstream, **sections: Any) -> StackConfig:
    """Short patience, no waiting between tries; sections are laid over."""
    tree: dict[str, Any] = {
        "gateway": {"secret_file": str(tmp_path / "secret")},
        "response": {"hold_headers_s": 0.5, "keepalive_s": 0.2, "write_timeout_s": 1.0},
        "router": {"model": "scripted-router", "max_context_tokens": 4096, "kv_cache_gib": 1},
        "tier1": {
            "model": "scripted-tier1",
            "max_context_tokens": 4096,
            "kv_cache_gib": 1,
            "lora": {"max_rank": 8},
        },
        "frontier": {
            "providers": [
                {
                    "name": "up",
                    "kind": "openai",
                    "base_url": upstream.base_url,
                    "api_key": "sk-upstream-secret",
                    "model": "big",
                    "max_context_tokens": 16384,
                }
            ],
            "ttft_timeout_s": 1.0,
            "idle_timeout_s": 1.0,
            "backoff_s": 0,
        },
        "draft": {"first_token_timeout_s": 1.0, "idle_timeout_s": 1.0, "judge_timeout_s": 0.5},
        "cascade": {"router_timeout_s": 0.5},
        "cost": {
            "frontier": {"up/big": PRICE.model_dump()},
            "baseline": "up/big",
            "engine_usd_per_hour": {"router": 1.0, "tier1": 1.0},
            "engine_price_source": "test",
        },
        "ledger": {"url": f"sqlite:///{tmp_path}/ledger.sqlite3"},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) else values
    return StackConfig.model_validate(tree)


def text_of(reply: httpx.Response) -> str:
    """What the model said, streamed or not."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return str(reply.json()["choices"][0]["message"]["content"])
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


@asynccontextmanager
async def gateway(
    tmp_path: Path,
    upstream: ScriptedUpstream,
    *,
    tier1: ScriptedTier1 | None = None,
    router: ScriptedRouter | None = None,
    **sections: Any,
) -> AsyncGenerator[Gateway, None]:
    """A gateway on a free port of 127.0.0.1 for the length of the block."""
    config = journey_config(tmp_path, upstream, **sections)
    tier1, router = tier1 or ScriptedTier1(), router or ScriptedRouter()
    stack = build_gateway(config, tier1, router, WordTokenizer())
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(
            uvicorn.Config(build_app(stack), log_config=None, lifespan="on", timeout_graceful_shutdown=1)
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with (
                httpx.AsyncClient(base_url=url, timeout=20) as http,
                AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
            ):
                reader = LedgerReader(config.ledger)
                g = Gateway(url, stack, tier1, router, upstream, http, sdk, reader)
                settle = stack.settle
                stack.settle = lambda row: (settle(row), g.on_settle(row))[0]
                async with asyncio.timeout(10):
                    await http.get("/healthz")  # the listener queues it until the server accepts
                yield g
        finally:
            server.should_exit = True
            await task
