"""The stand-in frontier answers as a provider would, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.standin import Standin, StandinConfig
from tests.e2e.conftest import MODELS, ROOT, SMALL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

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


@pytest.fixture(scope="module")
def standin(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Standin, StandinConfig]]:
    settings = config()
    with Standin(settings, tmp_path_factory.mktemp("standin") / "log") as running:
        began = time.perf_counter()
        running.wait_ready(timeout_s=500)
        print(f"ready after {time.perf_counter() - began:.1f} s")
        yield running, settings


def post(standin: tuple[Standin, StandinConfig], path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"authorization": "Bearer loopback-secret"}
    return httpx.post(standin[0].base_url + path, json=body, headers=headers, timeout=120)


def test_chat_completions_with_cached_tokens_in_the_usage(standin: tuple[Standin, StandinConfig]) -> None:
    reply = post(standin, "/v1/chat/completions", ASK)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] is not None


def test_messages_for_the_anthropic_client(standin: tuple[Standin, StandinConfig]) -> None:
    reply = post(standin, "/v1/messages", ASK)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["type"] == "message"
    assert body["content"][0]["text"]
    assert body["usage"]["output_tokens"] > 0


def test_stranger_without_the_key_is_refused(standin: tuple[Standin, StandinConfig]) -> None:
    reply = httpx.post(standin[0].base_url + "/v1/chat/completions", json=ASK, timeout=30)
    assert reply.status_code == 401


def test_nothing_is_left_when_the_parent_is_killed(models: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from serving.standin import Standin, StandinConfig\n"
        "s = Standin(StandinConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])); s.start()\n"
        "print(s._process.pid, flush=True); time.sleep(600)"
    )
    settings = config().model_copy(update={"api_key": None}).model_dump_json()
    with subprocess.Popen(
        [sys.executable, "-c", code, settings, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert members(group)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.perf_counter() + 90
    while members(group) and time.perf_counter() < deadline:
        time.sleep(0.1)
    assert members(group) == []
