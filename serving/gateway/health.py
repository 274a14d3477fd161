"""Probes whether each tier generates a token and how busy it is, for /readyz and /metrics."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from routing.records import Tier
from serving.errors import StackError
from serving.gateway.gateway import Gateway
from serving.request.tiers import DraftEngine, RouterModel

LOAD_TIMEOUT_S = 1.0


async def show_load(gateway: Gateway) -> None:
    """Put the engines' load into the metrics. An engine that does not answer in time keeps its last figures."""
    engines: dict[Tier, DraftEngine | RouterModel | None] = {
        Tier.TIER1: gateway.tiers.tier1,
        Tier.ROUTER: gateway.tiers.router,
    }
    for tier, engine in engines.items():
        if engine is not None:
            with contextlib.suppress(StackError, TimeoutError):
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    gateway.telemetry.load(tier, await engine.stats())


async def probe_tiers(gateway: Gateway) -> dict[str, str | None]:
    """An error code for each tier, or None. A tier is probed again only after probe_ttl_s."""
    probes = {"tier1": gateway.tiers.tier1.probe, "frontier": gateway.tiers.frontier.probe}
    if gateway.tiers.router is not None:
        probes["router"] = gateway.tiers.router.probe
    async with gateway.probe_lock:
        return dict(zip(probes, await asyncio.gather(*(probe(gateway, n, p) for n, p in probes.items())), strict=True))


async def probe(gateway: Gateway, name: str, generate_token: Callable[[], Awaitable[None]]) -> str | None:
    """None when the tier generated a token, else an error code."""
    at, result = gateway.probes.get(name, (None, None))
    if at is not None and time.perf_counter() - at < gateway.config.probe_ttl_s:
        return result
    try:
        async with asyncio.timeout(gateway.config.probe_timeout_s):
            await generate_token()
        result = None
    except StackError as error:
        result = error.code
    except TimeoutError:
        result = "timeout"
    gateway.probes[name] = (time.perf_counter(), result)
    return result
