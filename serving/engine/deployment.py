"""Runs our own engines on Ray Serve: one deployment class for tier 1 and the router.

`Engine` runs in the replica, next to the model. The clients that call it through a handle are in client.py.
vLLM is imported in the replica alone (vllm_engine.py).
"""

import asyncio
import copy
import math
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from routing.cost.shared_clock import SharedClock
from serving.engine.adapters import AdapterLoader
from serving.engine.config import EngineConfig
from serving.engine.framing import Framer
from serving.engine.noop import NoopEngine
from serving.engine.router_prompt import RouterPrompts, encode
from serving.engine.vllm_flags import GIB
from serving.errors import RouterFailed, Tier1Failed
from serving.process.children import ChildGuard
from serving.process.loopback import keep_replica_on_loopback
from serving.replicas.ray_router import KvAwareRouter
from serving.request.call import Adapter
from serving.request.frame import Frame, RouterScore
from serving.request.payloads import DraftPayload, ScorePayload
from serving.request.tiers import EngineStats


class Engine:
    """One replica: a vLLM engine, the clock that bills it, and its health. Methods are called through handles."""

    async def __init__(self, config: EngineConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.engine.vllm_engine import VllmEngine  # noqa: PLC0415 - here alone: vLLM takes seconds and a GiB to import

        keep_replica_on_loopback()
        os.environ["VLLM_HOST_IP"] = ray.util.get_node_ip_address()  # where its events are published
        self._config = config
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._clock = SharedClock()
        self._child_guard = ChildGuard()  # before the first process of the engine
        flags = config.flags()
        self._vllm = await VllmEngine.start(flags)
        self._tokenizer = copy.deepcopy(self._vllm.tokenizer)  # a copy, because vLLM uses its own in other threads
        self._adapters = AdapterLoader(self._vllm.load_lora, Path(str(flags["model"])))
        self._prompts = RouterPrompts.build(self._tokenizer, config.max_context_tokens)
        self._tokens_seen = 0
        self._proof_at = -math.inf  # perf_counter of the last proof that tokens come out
        self._n_probes = 0
        await self.probe()

    def __del__(self) -> None:
        if engine := getattr(self, "_vllm", None):
            engine.shutdown()

    async def draft(self, payload: DraftPayload) -> AsyncGenerator[Frame, None]:
        """Generate an answer (see tiers.DraftEngine). Closing the generator aborts the request in vLLM."""
        model = self._config.model if payload.adapter is None else payload.adapter.served_as
        if payload.adapter is not None and (why := await self._adapters.load(payload.adapter)) is not None:
            raise Tier1Failed(f"the adapter {model} is not served: {why}")
        framer = Framer(model, self._replica_id)
        ticket = self._clock.enter(time.perf_counter())
        try:
            steps = self._vllm.answer(
                payload.api,
                payload.body,
                model=model,
                request_id=payload.request_id,
                prompt_token_ids=payload.prompt_token_ids,
                cache_salt=payload.cache_salt,
                stream=payload.stream,
                failed=Tier1Failed,
            )
            async with aclosing(steps):
                async for step in steps:
                    share_s = self._clock.share_s(ticket, time.perf_counter())
                    for frame in framer.frames(step, share_s):
                        yield frame
        finally:
            self._clock.leave(ticket, time.perf_counter())

    async def load_adapter(self, adapter: Adapter) -> str | None:
        """Load an adapter before the first request for it. Returns the reason when it is refused, else None."""
        return await self._adapters.load(adapter)

    async def score(self, payload: ScorePayload) -> RouterScore:
        """Ask the router model one yes/no question. p_yes is its softmax over both labels, 0 to 1."""
        prompts = self._prompts
        if payload.draft is None:
            prompt = prompts.score(payload.prompt_token_ids)
        else:
            draft = await asyncio.to_thread(encode, self._tokenizer, payload.draft)
            prompt = prompts.judge(payload.prompt_token_ids, draft)
        ticket = self._clock.enter(time.perf_counter())
        try:
            labels = await self._vllm.label_logprobs(
                prompt,
                (prompts.labels.yes, prompts.labels.no),
                request_id=payload.request_id,
                cache_salt=payload.cache_salt,
                failed=RouterFailed,
            )
        finally:
            engine_s = self._clock.leave(ticket, time.perf_counter())
        yes, no = labels.logprobs
        return RouterScore(
            p_yes=1 / (1 + math.exp(no - yes)),
            usage=labels.usage,
            engine_s=engine_s,
            replica_id=self._replica_id,
            model=self._config.model,
        )

    async def probe(self) -> None:
        """Generate one token. Raises Tier1Failed when the engine is dead or takes longer than probe_timeout_s."""
        self._n_probes += 1
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                await self._vllm.generate_one(f"probe-{self._n_probes}", failed=Tier1Failed)
        except TimeoutError as error:
            raise Tier1Failed(f"no token within {self._config.probe_timeout_s} s: the engine hangs") from error
        self._proof_at = time.perf_counter()

    async def check_health(self) -> None:
        """Serve's health hook. A dead engine fails at once. A silent one has to generate a token to be healthy."""
        if (reason := self._vllm.error) is not None:
            raise Tier1Failed("the engine is dead") from reason
        generated = self._vllm.load.generated_tokens
        if generated != self._tokens_seen:
            self._tokens_seen, self._proof_at = generated, time.perf_counter()
        elif time.perf_counter() - self._proof_at > self._config.probe_after_s:
            await self.probe()

    async def stats(self) -> EngineStats:
        """The load of this replica."""
        return EngineStats(
            replica_id=self._replica_id,
            busy_s=self._clock.busy_s(time.perf_counter()),
            **asdict(self._vllm.load),
        )

    async def reset_cache(self) -> bool:
        """Forget every cached prefix, e.g. after weights changed under the same name. False while requests hold some.

        Generates a token, because vLLM tells its followers with the next step.
        """
        reset = await self._vllm.reset_cache()
        await self.probe()
        return reset

    async def render(self, body: dict[str, Any]) -> list[int]:
        """vLLM's rendering of a chat body. The gateway renders for itself, and a test compares it with this."""
        return await self._vllm.render(body)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve's hook, called once when the replica is ready: what the request router has to know of its cache."""
        return {
            "model": self._config.model,
            "block_size_tokens": self._vllm.block_size_tokens,
            "kv_blocks": self._vllm.kv_blocks,
            "kv_block_bytes": self._vllm.kv_block_bytes,
            "host_blocks": int((self._config.kv_offload_gib or 0) * GIB / self._vllm.kv_block_bytes),
            "kv_events": self._vllm.kv_event_sources,
        }


def engine_deployment(name: str, config: EngineConfig) -> serve.Application:
    """The Serve application of one engine. `name` is the deployment's. Its handle goes into a client of client.py."""
    return (
        serve.deployment(NoopEngine if config.engine == "noop" else Engine)
        .options(
            name=name,
            **config.scaling(),
            max_replicas_per_node=config.max_replicas_per_node,
            graceful_shutdown_timeout_s=config.drain_s,
            max_ongoing_requests=config.max_concurrent_requests,
            max_queued_requests=config.max_queued_requests,
            request_router_config=request_router(config),
            health_check_period_s=config.health_period_s,
            health_check_timeout_s=config.probe_timeout_s + config.health_period_s,
            ray_actor_options={
                "num_cpus": config.num_cpus,
                "num_gpus": config.num_gpus,
                "runtime_env": {"env_vars": config.environment()},
            },
        )
        .bind(config)
    )


def request_router(config: EngineConfig) -> RequestRouterConfig:
    """How Serve chooses among the replicas of an engine."""
    routing = config.replica_routing
    if config.routes_by_cache:
        return RequestRouterConfig(
            request_router_class=KvAwareRouter, request_router_kwargs={"config": routing.model_dump(mode="json")}
        )
    if ":" in routing.policy:
        return RequestRouterConfig(request_router_class=routing.policy)
    return RequestRouterConfig()
