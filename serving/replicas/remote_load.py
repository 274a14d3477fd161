"""Counts the requests that other gateway processes have sent to this process's replicas."""

import time
from collections.abc import Container, Mapping, Sequence

from routing.replicas.load import Arrivals, UnseenWork
from serving.replicas.replica import TrackedReplica


class RemoteLoad:
    """Books what other gateway processes report on the replicas that they sent it to.

    replicas: of this process's tracker, by id. own_requests: ids of the requests that this process sends itself.
    unseen, arrivals: estimates that learn from every booking.
    """

    def __init__(
        self,
        replicas: Mapping[str, TrackedReplica],
        own_requests: Container[str],
        unseen: UnseenWork,
        arrivals: Arrivals,
    ) -> None:
        self._replicas = replicas
        self._own_requests = own_requests
        self._unseen = unseen
        self._arrivals = arrivals
        self._booked: dict[str, str] = {}  # request of another process -> its replica

    def booked(
        self, request_id: str, replica_id: str, input_tokens: int, uncached_tokens: int, decided_at: float
    ) -> None:
        """Another gateway process sent a request to a replica. decided_at: perf_counter of this machine."""
        replica = self._replicas.get(replica_id)
        if replica is None or request_id in self._own_requests:
            return
        self.released(request_id)
        self._booked[request_id] = replica_id
        work_s = replica.load.book(request_id, input_tokens, uncached_tokens, time.perf_counter())
        self._unseen.booked_elsewhere(decided_at, work_s)
        self._arrivals.observe(decided_at, work_s)

    def prefilled(self, request_id: str) -> None:
        """The first token of another process's request came. Unknown ids are fine."""
        replica = self._replicas.get(self._booked.get(request_id, ""))
        if replica is not None:
            replica.load.prefilled(request_id, time.perf_counter())

    def released(self, request_id: str) -> None:
        """Another process's request is over. Unknown ids are fine."""
        replica = self._replicas.get(self._booked.pop(request_id, ""))
        if replica is not None:
            replica.load.release(request_id, time.perf_counter())

    def mirrored(self, replica_id: str, keys: Sequence[int]) -> None:
        """Another process sent these blocks to a replica whose cache or host memory is modelled."""
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.used(keys)

    def remove_replica(self, replica_id: str) -> None:
        """A replica is gone, and with it what was booked on it."""
        self._booked = {request: to for request, to in self._booked.items() if to != replica_id}
