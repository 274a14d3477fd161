"""How much of a prompt a replica is said to have cached."""

from routing.replicas.kv_blocks import BlockIndex
from routing.replicas.load import PrefillRate, ReplicaLoad
from serving.replicas.cached_prefix import CachedPrefix, PromptKeys, cached_prefixes
from serving.replicas.kv_events import EventCounts
from serving.replicas.replica import TrackedReplica
from serving.replicas.routed_prompt import RoutedPrompt

TOKENS = 100


class Replicas:
    """Replicas whose caches are modelled, in one pair of indexes."""

    def __init__(self) -> None:
        self.index, self.host_index = BlockIndex(), BlockIndex()
        self.all: list[TrackedReplica] = []

    def add(self, **facts: int) -> TrackedReplica:
        load = ReplicaLoad(PrefillRate())
        replica_id = f"replica {len(self.all)}"
        replica = TrackedReplica(
            replica_id, facts, load, self.index, self.host_index, EventCounts(), follow=False, unreachable_after_s=5.0
        )
        self.all.append(replica)
        return replica

    def prefixes(self, keys: PromptKeys) -> list[CachedPrefix]:
        return cached_prefixes(keys, TOKENS, self.all, self.index, self.host_index)


def prompt_keys() -> PromptKeys:
    return PromptKeys(RoutedPrompt("1", list(range(TOKENS)), "salt", None))


def test_each_replica_is_asked_in_its_own_block_size() -> None:
    replicas, keys = Replicas(), prompt_keys()
    for size in (16, 32):
        replica = replicas.add(block_size_tokens=size, kv_blocks=100)
        replica.used(keys.of(replica))
    assert replicas.prefixes(keys) == [(96, 0), (96, 0)]
    assert [len(keys.of(replica)) for replica in replicas.all] == [6, 3]


def test_replica_of_which_nothing_is_known_has_nothing() -> None:
    replicas, keys = Replicas(), prompt_keys()
    replicas.add()
    assert replicas.prefixes(keys) == [(0, 0)]


def test_host_memory_counts_only_beyond_the_kv_cache() -> None:
    replicas, keys = Replicas(), prompt_keys()
    replica = replicas.add(block_size_tokens=16, kv_blocks=100, host_blocks=1000)
    replica.used(keys.of(replica))
    assert replicas.prefixes(keys) == [(96, 0)]
    assert replica.blocks is not None
    replica.blocks.cleared()
    assert replicas.prefixes(keys) == [(0, 96)]


def test_keys_are_computed_once_for_each_block_size() -> None:
    replicas, keys = Replicas(), prompt_keys()
    first, second = (replicas.add(block_size_tokens=16, kv_blocks=100) for _ in range(2))
    assert keys.of(first) is keys.of(second)
