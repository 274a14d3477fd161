"""Real engines on a local Ray: started once per session, shared by every end-to-end test.

Each fixture is one piece of the stack, so that a test takes what it needs and nothing more is started.
"""

import asyncio
import os

# As `python -m serving` sets them, and before Ray is imported: the tests run what production runs.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from routing.records import Api, RequestedModel, RequestFeatures
from serving.engine.client import EngineClient
from serving.engine.config import EngineConfig
from serving.engine.deployment import engine_deployment
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.tiers import EngineStats

ROOT = Path(__file__).parents[2]
MODELS = ROOT / ".cache" / "tierwise" / "models"
SMALL = "qwen2.5-coder-0.5b-instruct"

TIER1 = EngineConfig(
    model=SMALL,
    model_path=str(MODELS / SMALL),
    max_context_tokens=4096,
    max_concurrent_requests=8,
    max_queued_requests=8,
    kv_cache_gib=0.5,
    block_size_tokens=32,
    step_tokens=512,
    cpu_threads=2,
    enforce_eager=True,
    tool_parser="hermes",
)


# Every file here sets `pytestmark = END_TO_END`: one event loop for all (Serve binds handles to it), and the time that
# the first start of an engine needs.
END_TO_END = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the fetched models; without it there is nothing to test end to end."""
    if not (MODELS / SMALL / "config.json").exists():
        pytest.skip(f"no weights in {MODELS}; fetch the models first")
    return MODELS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ray_local(models: Path) -> AsyncGenerator[None, None]:
    """A Ray of our own on loopback: no dashboard, no reports, a small object store."""
    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=8,  # logical: placement only
        include_dashboard=False,
        object_store_memory=128 * 1024**2,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    serve.start(proxy_location="Disabled")
    yield
    await serve.shutdown_async()
    ray.shutdown()


@pytest.fixture(scope="session")
def tier1_handle(ray_local: None) -> Any:
    """A running tier-1 deployment of the 0.5B."""
    from ray import serve

    return serve.run(engine_deployment("tier1", TIER1), name="tier1", route_prefix=None)


@pytest.fixture(scope="session")
def tier1(tier1_handle: Any) -> EngineClient:
    """The tier as the cascade sees it."""
    return EngineClient(tier1_handle, TIER1)


@pytest.fixture(scope="session")
def tokenizer(models: Path) -> Any:
    """The tokenizer the ingress would use."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models / SMALL)


@pytest.fixture(scope="session")
def new_call(tokenizer: Any) -> Callable[..., Call]:
    """Make a Call as the ingress would: rendered once, tokenized once."""

    def make(body: dict[str, Any], *, api: Api = Api.CHAT, stream: bool = False, salt: str = "salt") -> Call:
        ids = chat_ids(tokenizer, body) if api is Api.CHAT else tokenizer.encode(body["prompt"])
        return Call(
            request_id=uuid.uuid4().hex,
            tenant="tenant",
            api=api,
            model=RequestedModel.TIER1,
            body=body,
            features=RequestFeatures(
                category="other", input_tokens=len(ids), n_messages=len(body.get("messages", [])), n_choices=1
            ),
            prompt_token_ids=ids,
            cache_salt=salt,
            deadline=time.perf_counter() + 300,
            stream=stream,
        )

    return make


def chat_ids(tokenizer: Any, body: dict[str, Any]) -> list[int]:
    """The chat template's ids of a body."""
    text = tokenizer.apply_chat_template(
        body["messages"], tools=body.get("tools"), add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


async def collect(frames: AsyncGenerator[Frame, None]) -> list[Frame]:
    """Every frame of an answer."""
    return [frame async for frame in frames]


async def until_idle(handle: Any, within_s: float) -> EngineStats:
    """Wait until no request is left in vLLM's scheduler; the last stats when the time is up."""
    deadline = time.perf_counter() + within_s
    while True:
        stats: EngineStats = await handle.stats.remote()
        if stats.running + stats.waiting == 0 or time.perf_counter() > deadline:
            return stats
        await asyncio.sleep(0.02)
