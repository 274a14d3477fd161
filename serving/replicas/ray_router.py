"""Ray Serve's request router for a deployment with several replicas. It sends requests in the tracker's order.

There is one instance per handle. All share their process's `ReplicaTracker`. Nothing here waits for anything outside.
"""

import random
from asyncio import Future
from collections import defaultdict
from functools import partial
from typing import Any

from ray.serve._private.common import ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve.request_router import RequestRouter

from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.routed_prompt import RoutedPrompt, routed_prompt
from serving.replicas.tracker import shared_tracker
from serving.request.payloads import DraftPayload


class KvAwareRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped here
    """Sends each request to the replica where it will start earliest (see routing/replicas/rank.py).

    Two kinds of calls take the shorter of two queues drawn at random: calls without a prompt (probes, statistics), and
    prompts for which nothing is known of the caches.
    """

    def initialize_state(self, config: dict[str, Any]) -> None:
        """Called by Serve with `request_router_kwargs`."""
        deployment = self._deployment_id
        self._tracker = shared_tracker(
            deployment.app_name, deployment.name, ReplicaRoutingConfig.model_validate(config)
        )
        self._random = random.Random()  # noqa: S311 - spreads load
        self._waiting: dict[int, PendingRequest] = {}  # by the identity of their metadata
        self._sent: defaultdict[str, list[str]] = defaultdict(list)  # Serve's id of a request -> ours

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's hook: the replicas that run now."""
        self._tracker.set_replicas({r.replica_id.unique_id: r.replica_metadata for r in replicas})
        super().update_replicas(replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Serve's hook: ranks of candidates, one replica each, because within a rank Serve takes the shortest queue."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # or Serve would ask again and again while all are full
        self._remember(pending_request)
        prompt = prompt_of(pending_request)
        if prompt is None:
            return self._two(candidate_replicas)
        # A full replica would be asked for its queue, and the request would wait for the answer.
        free = self.select_available_replicas(candidate_replicas) or candidate_replicas
        by_id = {replica.replica_id.unique_id: replica for replica in free}
        ranked = self._tracker.rank(prompt, list(by_id))
        if not ranked:
            return self._two(free)
        return [[by_id[replica_id]] for replica_id in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Serve's hook: a replica accepted the request."""
        prompt = prompt_of(pending_request)
        if prompt is not None:
            self._tracker.routed(prompt.request_id, replica_id.unique_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Serve's hook: a call is over, however it ended, refusals included."""
        ours = self._sent.get(internal_request_id, [])
        # Calls made for one request of the gateway share Serve's id.
        ended = next((request_id for request_id in ours if self._tracker.is_at(request_id, replica_id.unique_id)), None)
        if ended is not None:
            self._forget(internal_request_id, ended)
            self._tracker.call_ended(ended)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Serve's hook: found dead before the controller said so."""
        super().on_replica_actor_died(replica_id)
        self._tracker.remove_replica(replica_id.unique_id)

    def _two(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        """Power of two choices: one rank of two, of which Serve takes the shorter queue."""
        return [self._random.sample(replicas, min(2, len(replicas)))]

    def _remember(self, pending: PendingRequest) -> None:
        """Note a request that waits for its replica, once."""
        key, prompt = id(pending.metadata), prompt_of(pending)
        if key in self._waiting:
            return
        self._waiting[key] = pending
        if prompt is not None:
            self._sent[pending.metadata.internal_request_id].append(prompt.request_id)
        pending.future.add_done_callback(partial(self._waited, pending, prompt))

    def _waited(self, pending: PendingRequest, prompt: RoutedPrompt | None, future: Future[RunningReplica]) -> None:
        self._waiting.pop(id(pending.metadata), None)
        if future.cancelled() and prompt is not None:  # its caller left before any call was made
            self._forget(pending.metadata.internal_request_id, prompt.request_id)
            self._tracker.call_ended(prompt.request_id)

    def _forget(self, internal_request_id: str, request_id: str) -> None:
        ours = self._sent[internal_request_id]
        if request_id in ours:
            ours.remove(request_id)
        if not ours:
            del self._sent[internal_request_id]

    def _get_pending_request_matching_internal_request_id(
        self, request_metadata: RequestMetadata | None = None
    ) -> PendingRequest | None:
        """The very request that a replica was chosen for.

        Serve finds it by an id that all calls for one request of the gateway share. Of two calls at once it would
        answer one twice and the other never.
        """
        pending = self._waiting.get(id(request_metadata))
        return None if pending is None or pending.future.done() else pending


def prompt_of(pending: PendingRequest) -> RoutedPrompt | None:
    """The prompt that a call carries. None for calls that generate nothing."""
    payload = pending.args[0] if pending.args else None
    if not isinstance(payload, DraftPayload):
        return None
    return routed_prompt(payload)
