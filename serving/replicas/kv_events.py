"""Follows one engine's KV events: what its prefix cache holds, block for block, as the engine itself reports it.

vLLM publishes numbered batches over ZeroMQ and keeps the latest for replay. There is no snapshot. So the follower reads
the replay first, then the stream. Twice a second it checks that it has missed nothing. A gap is replayed. All blocks
are dropped when a gap cannot be replayed, when the engine restarted, and when the connection broke. A block that we
forget costs one prefill. A block that we believe in but that is gone misleads every decision.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from routing.replicas.kv_blocks import ExactBlocks, root_key

CHECK_S = 0.5  # so that a batch nobody delivered is found within a second
REPLAY_TIMEOUT_S = 1.0  # publishers answer between two batches, or every 0.1 s when there are none
# The loop that routes requests also applies events, at 380,000 blocks a second. This many take about 0.7 ms.
BLOCKS_PER_TURN = 256
END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)
GPU = "GPU"  # vLLM's word for the engine's own memory, also on a CPU
# Positions of what we read in the arrays that vLLM sent before its events were maps.
ARRAY_FIELDS = {
    "BlockStored": ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name"),
    "BlockRemoved": ("block_hashes", "medium"),
    "AllBlocksCleared": (),
}


class KvSource(msgspec.Struct, frozen=True):
    """The addresses at which an engine publishes."""

    endpoint: str
    replay_endpoint: str


@dataclass(slots=True)
class EventCounts:
    """Counts what happened to the events, for the metrics. All followers of a process share one."""

    batches: int = 0
    gaps: int = 0
    restarts: int = 0
    cleared: int = 0
    lost: int = 0
    purges: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """One message of a publisher.

    mark: a hash of its bytes. It tells batches with the same number from two engines apart.
    """

    seq: int
    mark: int
    events: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class KvFollower:
    """Keeps `blocks` equal to what one engine's GPU holds. `run` it in a task. Cancelling the task ends it.

    synced: whether the engine's reports have been read up to now.
    lost_at: perf_counter when the connection broke. None while it stands.
    """

    source: KvSource
    block_size_tokens: int
    blocks: ExactBlocks
    counts: EventCounts = field(default_factory=EventCounts)
    synced: bool = False
    lost_at: float | None = None
    _last: Batch | None = None
    _replayed_to: int = -1  # of a replay that ran ahead of the stream
    _purges: int = 0
    _named_blocks: int = 0
    _began: asyncio.Event = field(default_factory=asyncio.Event)
    _dialogue: asyncio.Lock = field(default_factory=asyncio.Lock)
    _applying: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Follow until cancelled."""
        async with _subscribed(self.source.endpoint) as (stream, monitor), asyncio.TaskGroup() as group:
            group.create_task(self._watch(monitor))
            group.create_task(self._check())
            await self._began.wait()
            while True:
                await self._live(read_batch(await stream.recv_multipart()))

    async def _check(self) -> None:
        while True:
            await self._catch_up()
            self._began.set()
            await asyncio.sleep(CHECK_S)

    async def _live(self, batch: Batch) -> None:
        """Apply the next batch of the stream."""
        async with self._applying:
            if batch.seq <= self._replayed_to:
                return  # the replay brought it while it waited in the socket
            self._replayed_to = -1
            last = -1 if self._last is None else self._last.seq
            if batch.seq == last + 1:
                await self._apply(batch)
                return
            if batch.seq <= last:
                self.counts.restarts += 1
                self.forget()
            else:
                self.counts.gaps += 1
        if not await self._catch_up():
            self.forget()  # what was removed in the gap would be believed in

    async def _catch_up(self) -> bool:
        """Check that the publisher is still the one we know, and read what we do not have. False: no answer.

        We ask again for the last batch that we have, number N. If the publisher's batch N differs from ours or is
        missing, the engine restarted. If its oldest batch is newer than N, we missed some. In both cases we drop all
        blocks and read everything again.
        """
        async with self._dialogue:
            while True:
                known, purges = self._last, self._purges
                try:
                    async with aclosing(self._replay(0 if known is None else known.seq)) as batches:
                        first = await anext(batches, None)
                        async with self._applying:
                            if self._purges != purges:
                                continue
                            if known is not None and (first is None or first.mark != known.mark):
                                self.counts.restarts += first is None or first.seq == known.seq
                                self.forget()
                                continue
                            if known is None and first is not None:
                                await self._replayed(first)
                            async for batch in batches:
                                await self._replayed(batch)
                except TimeoutError:
                    return False
                self.synced = self.lost_at is None
                return True

    async def _replayed(self, batch: Batch) -> None:
        if self._last is None or batch.seq > self._last.seq:
            self._replayed_to = batch.seq
            await self._apply(batch)

    async def _replay(self, start: int) -> AsyncGenerator[Batch, None]:
        """The batches that the publisher still has, from number `start` on. Raises TimeoutError."""
        # Every question has its own socket, so a late answer cannot be taken for the next one.
        dealer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        dealer.linger = 0
        try:
            dealer.connect(self.source.replay_endpoint)
            await dealer.send_multipart([b"", start.to_bytes(8, "big")])
            while True:
                async with asyncio.timeout(REPLAY_TIMEOUT_S):
                    _, *frames = await dealer.recv_multipart()
                if frames[1] == END_OF_REPLAY:
                    return
                yield read_batch(frames)
        finally:
            dealer.close()

    async def _apply(self, batch: Batch) -> None:
        self.counts.batches += 1
        self._last = batch
        purges = self._purges
        for event in batch.events:
            self._named_blocks += apply_event(event, self)
            if self._named_blocks >= BLOCKS_PER_TURN:
                self._named_blocks = 0
                await asyncio.sleep(0)
                if self._purges != purges:
                    return

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """Notice a broken connection at once, because the process at its other end is the engine's."""
        while True:
            event = (await recv_monitor_message(monitor))["event"]
            if event == zmq.EVENT_DISCONNECTED:
                self.counts.lost += 1
                self.lost_at = time.perf_counter()
                self.forget()
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.lost_at = None  # `synced` follows with the next check

    def forget(self) -> None:
        """Forget what is known. It is read again within CHECK_S."""
        self.counts.purges += 1
        self._purges += 1
        self.synced = False
        self._last, self._replayed_to = None, -1
        self.blocks.cleared()


