"""Send generated requests to a running stack and log its answers, to compare a forecast with their ledger."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import aiohttp
import msgspec
from tqdm import tqdm

from serving.errors import AuditError

LOOPBACK = ("127.0.0.1", "::1")  # generated traffic is for one's own machine, never for a provider
READY_WITHIN_S = 300.0
POLL_S = 1.0
ANSWER_WITHIN_S = 300.0


def send_all(
    lines: Iterable[bytes],
    url: str,
    out: Path,
    requests: int,
    concurrency: int,
    max_tokens: int,
    ready_within_s: float = READY_WITHIN_S,
) -> None:
    """Send `requests` of the logged requests as model `auto`, `concurrency` at a time. One line of `out` each.

    Begins when every tier is ready. Requests for a tier that is still loading would give a forecast the wrong shares.
    Raises AuditError when url is not on this machine, or a tier is not ready within ready_within_s.
    """
    if urlsplit(url).hostname not in LOOPBACK:
        raise AuditError(
            f"--send {url}: generated traffic goes to this machine alone, for example http://127.0.0.1:8000"
        )
    asyncio.run(until_ready(url, ready_within_s))
    with out.open("wb") as log:
        asyncio.run(_send(lines, url, log, requests, concurrency, max_tokens))


async def until_ready(url: str, within_s: float) -> None:
    """Wait until every tier has generated a token. Raises AuditError saying which has not."""
    until = time.perf_counter() + within_s
    said = "it does not answer"
    async with new_session() as session:
        while True:
            try:
                async with session.get(f"{url}/readyz") as reply:
                    if reply.status == 200:
                        return
                    said = (await reply.text())[:200]
            except (aiohttp.ClientError, TimeoutError) as error:
                said = f"it does not answer ({type(error).__name__})"
            if time.perf_counter() > until:
                raise AuditError(f"--send {url}: not ready within {within_s:g} s: {said}")
            await asyncio.sleep(min(POLL_S, within_s))


async def _send(
    lines: Iterable[bytes], url: str, log: BinaryIO, requests: int, concurrency: int, max_tokens: int
) -> None:
    rows = iter(lines)
    with tqdm(total=requests, desc="sending", unit="req") as progress:
        async with new_session() as session, asyncio.TaskGroup() as group:

            async def worker() -> None:
                for line in rows:
                    logged = msgspec.json.decode(line)
                    log.write(msgspec.json.encode(await _ask(session, url, logged, max_tokens)) + b"\n")
                    progress.update()

            for _ in range(concurrency):
                group.create_task(worker())


async def _ask(session: aiohttp.ClientSession, url: str, logged: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    body = {
        "model": "auto",
        "messages": logged["request"]["messages"],
        "max_tokens": max_tokens,
        "metadata": {"category": logged["category"]},
    }
    row: dict[str, Any] = {"timestamp": time.time(), "category": logged["category"], "request": body}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            return row | {"status": reply.status, "response": await reply.json(content_type=None)}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return row | {"status": 599, "response": {"error": {"message": type(error).__name__}}}


def new_session() -> aiohttp.ClientSession:
    """A client that opens as many connections as there are requests under way."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    )
