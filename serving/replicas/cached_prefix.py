"""Finds how many of a prompt's first tokens each replica has cached."""

from collections.abc import Sequence
from typing import NamedTuple

from routing.replicas.kv_blocks import BlockIndex, block_keys, root_key
from serving.replicas.replica import TrackedReplica
from serving.replicas.routed_prompt import RoutedPrompt


class PromptKeys:
    """The keys of a prompt's full KV blocks, computed once for each block size."""

    __slots__ = ("_by_size", "_prompt")

    def __init__(self, prompt: RoutedPrompt) -> None:
        self._prompt = prompt
        self._by_size: dict[int, list[int]] = {}

    def of(self, replica: TrackedReplica) -> list[int]:
        """The keys in the replica's block size, which must be known."""
        size = replica.block_size_tokens
        assert size is not None
        if size not in self._by_size:
            root = root_key(self._prompt.cache_salt, self._prompt.lora_name)
            self._by_size[size] = block_keys(self._prompt.prompt_token_ids, size, root)
        return self._by_size[size]


class CachedPrefix(NamedTuple):
    """Tokens of a prompt that a replica need not compute: first those in its KV cache, then those in host memory."""

    cached_tokens: int
    host_tokens: int


def cached_prefixes(
    keys: PromptKeys, input_tokens: int, replicas: Sequence[TrackedReplica], index: BlockIndex, host_index: BlockIndex
) -> list[CachedPrefix]:
    """What each replica has of a prompt of `input_tokens`, in the order of `replicas`.

    index: blocks in the replicas' KV caches. host_index: blocks in their host memory.
    """
    in_gpu: dict[int, dict[str, int]] = {}  # block size -> blocks per replica
    in_host: dict[int, dict[str, int]] = {}
    found = []
    for replica in replicas:
        size = replica.block_size_tokens or 0
        cached_blocks = host_blocks = 0
        if replica.blocks is not None and size:
            # The last token is always computed, so a block that holds it cannot be reused.
            usable = keys.of(replica)[: (input_tokens - 1) // size]
            if size not in in_gpu:
                in_gpu[size] = index.match(usable)
            cached_blocks = replica.cached_blocks(usable, in_gpu[size][replica.replica_id])
            if replica.host is not None:
                if size not in in_host:
                    in_host[size] = host_index.match(usable)
                host_blocks = max(0, in_host[size][replica.replica_id] - cached_blocks)
        found.append(CachedPrefix(cached_blocks * size, host_blocks * size))
    return found