def apply_event(event: Mapping[str, Any], follower: KvFollower) -> int:
    """Apply one event to the follower's blocks. Returns how many blocks it named."""
    blocks = follower.blocks
    kind = event.get("type")
    if kind == "AllBlocksCleared":
        follower.counts.cleared += 1
        blocks.cleared()
        return 1
    hashes = event.get("block_hashes", ())
    if event.get("medium") not in (None, GPU) or event.get("group_idx"):
        return 0  # offloaded blocks, or further kinds of attention: the first kind stands for all
    if kind == "BlockRemoved":
        blocks.removed(hashes)
    elif kind == "BlockStored" and event["block_size"] == follower.block_size_tokens:
        root = event_root(event)
        if root is not None:
            blocks.stored(hashes, event["parent_block_hash"], event["token_ids"], event["block_size"], root)
    else:
        follower.counts.unknown += 1
    return len(hashes)


def event_root(event: Mapping[str, Any]) -> int | None:
    """Root key of a BlockStored event. None when token ids alone do not say what its blocks hold (images, embeddings).

    vLLM lists per block what else went into its hash: the LoRA's name, (item, offset) of images, and in a prompt's
    first block the cache salt. Source: generate_block_hash_extra_keys of vLLM 0.32, untagged by to_event_extra_keys.
    """
    lora_name = event.get("lora_name")
    others = [list(keys or ()) for keys in event.get("extra_keys") or ()]
    if lora_name is not None:
        for keys in others:
            keys.remove(lora_name)
    salt = others[0] if others and event["parent_block_hash"] is None else []
    if len(salt) > 1 or any(keys for keys in others if keys is not salt) or not all(isinstance(k, str) for k in salt):
        return None
    return root_key(salt[0] if salt else "", lora_name)


def read_batch(frames: Sequence[bytes]) -> Batch:
    """A batch from the frames of one message: topic, 8-byte big-endian number, msgpack [time, events, …].

    Events may be maps or arrays.
    """
    _, number, payload = frames
    _, events, *_ = msgspec.msgpack.decode(payload)
    named = [event if isinstance(event, dict) else _as_map(event) for event in events]
    return Batch(int.from_bytes(number, "big"), xxhash.xxh3_64_intdigest(payload), named)


def _as_map(event: Sequence[Any]) -> dict[str, Any]:
    kind, *values = event
    return {"type": kind, **dict(zip(ARRAY_FIELDS.get(kind, ()), values, strict=False))}


@asynccontextmanager
async def _subscribed(endpoint: str) -> AsyncGenerator[tuple[zmq.asyncio.Socket, zmq.asyncio.Socket], None]:
    """Yields a SUB socket that is about to be connected, and the socket that tells of its connection."""
    stream = zmq.asyncio.Context.instance().socket(zmq.SUB)
    stream.linger = 0
    stream.set_hwm(0)  # what is dropped here would have to be replayed
    monitor = stream.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        stream.subscribe(b"")
        stream.connect(endpoint)
        yield stream, monitor
    finally:
        stream.disable_monitor()
        stream.close()
