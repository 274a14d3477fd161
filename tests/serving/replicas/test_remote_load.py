"""What other gateway processes send is booked here until it ends, once."""

import time

from routing.replicas.load import Arrivals, UnseenWork
from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.remote_load import RemoteLoad
from serving.replicas.tracker import ReplicaTracker

FACTS = {"block_size_tokens": 16, "kv_blocks": 100}


async def two_replicas() -> ReplicaTracker:
    tracker = ReplicaTracker(ReplicaRoutingConfig())
    tracker.set_replicas(dict.fromkeys("ab", FACTS))
    return tracker


def outstanding(tracker: ReplicaTracker) -> list[int]:
    return [replica.load.outstanding for replica in tracker.replicas.values()]


async def test_second_booking_of_a_request_moves_it() -> None:
    tracker = await two_replicas()
    for replica_id in "ab":
        tracker.remote.booked("theirs", replica_id, 100, 100, time.perf_counter())
    assert outstanding(tracker) == [0, 1]
    tracker.remote.released("theirs")
    assert outstanding(tracker) == [0, 0]


async def test_own_request_and_unknown_replica_are_not_booked() -> None:
    tracker = await two_replicas()
    remote = RemoteLoad(tracker.replicas, {"ours"}, UnseenWork(), Arrivals())
    remote.booked("ours", "a", 100, 100, time.perf_counter())
    remote.booked("theirs", "gone", 100, 100, time.perf_counter())
    assert outstanding(tracker) == [0, 0]


async def test_replica_that_comes_back_has_none_of_the_old_bookings() -> None:
    tracker = await two_replicas()
    tracker.remote.booked("theirs", "a", 100, 100, time.perf_counter())
    tracker.set_replicas({"b": FACTS})
    tracker.set_replicas(dict.fromkeys("ab", FACTS))
    tracker.remote.booked("next", "a", 100, 100, time.perf_counter())
    tracker.remote.released("theirs")
    assert tracker.replicas["a"].load.outstanding == 1


async def test_unknown_ids_are_fine() -> None:
    tracker = await two_replicas()
    tracker.remote.prefilled("never heard of")
    tracker.remote.released("never heard of")
    tracker.remote.mirrored("gone", [1, 2])
    assert outstanding(tracker) == [0, 0]
