"""Starts a process that serves HTTP, waits until it answers, and ends it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping

from benchmarks.load.client import new_session

START_TIMEOUT_S = 180


@contextlib.contextmanager
def process(
    command: list[str], url: str, env: Mapping[str, str] | None = None, timeout_s: float = START_TIMEOUT_S
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is up once its URL answers. Asked to stop at the end and waited for. env: besides our own."""
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **(env or {})}
    )
    try:
        asyncio.run(until_up(child, url, timeout_s))
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()


async def until_up(child: subprocess.Popen[bytes], url: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until the URL answers 200. A proxy without its application says 404."""
    give_up = time.perf_counter() + timeout_s
    async with new_session(5) as session:
        while time.perf_counter() < give_up:
            if child.poll() is not None:
                raise SystemExit(f"{' '.join(child.args)} ended with status {child.returncode}")  # type: ignore[arg-type]  # a list of str
            with contextlib.suppress(Exception):
                async with session.get(url) as reply:
                    if reply.status == 200:
                        return
            await asyncio.sleep(0.25)
    raise SystemExit(f"{url} did not answer within {timeout_s} s")
