"""Our own engines on Ray Serve: one deployment class for tier 1 and the router, and the tiers that call it.

`Engine` runs in the replica, next to the model; `RayTier1` and `RayRouter` run wherever the cascade does and hold a
handle. vLLM is imported in the replica alone (serving/vllm_adapter.py).
"""

import asyncio
import copy
import json
import math
import os
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast

import ray
from pydantic import Field, model_validator
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from routing.cost import SharedClock
from routing.schema import Record
from serving.adapters import AdapterShelf
from serving.errors import QueueFull, RouterFailed, StackError, Tier1Failed
from serving.framing import Framer
from serving.leash import Leash
from serving.loopback import keep_replica_on_loopback
from serving.noop import NoopEngine
from serving.payloads import Adapter, DraftPayload, ScorePayload
from serving.replica_board import ReplicaBoard, ReplicaRoutingConfig, routed_prompt, shared_board
from serving.replica_router import KvAwareRouter
from serving.router_prompt import RouterPrompts, encode
from serving.tiers import Call, EngineStats, Frame, RouterScore
from serving.vllm_settings import GIB, VllmSettings

QUEUE_RETRY_AFTER_S = 1.0
# Free ports of the address in VLLM_HOST_IP: the events carry the users' token ids. An address in place of the star
# would make vLLM connect instead of listen.
KV_EVENTS = json.dumps({"enable_kv_cache_events": True, "endpoint": "tcp://*:0", "replay_endpoint": "tcp://*:0"})


class Autoscaling(Record):
    """How many replicas Ray Serve runs, by the requests they are answering; `replicas` is not used then."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(
        gt=0, description="per replica; keep it under max_concurrent_requests, or queues grow before replicas do"
    )
    upscale_delay_s: float = Field(10, ge=0, description="load has to last that long")
    downscale_delay_s: float = Field(600, ge=0, description="a model takes minutes to load: let go slowly")
    look_back_period_s: float = Field(30, gt=10, description="load is its mean over so long; it is told every 10 s")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class EngineConfig(VllmSettings):
    """One of our own engines on Ray Serve: how many replicas, how much they admit, when they are unhealthy."""

    engine: Literal["vllm", "noop"] = Field("vllm", description="noop: says nothing useful at once; for benchmarks")
    noop_token_s: float = Field(0, ge=0, le=60, description="noop only: pause before each token")
    replicas: int = Field(1, ge=1)
    autoscaling: Autoscaling | None = None
    drain_s: float = Field(
        20, gt=0, description="a replica that is replaced or scaled away may finish its requests for so long"
    )
    max_queued_requests: int = Field(
        32,
        ge=1,
        description="per caller; every request is queued first, so also the largest burst an idle engine takes",
    )
    num_gpus: float = Field(0, ge=0, description="per replica")
    num_cpus: float = Field(0, ge=0, description="Ray's logical CPUs per replica; for placement only")
    max_replicas_per_node: int | None = Field(
        None, ge=1, le=100, description="what keeps one node from taking all; replicas without room wait for a node"
    )
    health_period_s: float = Field(2.0, gt=0, description="how often a dead engine is looked for")
    probe_after_s: float = Field(15.0, gt=0, description="silence after which health means: generate one token")
    probe_timeout_s: float = Field(20.0, gt=0, description="an engine that cannot do that in time is unhealthy")
    replica_routing: ReplicaRoutingConfig = ReplicaRoutingConfig()

    @property
    def most_replicas(self) -> int:
        """How many there may be at once."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas

    def scaling(self) -> dict[str, Any]:
        """Serve's deployment options for the number of replicas."""
        if self.autoscaling is None:
            return {"num_replicas": self.replicas}
        return {"autoscaling_config": self.autoscaling.model_dump()}

    @model_validator(mode="after")
    def _whole_gpus_for_several(self) -> Self:
        if self.tensor_parallel > 1 and self.num_gpus != self.tensor_parallel:
            raise ValueError(f"tensor_parallel {self.tensor_parallel} needs num_gpus {self.tensor_parallel}")
        return self

    @property
    def routes_by_cache(self) -> bool:
        """Whether requests are led to the replica that holds their prefix; a single replica needs no choice."""
        return self.most_replicas > 1 and self.prefix_caching and self.replica_routing.policy == "kv_aware"

    def flags(self) -> dict[str, str | int | float | bool]:
        """See VllmSettings; with several replicas each one publishes what its cache holds."""
        events = {"kv_events_config": KV_EVENTS} if self.routes_by_cache and self.replica_routing.kv_events else {}
        return events | super().flags()


