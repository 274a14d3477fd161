"""Clients through which the cascade calls our own engines on Ray Serve (serving/engine/deployment.py).

They run in the gateway process. Neither vLLM nor a model is imported here.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from serving.engine.config import EngineConfig
from serving.errors import QueueFull, RouterFailed, StackError, Tier1Failed
from serving.replicas.routed_prompt import routed_prompt
from serving.replicas.tracker import ReplicaTracker, shared_tracker
from serving.request.call import Adapter, Call
from serving.request.frame import Frame, RouterScore
from serving.request.payloads import DraftPayload, ScorePayload
from serving.request.tiers import EngineStats

QUEUE_RETRY_AFTER_S = 1.0


class Methods:
    """The methods of an `Engine` deployment. Each is a handle of its own that is made once.

    A handle is made on first use, because Serve binds it to the event loop that runs when its options are set.
    Only plain records cross, so C's pickle is enough. Serve's default, cloudpickle, takes more than twice as long.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def _method(self, name: str, stream: bool = False) -> DeploymentHandle:
        return self._handle.options(
            method_name=name, stream=stream, request_serialization="pickle", response_serialization="pickle"
        )

    @cached_property
    def draft(self) -> DeploymentHandle:
        """Engine.draft, a stream of frames."""
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


class EngineClient:
    """tiers.DraftEngine over a handle of an `Engine` deployment."""

    def __init__(self, handle: DeploymentHandle, config: EngineConfig) -> None:
        self.model = config.model
        self.max_context_tokens = config.max_context_tokens
        self._handle, self._engine = handle, Methods(handle)
        self.tracker = (
            shared_tracker(handle.app_name, handle.deployment_name, config.replica_routing)
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
        frames = self._generate(payload) if self.tracker is None else self._chosen(payload, self.tracker)
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    async def _chosen(self, payload: DraftPayload, tracker: ReplicaTracker) -> AsyncGenerator[Frame, None]:
        """Tell the tracker how the request goes on, and the caller how its replica was chosen."""
        tracker.expect(routed_prompt(payload))
        told = prefilled = False
        try:
            async with aclosing(self._generate(payload)) as frames:
                async for frame in frames:
                    if not prefilled and (frame.n_tokens or frame.text or frame.usage):
                        prefilled = True
                        tracker.prefilled(payload.request_id)
                    if told:
                        yield frame
                    else:
                        told = True
                        yield replace(frame, replica_choice=tracker.choice(payload.request_id))
        finally:
            tracker.release(payload.request_id)

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


class RouterClient:
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
    """Await a handle call. Cancelling the caller cancels the call. Raises our errors for Ray's."""
    try:
        return await response
    except asyncio.CancelledError as error:
        response.cancel()  # type: ignore[attr-defined]  # Ray's response, no plain awaitable
        raise_if_ours(error)
        raise failed("the replica gave the request up") from error
    except Exception as error:
        raise from_ray(error, failed) from error


def raise_if_ours(error: asyncio.CancelledError) -> None:
    """Raise the cancellation again when this task was cancelled.

    Ray raises the same class when a replica drops a request as it stops.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error


def from_ray(error: Exception, failed: type[StackError]) -> StackError:
    """Our error for one that a handle raised: the replica's own error, QueueFull, or `failed`."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, StackError):
        # Both deployments share a class whose probe raises Tier1Failed. Of the router it means RouterFailed.
        return failed(cause.message) if isinstance(cause, Tier1Failed) and failed is not Tier1Failed else cause
    if isinstance(cause, BackPressureError):
        return QueueFull("every place in the queue is taken; try again soon", retry_after_s=QUEUE_RETRY_AFTER_S)
    return failed(f"the replica failed: {type(cause).__name__}")
