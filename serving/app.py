"""Builds the stack from its configuration, once: engines, clients, ledger, gateway.

Ray Serve deploys `application`. Each gateway process holds what `build_gateway` returns. Nothing happens at import.
"""

import asyncio
import gc
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from routing.learning.release import Variant, marked
from serving.access.budgets import Budgets
from serving.access.idempotency import IdempotencyStore
from serving.access.keys import KeyRing, load_or_make_secret
from serving.artefacts.heads import read_learned
from serving.artefacts.weights import model_path
from serving.cascade.releases import Releases, Running
from serving.config import StackConfig, parse_config, with_overrides
from serving.engine.adapters import read_adapters
from serving.engine.client import EngineClient, RouterClient
from serving.engine.deployment import engine_deployment
from serving.gateway.gateway import Gateway, Tokenizer
from serving.gateway.routes import build_app
from serving.gateway.tokenizer import PromptTokenizer
from serving.hosted.client import HostedClient
from serving.learning.feedback import FeedbackStore
from serving.learning.sampler import Sampler
from serving.ledger.samples import SampleStore
from serving.ledger.writer import Ledger
from serving.process.loopback import keep_replica_on_loopback
from serving.replicas.load_exchange import LoadExchange, asks, forwarder_deployment
from serving.request.tiers import DraftEngine, RouterModel, Tiers
from serving.telemetry.metrics import Telemetry
from serving.telemetry.spans import Spans

APPLICATION = "tierwise"


def build_gateway(config: StackConfig, tier1: DraftEngine, router: RouterModel | None, tokenizer: Tokenizer) -> Gateway:
    """Everything that one gateway process needs. The tiers already run."""
    ledger = Ledger(config.ledger)
    telemetry = Telemetry(config.hash, ledger)
    frontier = HostedClient(config.frontier, observer=telemetry, count_tokens=tokenizer.count)

    samples = SampleStore(config.ledger)
    sampler = Sampler(
        config.learning,
        samples=samples,
        ledger=ledger,
        frontier=frontier,
        cost=config.cost,
        count_tokens=tokenizer.count,
        observer=telemetry,
    )

    targets = tuple(f"{provider.name}/{provider.model}" for provider in config.frontier.providers)
    budgets = Budgets(config.ledger, config.budget, config.cost, targets, telemetry)

    releases = Releases(config.promotion, partial(running, config), telemetry, tier1.load_adapter)
    spans = None if config.traces is None else Spans.to(config.traces)

    async def close() -> None:
        await releases.aclose()
        await sampler.aclose()
        await asyncio.to_thread(budgets.close)
        await frontier.aclose()
        await asyncio.to_thread(ledger.close)
        samples.close()
        if spans is not None:
            await asyncio.to_thread(spans.close)

    return Gateway(
        tiers=Tiers(router=router, tier1=tier1, frontier=frontier),
        tokenizer=tokenizer,
        ledger=ledger,
        keys=KeyRing.load(config.gateway.keys_file),
        salt_secret=load_or_make_secret(config.gateway.secret_file),
        releases=releases,
        response=config.response,
        config=config.gateway,
        cost=config.cost,
        telemetry=telemetry,
        idempotency=IdempotencyStore(config.idempotency),
        sampler=sampler,
        feedback=FeedbackStore(config.learning, ledger, samples),
        budgets=budgets,
        spans=spans,
        close=close,
    )


def running(config: StackConfig, variant: Variant | None) -> Running:
    """The configuration under a variant of a release. None: under the profile. Raises ConfigInvalid."""
    changed = config if variant is None else with_overrides(config, variant.overrides)
    sections = replace(
        changed.sections(),
        learned=read_learned(changed.policy, changed.gate),
        adapters=read_adapters(changed.policy, changed.tier1.model, changed.tier1.lora, changed.promotion.registry),
    )
    return Running(sections, config.hash if variant is None else marked(config.hash, variant.version))


@serve.ingress()
class Ingress:
    """The gateway as a Ray Serve deployment. It has one event loop and no engine."""

    def __init__(
        self,
        config: StackConfig,
        tier1: DeploymentHandle,
        router: DeploymentHandle | None,
        forwarder: DeploymentHandle | None = None,
    ) -> None:
        keep_replica_on_loopback()
        tokenizer = PromptTokenizer(Path(model_path(config.tier1.model)))
        own = EngineClient(tier1, config.tier1)
        if own.tracker is not None and forwarder is not None:
            LoadExchange(own.tracker, asks(forwarder))
        self._gateway = build_gateway(
            config,
            own,
            None if router is None or config.router is None else RouterClient(router, config.router),
            tokenizer,
        )
        if config.gateway.replicas > 1:
            self._gateway.replica_id = serve.get_replica_context().replica_id.unique_id
        if own.tracker is not None:
            self._gateway.telemetry.watch(own.tracker)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve calls this by its name, after the constructor."""
        app = build_app(self._gateway)
        gc.collect()
        gc.freeze()  # what was built stays, so a collection reads the objects of requests and not every module
        return app


def application(config: StackConfig) -> serve.Application:
    """The Ray Serve application of a whole stack."""
    gateway = serve.deployment(Ingress).options(
        name="gateway",
        num_replicas=config.gateway.replicas,
        max_replicas_per_node=config.gateway.max_replicas_per_node,
        graceful_shutdown_timeout_s=config.gateway.drain_s,
        max_ongoing_requests=config.gateway.max_concurrent_requests + 16,  # room for health, metrics and refusals
        ray_actor_options={"num_cpus": config.gateway.num_cpus},
    )
    router = None if config.router is None else engine_deployment("router", config.router)
    shares_load = config.gateway.replicas > 1 and config.tier1.routes_by_cache
    forwarder = forwarder_deployment() if shares_load and config.tier1.replica_routing.share_load else None
    return gateway.bind(config, engine_deployment("tier1", config.tier1), router, forwarder)


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a deployed profile. `serve deploy` calls it on the cluster, as serving.app:build.

    args: {"profile": the tree of a profile}, as `python -m serving build` writes it. ${NAME} is replaced here, from the
        environment of the cluster's nodes.
    Raises ConfigInvalid.
    """
    return application(parse_config(args["profile"], os.environ, "the deployed profile"))
