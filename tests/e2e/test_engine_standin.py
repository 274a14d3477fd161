"""The stand-in frontier answers as a provider would, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from serving.engine.standin import Standin, StandinConfig
from tests.e2e.conftest import END_TO_END, MODELS, ROOT, SMALL

pytestmark = END_TO_END

ASK = {"model": SMALL, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Say hi."}]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config() -> StandinConfig:
    return StandinConfig(
        model=SMALL,
        model_path=str(MODELS / SMALL),
        port=free_port(),
        max_context_tokens=2048,
        max_concurrent_requests=4,
        kv_cache_gib=0.5,
        cpu_threads=2,
        enforce_eager=True,
        tool_parser="hermes",
        api_key="loopback-secret",
    )


def members(pgid: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == pgid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standin(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Standin, None]:
    settings = config()
    with Standin(settings, tmp_path_factory.mktemp("standin") / "log") as running:
        began = time.perf_counter()
        await asyncio.to_thread(running.wait_ready, timeout_s=500)
        print(f"ready after {time.perf_counter() - began:.1f} s")
        yield running


async def post(standin: Standin, path: str, key: str = "loopback-secret") -> httpx.Response:
    async with httpx.AsyncClient(base_url=standin.base_url, timeout=120) as client:
        return await client.post(path, json=ASK, headers={"authorization": f"Bearer {key}"})


async def test_chat_completions_with_cached_tokens_in_the_usage(standin: Standin) -> None:
    reply = await post(standin, "/v1/chat/completions")
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] is not None


async def test_messages_for_the_anthropic_client(standin: Standin) -> None:
    reply = await post(standin, "/v1/messages")
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["type"] == "message"
    assert body["content"][0]["text"]
    assert body["usage"]["output_tokens"] > 0


async def test_stranger_without_the_key_is_refused(standin: Standin) -> None:
    reply = await post(standin, "/v1/chat/completions", key="guess")
    assert reply.status_code == 401


def kill_the_parent(settings: str, log: Path) -> list[int]:
    """Start a process that starts a stand-in, kill it, and say which processes of the stand-in outlive it for long."""
    code = (
        "import sys, time; from pathlib import Path; from serving.engine.standin import Standin, StandinConfig\n"
        "s = Standin(StandinConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])); s.start()\n"
        "print(s._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, settings, str(log)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert members(group)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.perf_counter() + 90
    while members(group) and time.perf_counter() < deadline:
        time.sleep(0.1)
    return members(group)


async def test_nothing_is_left_when_the_parent_is_killed(models: Path, tmp_path: Path) -> None:
    settings = config().model_copy(update={"api_key": None}).model_dump_json()
    assert await asyncio.to_thread(kill_the_parent, settings, tmp_path / "log") == []