class Engine:
    """One replica: a vLLM engine, the clock that bills it, and its health. Methods are called through handles."""

    async def __init__(self, config: EngineConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.vllm_adapter import VllmEngine  # noqa: PLC0415 - here alone: vLLM takes seconds and a GiB to import

        keep_replica_on_loopback()
        os.environ["VLLM_HOST_IP"] = ray.util.get_node_ip_address()  # where its events are published
        self._config = config
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._clock = SharedClock()
        self._leash = Leash()  # before the first process of the engine
        flags = config.flags()
        self._vllm = await VllmEngine.start(flags)
        self._tokenizer = copy.deepcopy(self._vllm.tokenizer)  # of our own: vLLM uses its one in other threads
        self._shelf = AdapterShelf(self._vllm.load_lora, Path(str(flags["model"])))
        self._prompts = RouterPrompts.build(self._tokenizer, config.max_context_tokens)
        self._tokens_seen = 0
        self._proof_at = -math.inf  # perf_counter of the last proof that tokens come out
        self._n_probes = 0
        await self.probe()

    def __del__(self) -> None:
        if engine := getattr(self, "_vllm", None):
            engine.shutdown()

    async def draft(self, payload: DraftPayload) -> AsyncGenerator[Frame, None]:
        """Generate; see tiers.DraftEngine. Closing the generator aborts the request in vLLM."""
        model = self._config.model if payload.adapter is None else payload.adapter.served_as
        if payload.adapter is not None and (why := await self._shelf.load(payload.adapter)) is not None:
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
        """Have an adapter ready before the first request for it; why not, when it is refused."""
        return await self._shelf.load(adapter)

    async def score(self, payload: ScorePayload) -> RouterScore:
        """Ask the router model one yes/no question; p_yes is its softmax over both labels."""
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
        """Serve's health hook. A dead engine fails at once; a silent one has to generate a token to be healthy."""
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
        """Forget every cached prefix, e.g. after weights changed under the same name; False while requests hold some.

        Generates a token: vLLM tells its followers with the next step.
        """
        reset = await self._vllm.reset_cache()
        await self.probe()
        return reset

    async def render(self, body: dict[str, Any]) -> list[int]:
        """vLLM's rendering of a chat body; the ingress renders for itself and a test holds it to this."""
        return await self._vllm.render(body)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve's hook, called once when the replica is ready: what a replica router has to know about its cache."""
        return {
            "model": self._config.model,
            "block_size_tokens": self._vllm.block_size_tokens,
            "kv_blocks": self._vllm.kv_blocks,
            "kv_block_bytes": self._vllm.kv_block_bytes,
            "host_blocks": int((self._config.kv_offload_gib or 0) * GIB / self._vllm.kv_block_bytes),
            "kv_events": self._vllm.kv_event_sources,
        }


def engine_deployment(name: str, config: EngineConfig) -> serve.Application:
    """The Serve application of one engine; `name` is the deployment's. Its handle goes into RayTier1 or RayRouter."""
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


class Methods:
    """The methods of an `Engine` deployment, each a handle of its own that is made once.

    On first use, not before: Serve binds a handle to the event loop that is running when its options are set. What
    crosses is plain records, so C's pickle does; Serve's default, cloudpickle, takes more than twice as long.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def _method(self, name: str, stream: bool = False) -> DeploymentHandle:
        return self._handle.options(
            method_name=name, stream=stream, request_serialization="pickle", response_serialization="pickle"
        )

    @cached_property
    def draft(self) -> DeploymentHandle:
        """Engine.draft; a stream of frames."""
        return self._method("draft", stream=True)

    @cached_property
    def score(self) -> DeploymentHandle:
        """Engine.score."""
        return self._method("score")

    @cached_property
    def probe(self) -> DeploymentHandle:
        """Engine.probe."""
        return self._method("probe")

    @cached_property
    def stats(self) -> DeploymentHandle:
        """Engine.stats."""
        return self._method("stats")


class RayTier1:
    """tiers.DraftEngine over a handle of an `Engine` deployment."""

    def __init__(self, handle: DeploymentHandle, config: EngineConfig) -> None:
        self.model = config.model
        self.max_context_tokens = config.max_context_tokens
        self._handle, self._engine = handle, Methods(handle)
        self.board = (
            shared_board(handle.app_name, handle.deployment_name, config.replica_routing)
            if config.routes_by_cache
            else None
        )

    async def draft(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See tiers.DraftEngine."""
        payload = DraftPayload(
            call.api,
            dict(call.body),
            call.request_id,
            call.prompt_token_ids,
            call.cache_salt,
            call.stream,
            call.session_id,
            call.adapter,
        )
        frames = self._generate(payload) if self.board is None else self._chosen(payload, self.board)
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    async def _chosen(self, payload: DraftPayload, board: ReplicaBoard) -> AsyncGenerator[Frame, None]:
        """Tell the board what becomes of the request, and the caller how its replica was chosen."""
        board.expect(routed_prompt(payload))
        told = prefilled = False
        try:
            async with aclosing(self._generate(payload)) as frames:
                async for frame in frames:
                    if not prefilled and (frame.n_tokens or frame.text or frame.usage):
                        prefilled = True
                        board.prefilled(payload.request_id)
                    if told:
                        yield frame
                    else:
                        told = True
                        yield replace(frame, replica_choice=board.choice(payload.request_id))
        finally:
            board.release(payload.request_id)

    async def _generate(self, payload: DraftPayload) -> AsyncGenerator[Frame, None]:
        frames = self._engine.draft.remote(payload)
        ended = False
        try:
            async for frame in frames:
                yield frame
            ended = True
        except asyncio.CancelledError as error:
            raise_if_ours(error)
            raise Tier1Failed("the replica gave the request up") from error
        except Exception as error:
            ended = True
            raise from_ray(error, Tier1Failed) from error
        finally:
            if not ended:
                frames.cancel()

    async def load_adapter(self, adapter: Adapter) -> str | None:
        """See tiers.DraftEngine."""
        try:
            said = await self._handle.broadcast("load_adapter", adapter).results_async()
        except Exception as error:
            raise from_ray(error, Tier1Failed) from error
        return next((why for why in said if why is not None), None)

    async def probe(self) -> None:
        """See tiers.DraftEngine."""
        await called(self._engine.probe.remote(), Tier1Failed)

    async def stats(self) -> EngineStats:
        """See tiers.DraftEngine."""
        return cast(EngineStats, await called(self._engine.stats.remote(), Tier1Failed))


class RayRouter:
    """tiers.RouterModel over a handle of an `Engine` deployment."""

    def __init__(self, handle: DeploymentHandle, config: EngineConfig) -> None:
        self.model = config.model
        self._engine = Methods(handle)

    async def score(self, call: Call) -> RouterScore:
        """See tiers.RouterModel."""
        payload = ScorePayload(f"{call.request_id}-score", call.prompt_token_ids, call.cache_salt)
        return cast(RouterScore, await called(self._engine.score.remote(payload), RouterFailed))

    async def judge(self, call: Call, draft: str) -> RouterScore:
        """See tiers.RouterModel."""
        payload = ScorePayload(f"{call.request_id}-judge", call.prompt_token_ids, call.cache_salt, draft)
        return cast(RouterScore, await called(self._engine.score.remote(payload), RouterFailed))

    async def probe(self) -> None:
        """See tiers.RouterModel."""
        await called(self._engine.probe.remote(), RouterFailed)

    async def stats(self) -> EngineStats:
        """See tiers.RouterModel."""
        return cast(EngineStats, await called(self._engine.stats.remote(), RouterFailed))


async def called(response: Awaitable[Any], failed: type[StackError]) -> Any:
    """Await a handle call; cancelling the caller cancels the call. Raises ours for Ray's errors."""
    try:
        return await response
    except asyncio.CancelledError as error:
        response.cancel()  # type: ignore[attr-defined]  # Ray's response, no plain awaitable
        raise_if_ours(error)
        raise failed("the replica gave the request up") from error
    except Exception as error:
        raise from_ray(error, failed) from error


def raise_if_ours(error: asyncio.CancelledError) -> None:
    """Let a cancellation of this task through; Ray raises the same class when a replica drops a request as it stops."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error


def from_ray(error: Exception, failed: type[StackError]) -> StackError:
    """Our error for what came out of a handle: the one the replica raised, QueueFull, or `failed`."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, StackError):
        # A probe of the shared class says Tier1Failed; whoever asked the router hears RouterFailed.
        return failed(cause.message) if isinstance(cause, Tier1Failed) and failed is not Tier1Failed else cause
    if isinstance(cause, BackPressureError):
        return QueueFull("every place in the queue is taken; try again soon", retry_after_s=QUEUE_RETRY_AFTER_S)
    return failed(f"the replica failed: {type(cause).__name__}")
