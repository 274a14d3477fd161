"""What a follower knows of an engine's cache, with vLLM's own publisher and its own event types at the other end."""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch, ZmqEventPublisher

from routing.replicas.kv_blocks import BlockIndex, ExactBlocks, block_keys, root_key
from serving.replicas.kv_events import KvFollower, KvSource, event_root, read_batch

SIZE = 4
SALT = "tenant salt"
A, B, C = [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HOST_IP", "127.0.0.1")


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def stored(first: int, *blocks: list[int], parent: int | None = None, **changes: Any) -> BlockStored:
    """Blocks numbered from `first` on, after block `parent`."""
    fields: dict[str, Any] = {
        "block_hashes": [digest(first + i) for i in range(len(blocks))],
        "parent_block_hash": None if parent is None else digest(parent),
        "token_ids": [token for block in blocks for token in block],
        "block_size": SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [(SALT,) if parent is None and i == 0 else None for i in range(len(blocks))],
        "group_idx": 0,
    }
    return BlockStored(**fields | changes)


def removed(*numbers: int) -> BlockRemoved:
    return BlockRemoved(block_hashes=[digest(n) for n in numbers], medium="GPU", group_idx=0)


class Publisher:
    """vLLM's publisher on free ports of loopback, and a way to lose what it sends."""

    def __init__(self, endpoint: str = "tcp://*:0", replay_endpoint: str = "tcp://*:0", **options: Any) -> None:
        self.zmq = ZmqEventPublisher(0, endpoint, replay_endpoint, **options)
        config = self.zmq.get_publisher_config()
        assert config.replay_endpoint is not None
        self.source = KvSource(config.endpoint, config.replay_endpoint)

    def publish(self, *events: Any) -> None:
        self.zmq.publish(KVEventBatch(ts=time.time(), events=list(events)))

    def lose(self, *events: Any) -> None:
        """A batch that nobody receives: numbered and kept for replay, never sent."""
        while not self.zmq._event_queue.empty() or self.zmq._event_queue.unfinished_tasks:
            time.sleep(0.001)
        seq = next(self.zmq._seq_gen)
        self.zmq._buffer.append((seq, msgspec.msgpack.encode(KVEventBatch(ts=time.time(), events=list(events)))))

    def close(self) -> None:
        self.zmq.shutdown()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    publisher.close()


@asynccontextmanager
async def following(source: KvSource) -> AsyncGenerator[KvFollower, None]:
    index = BlockIndex()
    follower = KvFollower(source, SIZE, ExactBlocks(index, "replica", 1000))
    task = asyncio.create_task(follower.run())
    try:
        await until(lambda: follower.synced)
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - nothing there announces itself
            await asyncio.sleep(0.005)


def depth(follower: KvFollower, *blocks: list[int], salt: str = SALT) -> int:
    """How many of these blocks the follower believes the replica to hold."""
    keys = block_keys([token for block in blocks for token in block], SIZE, root_key(salt))
    return follower.blocks._index.match(keys)["replica"]


async def test_stored_blocks_are_found_under_their_own_keys(publisher: Publisher) -> None:
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        publisher.publish(stored(3, C, parent=2))
        await until(lambda: depth(follower, A, B, C) == 3)
        publisher.publish(removed(3))
        await until(lambda: depth(follower, A, B, C) == 2)


async def test_block_of_one_tenant_is_no_block_of_another(publisher: Publisher) -> None:
    """The salt is part of the key."""
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        await until(lambda: depth(follower, A, B) == 2)
        assert depth(follower, A, B, salt="another") == 0
        assert depth(follower, A, B, salt="") == 0


async def test_what_happened_before_is_replayed_to_a_newcomer(publisher: Publisher) -> None:
    publisher.publish(stored(1, A))
    publisher.publish(stored(2, B, parent=1), removed(1))
    publisher.publish(stored(1, A))
    async with following(publisher.source) as follower:
        await until(lambda: depth(follower, A, B) == 2)


async def test_reused_block_reported_again_changes_nothing(publisher: Publisher) -> None:
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        publisher.publish(stored(1, A, B))
        publisher.publish(removed(2))
        await until(lambda: follower.counts.batches == 3)
        assert (depth(follower, A, B), len(follower.blocks)) == (1, 1)


async def test_cleared_cache_is_empty(publisher: Publisher) -> None:
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        await until(lambda: depth(follower, A) == 1)
        publisher.publish(AllBlocksCleared())
        await until(lambda: len(follower.blocks) == 0)
        assert follower.counts.cleared == 1


async def test_gap_is_replayed(publisher: Publisher) -> None:
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        await until(lambda: depth(follower, A, B) == 2)
        publisher.lose(removed(2))
        publisher.publish(stored(3, C, parent=1))
        await until(lambda: depth(follower, A, C) == 2)
        assert (depth(follower, A, B), follower.counts.purges) == (1, 0)


async def test_lost_batch_that_nothing_follows_is_found_within_a_second(publisher: Publisher) -> None:
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        await until(lambda: depth(follower, A, B) == 2)
        publisher.lose(removed(2))
        await until(lambda: depth(follower, A, B) == 1, within_s=5)  # CHECK_S and a busy machine
        assert follower.counts.purges == 0


async def test_gap_that_cannot_be_replayed_purges_all_but_what_is_known_anew() -> None:
    publisher = Publisher(buffer_steps=2)
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        await until(lambda: depth(follower, A, B) == 2)
        publisher.lose(removed(1))
        publisher.lose(removed(2))
        publisher.lose(stored(10, C))
        publisher.publish(stored(11, A, parent=10))
        await until(lambda: depth(follower, C, A) == 2)
        assert (depth(follower, A), follower.counts.purges >= 1) == (0, True)
    publisher.close()


@pytest.mark.parametrize("batches", [0, 1, 3], ids=["silent", "as-many-batches", "more-batches"])
async def test_engine_restarted_in_place_leaves_no_ghost(batches: int) -> None:
    """A new engine counts from 0 again at the same address; whatever number it has reached, nothing old is believed."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own paths are too long for sockets
        await restart(f"ipc://{folder}/events", f"ipc://{folder}/replay", batches)


async def restart(endpoint: str, replay_endpoint: str, batches: int) -> None:
    first = Publisher(endpoint, replay_endpoint)
    first.publish(stored(1, A, B))
    async with following(first.source) as follower:
        await until(lambda: depth(follower, A, B) == 2)
        first.close()
        second = Publisher(endpoint, replay_endpoint)
        for n in range(batches):
            second.publish(stored(10 + n, C, parent=None if n == 0 else 9 + n))
        await until(lambda: depth(follower, A) == 0)
        await until(lambda: follower.synced and depth(follower, *[C] * batches) == batches)
        second.close()


async def test_sequence_that_goes_back_is_a_restart(publisher: Publisher) -> None:
    """Also over a connection that stays, as through a proxy."""
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A))
        publisher.publish(stored(2, B, parent=1))
        await until(lambda: depth(follower, A, B) == 2)
        payload = msgspec.msgpack.encode(KVEventBatch(ts=0.0, events=[stored(10, C)]))
        await follower._live(read_batch([b"", (0).to_bytes(8, "big"), payload]))
        assert (follower.counts.restarts, follower.counts.purges) == (1, 1)


async def test_lost_connection_purges_at_once_and_says_since_when() -> None:
    publisher = Publisher()
    async with following(publisher.source) as follower:
        publisher.publish(stored(1, A, B))
        await until(lambda: depth(follower, A, B) == 2)
        publisher.close()
        await until(lambda: follower.lost_at is not None, within_s=5)
        assert (len(follower.blocks), follower.synced, follower.counts.lost) == (0, False, 1)


async def test_other_media_groups_and_block_sizes_are_left_out(publisher: Publisher) -> None:
    async with following(publisher.source) as follower:
        publisher.publish(
            stored(1, A, medium="CPU"), stored(2, A, group_idx=1), stored(3, [1, 2], block_size=2), stored(4, B)
        )
        await until(lambda: depth(follower, B) == 1)
        assert len(follower.blocks) == 1
        assert follower.counts.unknown == 1


async def test_events_go_to_loopback_alone(publisher: Publisher) -> None:
    """They carry the users' token ids; a star and port 0 mean the address in VLLM_HOST_IP."""
    assert publisher.source.endpoint.startswith("tcp://127.0.0.1:")
    assert publisher.source.replay_endpoint.startswith("tcp://127.0.0.1:")


def as_map(event: BlockStored) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(event))
    return decoded


