"""Three replicas on real engines: what is expected to be cached is what the engine finds, come what may."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
import zmq
import zmq.asyncio

from benchmarks.load.tiny_model import write_model
from routing.records import ReplicaMode
from routing.replicas.kv_blocks import BlockIndex, ExactBlocks, block_keys, root_key
from serving.engine.client import EngineClient
from serving.engine.config import EngineConfig
from serving.engine.deployment import engine_deployment
from serving.engine.vllm_flags import GIB
from serving.errors import Tier1Failed
from serving.replicas.kv_events import KvFollower, KvSource
from serving.replicas.tracker import ReplicaTracker
from serving.request.call import Call
from serving.request.frame import Frame
from tests.e2e.conftest import END_TO_END, ROOT, SMALL, collect
from tests.e2e.stack import free_port

pytestmark = END_TO_END

NewCall = Callable[..., Call]
BLOCK = 32
SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "max_context_tokens": 2048,
    "max_concurrent_requests": 8,
    "kv_cache_gib": 0.02,
    "block_size_tokens": BLOCK,
    "step_tokens": 512,
    "cpu_threads": 1,
    "enforce_eager": True,
}


@pytest.fixture(scope="module")
def weights(models: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("tiny"), models / SMALL))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def replicas(ray_local: None, weights: str) -> AsyncGenerator[tuple[EngineClient, Any, ReplicaTracker], None]:
    """(the tier, its handle, its tracker) once all three engines are followed."""
    from ray import serve

    config = EngineConfig(**SETTINGS, model_path=weights, replicas=3, max_queued_requests=64)
    handle = serve.run(engine_deployment("replicas", config), name="replicas", route_prefix=None)
    tier = EngineClient(handle, config)
    assert tier.tracker is not None
    await tier.probe()
    await followed(tier.tracker, 3)
    yield tier, handle, tier.tracker
    tier.tracker.close()
    serve.delete("replicas")


async def until(true: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - nothing there announces itself
            await asyncio.sleep(0.01)


async def followed(tracker: ReplicaTracker, count: int, within_s: float = 240) -> None:
    """Until so many replicas are followed."""

    def synced() -> int:
        return sum(replica.follower is not None and replica.follower.synced for replica in tracker.replicas.values())

    await until(lambda: synced() >= count, within_s)


def body(*texts: str) -> dict[str, Any]:
    """A conversation of these turns, the user's first."""
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": messages, "max_tokens": 2, "temperature": 0.0}


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(["river", "stone", "cloud", "green", "seven", "paper", "light"]) for _ in range(count))


async def expected_and_found(tier: EngineClient, call: Call) -> tuple[int | None, int | None]:
    """(cached tokens that the choice counted on, cached tokens that the engine reports)."""
    frames = await collect(tier.draft(call))
    choice, usage = frames[0].replica_choice, frames[-1].usage
    assert choice is not None
    assert usage is not None
    assert choice.mode is ReplicaMode.EXACT
    return choice.expected_cached_tokens, usage.cached_tokens


def conversations(new_call: NewCall) -> Iterator[Call]:
    """Shared system prompts, growing conversations, tenants and new prompts in turn."""
    for n in range(60):
        group, turn = n % 4, n // 4
        if n % 5 == 4:
            yield new_call(body(words(1000 + n, 150)))
        elif n % 2:
            yield new_call(
                body(*(words(group * 100 + t, 60) for t in range(2 * (turn % 5) + 1))), salt=f"tenant {group}"
            )
        else:
            yield new_call(body(words(group, 200) + words(2000 + n, 30)))


async def test_expected_cached_tokens_are_what_the_engine_finds(
    replicas: tuple[EngineClient, Any, ReplicaTracker], new_call: NewCall
) -> None:
    tier, _, tracker = replicas
    counts = [await expected_and_found(tier, call) for call in conversations(new_call)]
    wrong = [pair for pair in counts if pair[0] != pair[1]]
    assert len(wrong) <= len(counts) // 100, wrong
    assert sum(found or 0 for _, found in counts) > 3000
    assert tracker.open_requests == 0


async def test_block_is_as_large_as_the_replica_says(replicas: tuple[EngineClient, Any, ReplicaTracker]) -> None:
    """By it the capacity of host memory is counted in blocks."""
    _, handle, _ = replicas
    for facts in await handle.broadcast("record_replica_metadata").results_async(timeout_s=60):
        assert facts["kv_blocks"] * facts["kv_block_bytes"] == pytest.approx(SETTINGS["kv_cache_gib"] * GIB, rel=0.01)
        assert facts["host_blocks"] == 0


