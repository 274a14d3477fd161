"""A gateway per test, and one scripted provider behind it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.journey.gateway import Gateway, gateway
from tests.journey.upstream import ScriptedUpstream

StartGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
async def upstream() -> AsyncGenerator[ScriptedUpstream, None]:
    """The frontier provider."""
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, upstream: ScriptedUpstream) -> StartGateway:
    """`async with start(policy={...}) as g`: a gateway with some sections of its configuration changed."""
    return partial(gateway, tmp_path, upstream)


@pytest.fixture
async def g(start: StartGateway) -> AsyncGenerator[Gateway, None]:
    """A gateway with the journey's default configuration."""
    async with start() as running:
        yield running
