"""Ray's own HTTP proxy stands between a client and the gateway: what it adds must not repeat, hold or hide anything.

No engine: no-op tiers on Ray Serve, started as a user starts them, and a scripted frontier that keeps its own books.
"""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
import yaml

from tests.e2e.stack import ROOT, free_port, started
from tests.journey.upstream import ScriptedUpstream, ok, stall

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

STREAM = {"model": "frontier", "messages": [{"role": "user", "content": "hi"}], "stream": True}
LONG_ANSWER_WORDS = 20_000
BACK_WITHIN_S = 60
IDLE = re.compile(r"^tierwise_in_flight_requests 0\.0$", re.MULTILINE)


@dataclass
class Proxied:
    """The running stack, its process and its frontier."""

    http: httpx.AsyncClient
    port: int
    pid: int
    upstream: ScriptedUpstream

    def process(self, name: str) -> psutil.Process:
        """The stack's process whose command line holds `name`."""
        for child in psutil.Process(self.pid).children(recursive=True):
            if name in " ".join(child.cmdline()):
                return child
        raise AssertionError(f"no process {name}")

    async def asked(self, script: Any, body: dict[str, Any]) -> asyncio.Task[httpx.Response]:
        """Send a request; returns when its upstream call has begun."""
        before = self.upstream.calls
        self.upstream.script(script)
        task = asyncio.create_task(self.http.post("/v1/chat/completions", json=body))
        await self.upstream.bell.until(lambda: self.upstream.calls > before, 30)
        return task

    async def answers_again(self) -> None:
        """Until a request succeeds; Serve starts a new gateway by itself."""
        async with asyncio.timeout(BACK_WITHIN_S):
            while True:
                try:
                    if (await self.http.get("/v1/models")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)

    async def nothing_in_flight(self) -> None:
        """Until the gateway's gauge says that it answers nobody."""
        async with asyncio.timeout(30):
            while True:
                if IDLE.search((await self.http.get("/metrics")).text):
                    return
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def proxied(models: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Proxied, None]:
    folder: Path = tmp_path_factory.mktemp("proxied")
    tree = yaml.safe_load((ROOT / "deploy" / "profiles" / "noop.yaml").read_text())
    port = free_port()
    tree["gateway"] |= {"port": port, "secret_file": str(folder / "secret")}
    tree["ledger"]["url"] = f"sqlite:///{folder}/ledger.sqlite3"
    async with ScriptedUpstream() as upstream:
        tree["frontier"]["providers"][0]["base_url"] = upstream.base_url
        profile = folder / "profile.yaml"
        profile.write_text(yaml.safe_dump(tree))
        stack = started(profile, folder / "serve.log")
        process = await asyncio.to_thread(stack.__enter__)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                yield Proxied(http, port, process.pid, upstream)
        finally:
            await asyncio.to_thread(stack.__exit__, None, None, None)


async def test_reader_that_stops_reading_holds_no_slot_and_a_bounded_buffer(proxied: Proxied) -> None:
    """The proxy takes what the client does not, so the answer's own length bounds it and nothing waits."""
    answer = " ".join(f"word{i}" for i in range(LONG_ANSWER_WORDS))
    gateway, proxy = proxied.process(":gateway"), proxied.process("ProxyActor")
    before = gateway.memory_info().rss + proxy.memory_info().rss
    proxied.upstream.script(ok(answer))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", proxied.port))
        raw = json.dumps(STREAM).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
        assert client.recv(1)
        await proxied.upstream.idle()
        await proxied.nothing_in_flight()
        held = gateway.memory_info().rss + proxy.memory_info().rss - before
    assert held < 64 * 2**20


async def test_gateway_killed_mid_stream_breaks_the_stream_and_repeats_nothing(proxied: Proxied) -> None:
    """A cut stream has no [DONE], and nobody pays for a second answer that nobody reads."""
    calls = proxied.upstream.calls
    proxied.upstream.script(stall("one two three four", after=2))
    async with proxied.http.stream("POST", "/v1/chat/completions", json=STREAM) as reply:
        lines = reply.aiter_lines()
        assert (await anext(lines)).startswith("data: {")
        os.kill(proxied.process(":gateway").pid, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            assert "data: [DONE]" not in [line async for line in lines]
    assert proxied.upstream.calls == calls + 1
    await proxied.answers_again()
    assert proxied.upstream.calls == calls + 1, "the new gateway was given the old request"


async def test_gateway_killed_before_its_answer_is_an_error_and_not_asked_again(proxied: Proxied) -> None:
    """Ray retries what no replica has accepted, and nothing else."""
    calls = proxied.upstream.calls
    request = await proxied.asked(stall("one two three", after=0), {**STREAM, "stream": False})
    os.kill(proxied.process(":gateway").pid, signal.SIGKILL)
    assert (await request).status_code >= 500
    await proxied.answers_again()
    assert proxied.upstream.calls == calls + 1