async def test_prompt_of_one_tenant_is_never_reused_for_another(
    replicas: tuple[EngineClient, Any, ReplicaTracker], new_call: NewCall
) -> None:
    """Measured in the engine."""
    tier, _, _ = replicas
    shared = body(words(64, 300))
    await expected_and_found(tier, new_call(shared, salt="one"))
    own = await expected_and_found(tier, new_call(shared, salt="one"))
    others = [await expected_and_found(tier, new_call(shared, salt=f"another {n}")) for n in range(6)]
    assert own[1] == own[0]
    assert (own[1] or 0) > 200
    assert others == [(0, 0)] * 6


async def test_the_ingress_ids_are_the_only_tokenization(
    replicas: tuple[EngineClient, Any, ReplicaTracker], new_call: NewCall
) -> None:
    """The text of this body says nothing: engine, events and choice all go by the ids that came with it."""
    from dataclasses import replace

    tier, _, _ = replicas
    ids = new_call(body(words(77, 200))).prompt_token_ids
    for n in range(2):
        call = replace(new_call(body("x")), prompt_token_ids=ids)
        frames = await collect(tier.draft(call))
        assert frames[-1].usage is not None
        assert frames[-1].usage.input_tokens == len(ids)
        assert frames[-1].usage.cached_tokens == (len(ids) - 1) // BLOCK * BLOCK * n


async def test_reset_cache_leaves_no_ghost(
    replicas: tuple[EngineClient, Any, ReplicaTracker], new_call: NewCall
) -> None:
    tier, handle, tracker = replicas
    asked = body(words(5, 300))
    await expected_and_found(tier, new_call(asked))
    assert await handle.broadcast("reset_cache").results_async(timeout_s=60) == [True] * 3
    await asyncio.sleep(1)
    assert sum(len(replica.blocks or ()) for replica in tracker.replicas.values()) == 0
    assert await expected_and_found(tier, new_call(asked)) == (0, 0)


def process_at(endpoint: str) -> psutil.Process:
    """The engine process that listens at an address."""
    port = int(endpoint.rpartition(":")[2])
    return next(
        psutil.Process(c.pid)
        for c in psutil.net_connections("tcp4")
        if c.pid and c.status == psutil.CONN_LISTEN and c.laddr.port == port
    )


@pytest.mark.parametrize("victim", ["engine", "replica"])
async def test_killed_replica_leaves_no_ghost_and_loses_no_request(
    replicas: tuple[EngineClient, Any, ReplicaTracker], new_call: NewCall, victim: str
) -> None:
    """What ran there fails as the cascade expects it, everything after is answered by the others."""
    tier, _, tracker = replicas
    await followed(tracker, 2)  # the first victim's successor may still be starting
    asked = body(words(8, 300))
    frames = await collect(tier.draft(new_call(asked)))
    holder = frames[-1].replica_id or ""
    follower = tracker.replicas[holder].follower
    assert follower is not None
    engine = process_at(follower.source.endpoint)
    running = [asyncio.create_task(collect(tier.draft(new_call(asked | {"max_tokens": 40})))) for _ in range(4)]
    await until(lambda: tracker.open_requests == 4, 10)
    (engine if victim == "engine" else engine.parent()).send_signal(signal.SIGKILL)
    await asyncio.sleep(1)
    replica = tracker.replicas.get(holder)
    assert replica is None or len(replica.blocks or ()) == 0
    async with asyncio.timeout(60):
        outcomes: list[list[Frame] | BaseException] = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(outcome, list | Tier1Failed) for outcome in outcomes)
    for n in range(12):
        answered = await collect(tier.draft(new_call(body(words(n, 100)))))
        assert answered[-1].replica_id != holder
    assert tracker.open_requests == 0
    assert sum(replica.load.outstanding for replica in tracker.replicas.values()) == 0


# One engine, restarted under its address, and a network that loses what it should carry


class Relay:
    """Passes an engine's events on, or loses them."""

    def __init__(self, endpoint: str) -> None:
        context = zmq.asyncio.Context.instance()
        self._incoming, self._outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
        self._incoming.subscribe(b"")
        self._incoming.connect(endpoint)
        self.endpoint = f"tcp://127.0.0.1:{self._outgoing.bind_to_random_port('tcp://127.0.0.1')}"
        self.losing = False
        self.lost = 0

    async def run(self) -> None:
        while True:
            frames = await self._incoming.recv_multipart()
            if self.losing:
                self.lost += 1
            else:
                await self._outgoing.send_multipart(frames)


