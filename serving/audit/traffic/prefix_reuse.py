"""Measures how much of the prompts a prefix cache would have held, with the product's own block keys and LRU.

Tenants share no blocks. A log without token ids is cut into blocks of raw JSON, four bytes for a token. That measures
shares, not counts. Caches of several sizes are followed at once. The unbounded one uses an estimate of distinct blocks.
"""

from array import array
from dataclasses import dataclass

import numpy as np

from routing.replicas.kv_blocks import BlockIndex, MirrorBlocks, block_keys, root_key
from serving.audit.formats.call import BYTES_PER_TOKEN, Call
from serving.audit.traffic.accounts import MAX_NAMES, OTHERS

HOLDER = "cache"
ROUTED_SHARE = (
    0.95  # of one pooled cache's hits, at least, by routing to cached blocks: `python -m benchmarks replicas`
)
SMALLEST_KEYS = 1 << 18  # of the distinct-block estimate: exact up to here, then within 1/sqrt(n) = 0.2 %


class DistinctKeys:
    """Estimates the number of different keys from the smallest ones (KMV): n keys over 2^64 leave gaps of 2^64/n.

    Source: Bar-Yossef et al. 2002, Counting Distinct Elements in a Data Stream.
    """

    def __init__(self, capacity: int = SMALLEST_KEYS) -> None:
        self._capacity = capacity
        self._smallest = np.zeros(0, dtype=np.uint64)
        self._limit = 2**64
        self._new = array("Q")

    def add(self, keys: list[int]) -> None:
        """Count some keys, new or seen before. Keys are hashes."""
        limit = self._limit
        self._new.extend(keys if limit == 2**64 else [key for key in keys if key < limit])
        if len(self._new) >= 2 * self._capacity:
            self._merge()

    def _merge(self) -> None:
        both = np.union1d(self._smallest, np.frombuffer(self._new, dtype=np.uint64))[: self._capacity + 1]
        self._smallest, self._new = both, array("Q")
        if len(both) > self._capacity:
            self._limit = int(both[-1])

    def count(self) -> float:
        """The estimate. Exact while no more than the capacity was seen."""
        self._merge()
        if len(self._smallest) <= self._capacity:
            return float(len(self._smallest))
        return self._capacity * 2.0**64 / float(self._smallest[self._capacity])


@dataclass(slots=True)
class Cache:
    """One LRU of full blocks and what it would have saved. Token counts are of the prompts' own usage."""

    capacity_tokens: int
    index: BlockIndex
    mirror: MirrorBlocks
    hit_tokens: float = 0.0


class PrefixReuse:
    """Follows every prompt through caches of the given sizes. The figures by tenant are of the first size."""

    def __init__(self, capacities_tokens: list[int], block_size_tokens: int) -> None:
        """capacities_tokens: at least one, each at least a block."""
        self.block_size_tokens = block_size_tokens
        self.caches = []
        for tokens in capacities_tokens:
            index = BlockIndex()
            self.caches.append(Cache(tokens, index, MirrorBlocks(index, HOLDER, max(1, tokens // block_size_tokens))))
        self.requests = 0
        self.input_tokens = 0
        self.blocks = 0
        self.tenants: dict[str, list[float]] = {}  # input tokens, hit tokens in the first cache
        self._distinct = DistinctKeys()
        self._block_tokens = 0.0  # prompt tokens that lie in full blocks
        self._roots: dict[str, int] = {}
        self._block_bytes = block_size_tokens * BYTES_PER_TOKEN

    def add(self, call: Call) -> None:
        """Send one prompt through the caches. A call without a prompt in the log is left out."""
        root = self._root(call.tenant)
        if call.block_ids is not None:
            keys = block_keys(call.block_ids, 1, root)  # an id stands for a whole block's content
            full_tokens = min(len(keys) * self.block_size_tokens, call.input_tokens)
        elif call.prompt and call.input_tokens:
            prompt = call.prompt
            size = len(prompt)
            keys = block_keys(array("I", prompt[: size // 4 * 4]), self.block_size_tokens, root)
            full_tokens = int(call.input_tokens * len(keys) * self._block_bytes / size)
        else:
            return
        self.requests += 1
        self.input_tokens += call.input_tokens
        name = call.tenant if call.tenant in self.tenants or len(self.tenants) < MAX_NAMES else OTHERS
        tenant = self.tenants.setdefault(name, [0.0, 0.0])
        tenant[0] += call.input_tokens
        if not keys:
            return
        self.blocks += len(keys)
        self._block_tokens += full_tokens
        self._distinct.add(keys)
        block_tokens = full_tokens / len(keys)
        most = call.input_tokens - 1  # the last token is always computed
        for place, cache in enumerate(self.caches):
            depth = cache.index.match(keys)[HOLDER]
            if depth:
                hit_tokens = min(depth * block_tokens, most)
                cache.hit_tokens += hit_tokens
                if not place:
                    tenant[1] += hit_tokens
            cache.mirror.used(keys)

    def _root(self, tenant: str) -> int:
        root = self._roots.get(tenant)
        if root is None:
            root = root_key(tenant)
            if len(self._roots) < MAX_NAMES:
                self._roots[tenant] = root
        return root

    def hit_ratio(self, place: int = 0) -> float | None:
        """Share of the input tokens found in that cache. None when no prompt was in the log."""
        return self.caches[place].hit_tokens / self.input_tokens if self.input_tokens else None

    def pooled_hit_ratio(self, replicas: int) -> float:
        """What so many replicas find when requests go where their prefix is. 0 when no prompt was in the log.

        It is the share of one cache, of the largest followed size that they fill, minus what routing loses.
        """
        size = replicas * self.caches[0].capacity_tokens
        places = [place for place, cache in enumerate(self.caches) if cache.capacity_tokens <= size]
        found = self.hit_ratio(max(places, key=lambda place: self.caches[place].capacity_tokens)) or 0.0
        return found if replicas == 1 else max(self.hit_ratio() or 0.0, ROUTED_SHARE * found)

    def unbounded_hit_ratio(self) -> float | None:
        """The same of a cache that forgets nothing. A block seen before is a hit, as its prefix was seen with it."""
        if not self.input_tokens or not self.blocks:
            return 0.0 if self.input_tokens else None
        seen_before = max(0.0, 1 - self._distinct.count() / self.blocks)
        return min(seen_before * self._block_tokens / self.input_tokens, 1.0)
