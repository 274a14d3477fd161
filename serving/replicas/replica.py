"""One replica on a tracker: its queue, and the best knowledge of its cache that can be had."""

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

    blocks: what its engine reports, or a model of its cache; None: nothing is known of it. host: a model of the KV
    blocks that it keeps in host memory besides, when it does; engines do not report those with the tenant's salt.
    under_way: blocks of the prompts that are there now. An engine finds a block for the next prompt as soon as the
    first one is scheduled and does not evict it before that one ends, but reports it later; prompts with one new prefix
    that come together would all be sent to different replicas.
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
        """facts: `block_size_tokens`, `kv_blocks`, `host_blocks` and `kv_events` (list of sources); each may be absent.

        follow: by its events, when it publishes any; call it in the event loop then.
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
        # With several engines in a replica, nobody says which one answers a request.
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
        """How much is known."""
        if self.blocks is None:
            return ReplicaMode.FALLBACK
        return ReplicaMode.EXACT if isinstance(self.blocks, ExactBlocks) else ReplicaMode.MIRROR

    @property
    def healthy(self) -> bool:
        """False while its events have just broken off: the process that sent them is the engine's."""
        lost = self.follower is not None and self.follower.lost_at is not None
        return not (lost and isinstance(self.blocks, ExactBlocks))

    @property
    def is_modelled(self) -> bool:
        """Whether it has to be told what it was sent."""
        return self.host is not None or isinstance(self.blocks, MirrorBlocks)

    def update_mode(self, now: float) -> None:
        """Model a replica whose events stay away although it runs, and follow it again when they come back."""
        follower = self.follower
        if follower is None or self.task is None:
            return
        away_s = 0.0 if follower.lost_at is None else now - follower.lost_at
        if isinstance(self.blocks, ExactBlocks):
            if self.task.done() or away_s > self._unreachable_after_s:
                self.blocks.cleared()
                self._model()
        elif follower.synced and not self.task.done():
            follower.forget()  # what the model said is in the index, too
            self.blocks = follower.blocks

    def used(self, keys: Sequence[int]) -> None:
        """It was sent a prompt of these blocks; only what is modelled wants to know."""
        for blocks in (self.blocks, self.host):
            if isinstance(blocks, MirrorBlocks):
                blocks.used(keys)

    def begins(self, keys: Sequence[int]) -> None:
        """A prompt of these blocks goes there; `ends` takes it back."""
        self.under_way.update(keys)

    def ends(self, keys: Sequence[int]) -> None:
        """It is over, however it ended."""
        for key in keys:
            if self.under_way[key] > 1:
                self.under_way[key] -= 1
            else:
                del self.under_way[key]

    def cached_blocks(self, keys: Sequence[int], reported: int) -> int:
        """How many of a prompt's first blocks will be there when it comes. reported: how many its index entries say."""
        count = reported
        if isinstance(self.blocks, ExactBlocks):  # a model was told what it was sent
            while count < len(keys) and (
                keys[count] in self.under_way or self._index.holds(self.replica_id, keys[count])
            ):
                count += 1
        return count

    def close(self) -> None:
        """It is gone, and with it all it held."""
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