@asynccontextmanager
async def engine_at(folder: str, port: int, weights: str) -> AsyncGenerator[httpx.AsyncClient, None]:
    """vLLM's own server with its events at fixed addresses; killed at the end, as an engine that crashes."""
    config = EngineConfig(**SETTINGS, model_path=weights)
    events = {
        "enable_kv_cache_events": True,
        "endpoint": f"ipc://{folder}/events",
        "replay_endpoint": f"ipc://{folder}/replay",
    }
    flags = config.flags() | {"kv_events_config": json.dumps(events), "host": "127.0.0.1", "port": port}
    code = (
        "import json, sys; from serving.engine.vllm_engine import serve_openai; serve_openai(json.loads(sys.argv[1]))"
    )
    child = subprocess.Popen(  # noqa: ASYNC220 - starts in milliseconds
        [sys.executable, "-c", code, json.dumps(flags)],
        cwd=ROOT,
        env=os.environ | config.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            give_up = time.perf_counter() + 240
            while True:
                try:
                    if (await client.get("/health")).status_code == 200:
                        break
                except httpx.HTTPError:
                    assert child.poll() is None, "the engine ended"
                    assert time.perf_counter() < give_up, "the engine did not start"
                await asyncio.sleep(0.2)
            yield client
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


async def complete(client: httpx.AsyncClient, ids: list[int]) -> None:
    sent = {"model": "tiny", "prompt": ids, "max_tokens": 1, "cache_salt": "s"}
    (await client.post("/v1/completions", json=sent)).raise_for_status()


def believed(follower: KvFollower, ids: list[int]) -> int:
    """Blocks of a prompt that the follower takes the engine to hold."""
    return follower.blocks._index.match(block_keys(ids, BLOCK, root_key("s")))["engine"]


async def test_lost_events_and_an_engine_restarted_in_place_leave_no_ghost(weights: str) -> None:
    """Everything the engine held before is forgotten a second after, whatever the new one has been asked meanwhile."""
    port = free_port()
    prompts = [list(range(start, start + 4 * BLOCK)) for start in (100, 1000, 2000, 3000)]
    with tempfile.TemporaryDirectory() as folder:
        relay = Relay(f"ipc://{folder}/events")
        source = KvSource(relay.endpoint, f"ipc://{folder}/replay")
        follower = KvFollower(source, BLOCK, ExactBlocks(BlockIndex(), "engine", 10_000))
        tasks = [asyncio.create_task(relay.run()), asyncio.create_task(follower.run())]
        try:
            async with engine_at(folder, port, weights) as client:
                await complete(client, prompts[0])
                await until(lambda: believed(follower, prompts[0]) == 4, 10)
                relay.losing = True
                await complete(client, prompts[1])
                await until(lambda: relay.lost > 0, 10)
                relay.losing = False
                await complete(client, prompts[2])
                await until(lambda: [believed(follower, p) for p in prompts[:3]] == [4, 4, 4], 10)
                assert follower.counts.purges == 0
            async with engine_at(folder, port, weights) as client:
                await complete(client, prompts[3])
                await asyncio.sleep(1)  # the follower has to notice that the numbers begin again
                await until(lambda: believed(follower, prompts[3]) == 4, 10)
                assert [believed(follower, p) for p in prompts[:3]] == [0, 0, 0]
                assert follower.counts.restarts >= 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# Several gateways


async def test_gateway_processes_hear_of_each_others_bookings(models: Path, tmp_path: Path) -> None:
    """A stack of its own around engines that answer at once: what is shared here is the load, not a cache."""
    port = free_port()
    overrides = {
        "GATEWAY__PORT": port,
        "GATEWAY__REPLICAS": 2,
        "GATEWAY__SECRET_FILE": str(tmp_path / "secret"),
        "LEDGER__URL": f"sqlite:///{tmp_path}/ledger.sqlite3",
        "TIER1__REPLICAS": 3,
        "ROUTER": None,
    }
    child = subprocess.Popen(  # noqa: ASYNC220 - starts in milliseconds
        [sys.executable, "-m", "serving", "serve", "deploy/profiles/noop.yaml"],
        cwd=ROOT,
        env=os.environ | {f"STACK_{name}": json.dumps(value) for name, value in overrides.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ask = body(words(1, 50)) | {"model": "tier1"}
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            heard: set[str] = set()
            give_up = time.perf_counter() + 180
            while heard != {"1.0"}:  # either process answers; both have to have heard of the other
                assert child.poll() is None, "the stack ended"
                assert time.perf_counter() < give_up, f"gateways hear {heard}"
                await asyncio.sleep(0.5)
                with contextlib.suppress(httpx.HTTPError):
                    answers = [await client.post("/v1/chat/completions", json=ask) for _ in range(8)]
                    pages = [(await client.get("/metrics")).text for _ in range(8)]
                    if all(answer.status_code == 200 for answer in answers):
                        gauge = re.compile(r"^tierwise_gateways_heard(?:{.*})? (.+)$", re.MULTILINE)
                        heard = {value for page in pages for value in gauge.findall(page)}
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(120)
