"""One replica as a tracker sees it: its queue, and what is known of its cache."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from routing.records import ReplicaMode
from routing.replicas.kv_blocks import MAX_REPLICAS, BlockIndex, ExactBlocks, MirrorBlocks
from routing.replicas.load import ReplicaLoad
from serving.replicas.kv_events import EventCounts, KvFollower, KvSource

log = logging.getLogger(__name__)


class TrackedReplica:
    """A replica's load and blocks.

    blocks: what its engine reports, or a model of its cache. None: nothing is known of its cache.
    host: a model of the KV blocks that it keeps in host memory, when it does. Engines do not report those with the
    tenant's salt.
    under_way: blocks of the prompts that are there now. An engine can reuse a new block as soon as its prompt is
    scheduled, and keeps it until that prompt ends, but reports it late. Until it does, we count the blocks of requests
    already sent there. Otherwise requests that share a new prefix and come together would be spread over all replicas.
    """

    def __init__(
        self,
        replica_id: str,
        facts: Mapping[str, Any],
        load: ReplicaLoad,
        index: BlockIndex,
        host_index: BlockIndex,
        counts: EventCounts,
        *,
        follow: bool,
        unreachable_after_s: float,
    ) -> None:
        """Start to follow the replica, or to model its cache.

        facts: `block_size_tokens`, `kv_blocks`, `host_blocks` and `kv_events` (list of sources). Each may be absent.
        follow: read its events when it publishes any. Needs a running event loop then.
        """
        self.replica_id = replica_id
        self.load = load
        self.block_size_tokens: int | None = facts.get("block_size_tokens")
        self.capacity_blocks: int = facts.get("kv_blocks") or 0
        self.blocks: ExactBlocks | MirrorBlocks | None = None
        self.host: MirrorBlocks | None = None
        self.under_way: Counter[int] = Counter()
        self.follower: KvFollower | None = None
        self.task: asyncio.Task[None] | None = None
        self._index = index
        self._unreachable_after_s = unreachable_after_s
        if not self.block_size_tokens or not self.capacity_blocks or len(index.replica_ids) >= MAX_REPLICAS:
            return
        if facts.get("host_blocks"):
            self.host = MirrorBlocks(host_index, replica_id, facts["host_blocks"])
        sources: Sequence[Mapping[str, str]] = facts.get("kv_events") or ()
        # With several engines in a replica, we cannot know which one answers a request.
        if follow and len(sources) == 1:
            exact = ExactBlocks(index, replica_id, self.capacity_blocks)
            self.follower = KvFollower(KvSource(**sources[0]), self.block_size_tokens, exact, counts=counts)
            self.task = asyncio.create_task(self.follower.run(), name=f"kv-events-{replica_id}")
            self.task.add_done_callback(_log_failure)
            self.blocks = exact
        else:
            self._model()

    @property
    def mode(self) -> ReplicaMode:
        """How its cache is known: reported, modelled or not at all."""
        if self.blocks is None:
            return ReplicaMode.FALLBACK
        return ReplicaMode.EXACT if isinstance(self.blocks, ExactBlocks) else ReplicaMode.MIRROR

    @property
    def healthy(self) -> bool:
        """False just after its events broke off, because the engine's own process sends them."""
        lost = self.follower is not None and self.follower.lost_at is not None
        return not (lost and isinstance(self.blocks, ExactBlocks))

    @property
    def is_modelled(self) -> bool:
        """Whether `used` has to be called with the blocks that it was sent."""
        return self.host is not None or isinstance(self.blocks, MirrorBlocks)

    def update_mode(self, now: float) -> None:
        """Model a running replica whose events stay away. Follow it again when they come back."""
        follower = self.follower
        if follower is None or self.task is None:
            return
        away_s = 0.0 if follower.lost_at is None else now - follower.lost_at
        if isinstance(self.blocks, ExactBlocks):
            if self.task.done() or away_s > self._unreachable_after_s:
                self.blocks.cleared()
                self._model()
        elif follower.synced and not self.task.done():
            follower.forget()  # the model's entries are in the index, too
            self.blocks = follower.blocks

    def used(self, keys: Sequence[int]) -> None:
        """It was sent a prompt of these blocks. Only models take note of them."""
        for blocks in (self.blocks, self.host):
            if isinstance(blocks, MirrorBlocks):
                blocks.used(keys)

    def begins(self, keys: Sequence[int]) -> None:
        """A prompt of these blocks goes there. `ends` takes it back."""
        self.under_way.update(keys)

    def ends(self, keys: Sequence[int]) -> None:
        """That prompt is over, however it ended."""
        for key in keys:
            if self.under_way[key] > 1:
                self.under_way[key] -= 1
            else:
                del self.under_way[key]

    def cached_blocks(self, keys: Sequence[int], reported: int) -> int:
        """How many of a prompt's first blocks will be there when it comes.

        reported: how many of them the index lists for this replica.
        """
        count = reported
        if isinstance(self.blocks, ExactBlocks):  # a model has been told of them already
            while count < len(keys) and (
                keys[count] in self.under_way or self._index.holds(self.replica_id, keys[count])
            ):
                count += 1
        return count

    def close(self) -> None:
        """Stop following it and forget all it held."""
        if self.task is not None:
            self.task.cancel()
        for blocks in (self.blocks, self.host):
            if blocks is not None:
                blocks.close()

    def _model(self) -> None:
        self.blocks = MirrorBlocks(self._index, self.replica_id, self.capacity_blocks)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("following KV events failed; the replica's cache is modelled instead", exc_info=error)