@pytest.mark.parametrize(
    ("event", "root"),
    [
        (stored(1, A), root_key(SALT)),
        (stored(1, A, extra_keys=None), root_key("")),
        (stored(1, A, extra_keys=[("adapter", SALT)], lora_name="adapter"), root_key(SALT, "adapter")),
        (stored(1, A, B, extra_keys=[("adapter",), ("adapter",)], lora_name="adapter"), root_key("", "adapter")),
        (stored(1, A, extra_keys=[("image", 0), (SALT,)]), None),
        (stored(1, A, extra_keys=[(("image", 0), SALT)]), None),
        (stored(2, B, parent=1, extra_keys=[("digest of an embedding",)]), None),
    ],
    ids=["salt", "no-salt", "adapter", "adapter-alone", "two-strings", "image", "embedding"],
)
def test_root_holds_what_went_into_the_hash_besides_tokens(event: BlockStored, root: int | None) -> None:
    assert event_root(as_map(event)) == root


def test_arrays_of_older_engines_are_read_as_maps() -> None:
    events = [
        ["BlockStored", [1, 2], None, [*A, *B], SIZE, None, "GPU", None],
        ["BlockRemoved", [1], "GPU"],
        ["AllBlocksCleared"],
    ]
    batch = read_batch([b"", (7).to_bytes(8, "big"), msgspec.msgpack.encode([0.0, events])])
    assert batch.seq == 7
    assert [event["type"] for event in batch.events] == ["BlockStored", "BlockRemoved", "AllBlocksCleared"]
    assert (batch.events[0]["token_ids"], batch.events[1]["block_hashes"]) == ([*A, *B], [1])
