"""The router inside Ray Serve's own machinery, with replicas that answer at once and no cluster."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest

from routing.records import Api, ReplicaMode
from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.ray_router import KvAwareRouter
from serving.request.payloads import DraftPayload, ScorePayload

FACTS = {"block_size_tokens": 16, "kv_blocks": 100}


class Replica:
    """What a router sees of a running replica."""

    def __init__(self, deployment: DeploymentID, name: str, facts: dict[str, Any], room: int = 8) -> None:
        self.replica_id = ReplicaID(unique_id=name, deployment_id=deployment)
        self.replica_metadata = facts
        self.max_ongoing_requests = room
        self.actor_id = self.node_id = self.availability_zone = None
        self.multiplexed_model_ids: set[str] = set()
        self.ongoing = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing


class Tier:
    """A router with three replicas, and what Serve does with it around a request."""

    def __init__(self, facts: dict[str, Any], room: int = 8) -> None:
        deployment = DeploymentID(name="tier1", app_name=uuid.uuid4().hex)
        self.router = KvAwareRouter(deployment, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
        self.router.initialize_state(config=ReplicaRoutingConfig().model_dump(mode="json"))
        self.replicas = [Replica(deployment, name, facts, room) for name in "abc"]
        self.router.update_replicas(self.replicas)
        self.tracker = self.router._tracker

    async def choose(self, call: PendingRequest) -> Replica:
        replica: Replica = await self.router._choose_replica_for_request(call)
        self.router.on_send_request(replica.replica_id)
        self.router.on_request_routed(call, replica.replica_id, None)
        return replica

    def end(self, call: PendingRequest, replica: Replica) -> None:
        self.router.on_request_completed(replica.replica_id, call.metadata.internal_request_id)
        self.router.decrement_queue_len_cache(replica.replica_id)


def draft(request_id: str, serve_id: str | None = None, first: int = 0) -> PendingRequest:
    """A call that carries a prompt of 100 tokens."""
    payload = DraftPayload(Api.CHAT, {}, request_id, [first, *range(1, 100)], "salt", stream=True)
    return call(payload, serve_id or request_id)


def call(payload: Any, serve_id: str) -> PendingRequest:
    metadata = RequestMetadata(request_id=serve_id, internal_request_id=serve_id)
    return PendingRequest(args=[payload] if payload else [], kwargs={}, metadata=metadata)


NewTier = Callable[..., Tier]


@pytest.fixture
async def new_tier() -> AsyncGenerator[NewTier, None]:
    made: list[Tier] = []

    def make(facts: dict[str, Any] | None = None, room: int = 8) -> Tier:
        made.append(Tier(FACTS if facts is None else facts, room))
        return made[-1]

    yield make
    for tier in made:
        tier.tracker.close()
        for task in tier.router._routing_tasks:
            task.cancel()


async def test_same_prompt_goes_where_it_went_before(new_tier: NewTier) -> None:
    tier = new_tier()
    first = draft("1")
    holder = await tier.choose(first)
    tier.end(first, holder)
    for n in range(2, 6):
        again = draft(str(n))
        assert await tier.choose(again) is holder
        tier.end(again, holder)
    assert tier.tracker.open_requests == 0


async def test_two_calls_with_one_id_of_serve_are_both_answered(new_tier: NewTier) -> None:
    """All calls made for one request of the gateway share Serve's id; several drafts of it may wait at once."""
    tier = new_tier()
    calls = [draft(f"sample {n}", serve_id="one request", first=n) for n in range(6)]
    async with asyncio.timeout(10):
        replicas = await asyncio.gather(*map(tier.choose, calls))
    assert sum(replica.load.outstanding for replica in tier.tracker.replicas.values()) == 6
    for sent, replica in zip(calls, replicas, strict=True):
        tier.end(sent, replica)
    assert tier.tracker.open_requests == 0
    assert not tier.router._sent


async def test_full_replica_is_passed_over(new_tier: NewTier) -> None:
    tier = new_tier(room=1)
    first, second = draft("1"), draft("2")
    holder = await tier.choose(first)
    holder.ongoing = 1
    assert await tier.choose(second) is not holder


async def test_call_cancelled_while_it_waits_leaves_nothing_booked(new_tier: NewTier) -> None:
    tier = new_tier(room=1)
    for n in range(3):
        (await tier.choose(draft(str(n), first=n))).ongoing = 1
    waiting = asyncio.create_task(tier.choose(draft("waits", first=9)))
    async with asyncio.timeout(10):
        while tier.tracker.open_requests < 4:  # noqa: ASYNC110 - nothing there announces itself
            await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert tier.tracker.open_requests == 3
    assert not tier.router._waiting


async def test_refused_call_is_booked_where_it_goes_next(new_tier: NewTier) -> None:
    tier = new_tier()
    asked = draft("1")
    refusing: Replica = await tier.router._choose_replica_for_request(asked)
    tier.router.on_new_queue_len_info(refusing.replica_id, 8)
    refusing.ongoing = 8
    tier.end(asked, refusing)
    taking: Replica = await tier.router._choose_replica_for_request(asked, is_retry=True)
    assert taking is not refusing
    loads = {replica.replica_id: replica.load.outstanding for replica in tier.tracker.replicas.values()}
    assert loads == {"a": 0, "b": 0, "c": 0} | {taking.replica_id.unique_id: 1}


async def test_dead_replica_is_forgotten_at_once(new_tier: NewTier) -> None:
    tier = new_tier()
    holder = await tier.choose(draft("1"))
    tier.router.on_replica_actor_died(holder.replica_id)
    assert holder.replica_id.unique_id not in tier.tracker.replicas
    assert await tier.choose(draft("2")) is not holder


@pytest.mark.parametrize("payload", [None, ScorePayload("1", [1, 2, 3], "salt")], ids=["probe", "score"])
async def test_call_without_a_prompt_is_routed_and_not_counted(new_tier: NewTier, payload: Any) -> None:
    tier = new_tier()
    sent = call(payload, "1")
    tier.end(sent, await tier.choose(sent))
    assert not tier.tracker.counts.decisions


async def test_unknown_caches_are_left_to_two_choices(new_tier: NewTier) -> None:
    tier = new_tier(facts={})
    asked = draft("1")
    ranks = await tier.router.choose_replicas(tier.replicas, asked)
    assert [len(rank) for rank in ranks] == [2]
    assert tier.tracker.counts.decisions == {ReplicaMode.FALLBACK: 1}


async def test_each_rank_is_one_replica(new_tier: NewTier) -> None:
    """Within a rank the shortest queue wins, whatever the ranking says."""
    tier = new_tier()
    asked = draft("1")
    ranks = await tier.router.choose_replicas(tier.replicas, asked)
    assert [len(rank) for rank in ranks] == [1, 1, 1]
    assert asked.routing_context.should_backoff
