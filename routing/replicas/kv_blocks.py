"""Which replica holds which prefix: chained block keys and a bounded index from block to replicas.

A key means "this block after exactly that prefix", so the longest run of known keys is the longest cached prefix. The
index is filled from the reports of engines (`ExactBlocks`). For engines that report nothing it is filled from what was
sent to them (`MirrorBlocks`). It is a hint about where to compute, never a source of content: a wrong entry costs time,
not privacy.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

from routing.replicas.key_table import KeyTable

# One bit of a 64-bit value each. A tier with more replicas needs one index per group of 64.
MAX_REPLICAS = 64
BYTES_PER_TOKEN = 4


def root_key(salt: str, lora_name: str | None = None) -> int:
    """The key before the first block. Prompts under different salts or adapters share no key (up to 64-bit chance).

    salt: the tenant's cache salt as the server derived it. Its length is hashed too, so that no salt can be chosen
    that runs into a LoRA's name.
    """
    salt_bytes = salt.encode()
    lora_bytes = b"" if lora_name is None else b"\x01" + lora_name.encode()
    return xxhash.xxh3_64_intdigest(len(salt_bytes).to_bytes(8, "little") + salt_bytes + lora_bytes)


def block_keys(token_ids: Sequence[int], block_size_tokens: int, parent: int) -> list[int]:
    """Keys of the full blocks of token_ids in prompt order, shape (len(token_ids) // block_size_tokens,), uint64 > 0.

    parent: `root_key` for a prompt's start, else the key of the block before. A key is xxh3 of the block's token ids
    seeded with its parent's key: 51 us for 4,096 tokens in blocks of 16.
    """
    raw = array("I", token_ids).tobytes()
    digest, step, key = xxhash.xxh3_64_intdigest, block_size_tokens * BYTES_PER_TOKEN, parent
    # 0 marks an empty slot in the tables, so 1 replaces it.
    return [key := digest(raw[at : at + step], key) or 1 for at in range(0, len(raw) - step + 1, step)]


class BlockIndex:
    """Block key -> the replicas that hold it. Its size is bounded by the capacities of the replicas."""

    def __init__(self) -> None:
        self._holders = KeyTable()
        self._bits: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def nbytes(self) -> int:
        """Bytes held, all replicas together, without those of `ExactBlocks` and `MirrorBlocks`."""
        return self._holders.nbytes

    @property
    def replica_ids(self) -> list[str]:
        """The replicas known here, in order of arrival."""
        return list(self._bits)

    def add_replica(self, replica_id: str) -> None:
        """Make room for a replica. A known one changes nothing. Raises ValueError beyond MAX_REPLICAS."""
        if replica_id in self._bits:
            return
        taken = sum(self._bits.values())
        bit = ~taken & (taken + 1)
        if bit >> MAX_REPLICAS:
            raise ValueError(f"an index holds {MAX_REPLICAS} replicas. {replica_id!r} would be one more")
        self._bits[replica_id] = bit

    def remove_replica(self, replica_id: str) -> None:
        """Forget a replica that is gone, with all its blocks. Unknown ids are ignored."""
        if replica_id in self._bits:
            self.clear(replica_id)
            del self._bits[replica_id]

    def store(self, replica_id: str, keys: Iterable[int]) -> None:
        """The replica holds these blocks from now on."""
        holders, bit = self._holders, self._bits[replica_id]
        for key in keys:
            # Most blocks are on one replica only, so try the cheap case first.
            before = holders.put(key, bit)
            if before & ~bit:
                holders.put(key, before | bit)

    def discard(self, replica_id: str, keys: Iterable[int]) -> None:
        """The replica no longer holds these blocks. Blocks it never held are ignored."""
        holders, bit = self._holders, self._bits[replica_id]
        for key in keys:
            rest = holders.pop(key) & ~bit
            if rest:
                holders.put(key, rest)

    def clear(self, replica_id: str) -> None:
        """The replica holds nothing any more: one pass of numpy over the table, 10 ms per 100,000 blocks."""
        keys, masks = self._holders.items()
        masks &= ~np.uint64(self._bits[replica_id])
        kept = masks != 0
        self._holders.replace(keys[kept], masks[kept])

    def holds(self, replica_id: str, key: int) -> bool:
        """Whether the replica holds this block."""
        return bool(self._holders.get(key) & self._bits[replica_id])

    def match(self, keys: Sequence[int]) -> dict[str, int]:
        """Per replica, how many of the prompt's first blocks it holds without a gap, 0..len(keys)."""
        ends = self._holders.narrow(keys, sum(self._bits.values()))
        return {replica_id: next(d for bits, d in ends if bits & bit) for replica_id, bit in self._bits.items()}


class ExactBlocks:
    """The blocks that one replica's engine reports: applies its KV events to the index.

    An engine names blocks by its own hash. Our keys are computed from the token ids of its BlockStored events. A map
    from engine hash to our key finds them again. Events are idempotent: engines report a reused block again.
    """

    def __init__(self, index: BlockIndex, replica_id: str, capacity_blocks: int) -> None:
        """capacity_blocks: the engine's KV blocks of this medium. Beyond them events were missed: see `stored`."""
        index.add_replica(replica_id)
        self.replica_id = replica_id
        self.capacity_blocks = capacity_blocks
        self.orphans = 0
        self.overflows = 0
        self._index = index
        self._own_keys = KeyTable()

    def __len__(self) -> int:
        return len(self._own_keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the engine-hash map."""
        return self._own_keys.nbytes

    def stored(
        self,
        block_hashes: Sequence[int | bytes],
        parent_hash: int | bytes | None,
        token_ids: Sequence[int],
        block_size_tokens: int,
        root: int,
    ) -> int:
        """Apply BlockStored. Returns how many blocks are now known, 0 when the chain's start was never seen.

        token_ids: of these blocks alone, shape (len(block_hashes) * block_size_tokens,).
        root: `root_key` of the event's salt and LoRA, used when parent_hash is None.
        A block whose parent is unknown is counted in `orphans` and left out, because an unknown prefix cannot match.
        When the replica would hold more than it can, removals were missed. Then everything it reported is dropped, and
        `overflows` counts that.
        """
        parent = root if parent_hash is None else self._own_keys.get(_engine_key(parent_hash))
        keys = block_keys(token_ids, block_size_tokens, parent)
        if not parent or len(keys) != len(block_hashes):
            self.orphans += len(block_hashes)
            return 0
        if len(self._own_keys) + len(keys) > self.capacity_blocks:
            new = sum(_engine_key(block_hash) not in self._own_keys for block_hash in block_hashes)
            if len(self._own_keys) + new > self.capacity_blocks:
                self.overflows += 1
                self.cleared()
                return 0
        put = self._own_keys.put
        for block_hash, key in zip(block_hashes, keys, strict=True):
            put(_engine_key(block_hash), key)
        self._index.store(self.replica_id, keys)
        return len(keys)

    def removed(self, block_hashes: Iterable[int | bytes]) -> None:
        """Apply BlockRemoved. Unknown blocks are ignored."""
        pop = self._own_keys.pop
        keys = [key for block_hash in block_hashes if (key := pop(_engine_key(block_hash)))]
        self._index.discard(self.replica_id, keys)

    def cleared(self) -> None:
        """Apply AllBlocksCleared. Call it also after a gap, a restart or any doubt."""
        self._own_keys.clear()
        self._index.clear(self.replica_id)

    def close(self) -> None:
        """The replica is gone."""
        self._own_keys.clear()
        self._index.remove_replica(self.replica_id)


class MirrorBlocks:
    """The blocks that one replica should hold, estimated from what was sent to it: an LRU of its true capacity.

    Evicts as the engine does: least recently used prompt first, and within a prompt its last block first, because a
    block without its predecessors is worth nothing.
    """

    def __init__(self, index: BlockIndex, replica_id: str, capacity_blocks: int) -> None:
        """capacity_blocks: the engine's KV blocks, >= 1."""
        index.add_replica(replica_id)
        self.replica_id = replica_id
        self.capacity_blocks = capacity_blocks
        self._index = index
        self._used_at = KeyTable()  # key -> its newest place in the queue, counted from 1 on
        self._queue = array("Q")  # keys in order of use. A key used again leaves a stale place behind
        self._first = 1  # the place of _queue[0]
        self._head = 0  # offset of the oldest place not yet checked

    def __len__(self) -> int:
        return len(self._used_at)

    @property
    def nbytes(self) -> int:
        """Bytes of the recency queue and its map."""
        return self._used_at.nbytes + len(self._queue) * self._queue.itemsize

    def used(self, keys: Sequence[int]) -> None:
        """A prompt of these blocks was sent there. Evicts what no longer fits."""
        put, queue = self._used_at.put, self._queue
        place = self._first + len(queue)
        new = []
        for key in reversed(keys):
            queue.append(key)
            if not put(key, place):
                new.append(key)
            place += 1
        self._index.store(self.replica_id, new)
        excess = len(self._used_at) - self.capacity_blocks
        if excess > 0:
            self._index.discard(self.replica_id, self._evict(excess))
        if len(queue) > 2 * self.capacity_blocks + len(keys):
            self._compact()

    def cleared(self) -> None:
        """The replica's cache was reset."""
        self._used_at.clear()
        self._queue = array("Q")
        self._head = 0
        self._index.clear(self.replica_id)

    def close(self) -> None:
        """The replica is gone."""
        self._used_at.clear()
        self._queue = array("Q")
        self._index.remove_replica(self.replica_id)

    def _evict(self, count: int) -> list[int]:
        evicted: list[int] = []
        while len(evicted) < count:
            key = self._queue[self._head]
            if self._used_at.get(key) == self._first + self._head:
                self._used_at.pop(key)
                evicted.append(key)
            self._head += 1
        return evicted

    def _compact(self) -> None:
        keys, places = self._used_at.items()
        order = np.argsort(places)
        keys = keys[order]
        self._queue = array("Q", keys.tobytes())
        self._first, self._head = 1, 0
        self._used_at.replace(keys, np.arange(1, len(keys) + 1, dtype=np.uint64))


def _engine_key(block_hash: int | bytes) -> int:
    """An engine's block hash as a table key: its last 8 bytes. Engines send sha256 digests or 64-bit integers."""
    if isinstance(block_hash, bytes):
        return int.from_bytes(block_hash[-8:], "little") or 1
    return (block_hash & 0xFFFF_FFFF_FFFF_FFFF) or 1
