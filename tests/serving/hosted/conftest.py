"""A frontier client in front of scripted providers."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from serving.hosted.client import HostedClient
from serving.hosted.config import FrontierConfig
from tests.journey.upstream import ScriptedUpstream
from tests.serving.hosted.asking import provider


@pytest.fixture
async def upstreams() -> AsyncIterator[Callable[[], Any]]:
    """Start scripted providers, which are stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start() -> ScriptedUpstream:
            return await stack.enter_async_context(ScriptedUpstream())

        yield start


@pytest.fixture
async def a(upstreams: Callable[[], Any]) -> ScriptedUpstream:
    """The first provider."""
    return await upstreams()


@pytest.fixture
async def b(upstreams: Callable[[], Any]) -> ScriptedUpstream:
    """The second provider."""
    return await upstreams()


@pytest.fixture
async def build() -> AsyncIterator[Callable[..., HostedClient]]:
    """Build clients, which are closed at the end of the test.

    Their limits suit a busy machine. Scripts that stay silent need BRIEF.
    """
    anyio.Event()  # imports the SDKs' event loop backend, which would use up the first test's patience
    clients: list[HostedClient] = []

    def make(
        *providers: dict[str, Any], observer: Any = None, clock: Any = time.perf_counter, **options: Any
    ) -> HostedClient:
        patience = {"ttft_timeout_s": 3, "idle_timeout_s": 3, "connect_timeout_s": 3, "backoff_s": 0.001}
        config = FrontierConfig.model_validate({"providers": providers, **patience, **options})
        clients.append(HostedClient(config, observer=observer, clock=clock))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def ab(a: ScriptedUpstream, b: ScriptedUpstream, build: Callable[..., HostedClient]) -> HostedClient:
    """Two providers of kind openai, the second with another model."""
    return build(provider("a", a), provider("b", b, model="other"))
