"""An engine that dies is noticed, its requests fail honestly, and the replica is replaced."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.engine.client import EngineClient
from serving.errors import Tier1Failed
from serving.request.call import Call
from tests.e2e.conftest import END_TO_END, collect

pytestmark = END_TO_END

SHORT = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4, "temperature": 0.0}
LONG = {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 900, "min_tokens": 800}


def engine_cores() -> list[int]:
    """The vLLM engine processes that descend from this test run (Ray's workers are children of its raylet)."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])

    def ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid, name in names.items() if name.startswith("VLLM::EngineCore") and ours(pid)]


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def answers_again(tier1: EngineClient, call: Callable[[], Call], began: float) -> str:
    """Wait until a draft succeeds; the replica that wrote it."""
    async with asyncio.timeout(500):
        while True:
            try:
                frames = await collect(tier1.draft(call()))
            except Tier1Failed:  # until Serve has taken the dead replica out
                await asyncio.sleep(0.5)
            else:
                print(f"answered again after {time.perf_counter() - began:.1f} s")
                return frames[-1].replica_id or ""


@pytest.mark.parametrize("victim", ["engine", "replica"])
async def test_killed_process_fails_its_requests_and_is_replaced(
    tier1: EngineClient, tier1_handle: Any, new_call: Callable[..., Call], victim: str
) -> None:
    """Kill -9. No draft hangs or ends as if complete, nothing is orphaned, a fresh replica takes over."""
    before = (await tier1_handle.stats.remote()).replica_id
    (core,) = engine_cores()
    draft = tier1.draft(new_call(LONG, stream=True))
    await anext(draft)
    os.kill(core if victim == "engine" else parent_of(core), signal.SIGKILL)
    began = time.perf_counter()
    with pytest.raises(Tier1Failed):
        async with asyncio.timeout(60):
            await collect(draft)
    print(f"request failed after {time.perf_counter() - began:.2f} s")
    assert await answers_again(tier1, lambda: new_call(SHORT), began) != before
    (fresh,) = engine_cores()
    assert fresh != core
    assert not exists(core)
